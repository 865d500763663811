"""The lines of `gatepass token`; tests/integration/test_token_command.py runs it."""

from typing import Any

import jwt
import pytest
from msgspec import structs

from gatepass.cli.token import report
from gatepass.config.model import Config
from gatepass.documents import TokenStatus
from gatepass.tokens import Token
from gatepass.tokens.lifetime import LifetimeSource, TokenKind
from gatepass.types import Secret
from tests.unit.cli.command_line import run_on
from tests.unit.tokens.statuses import FRESH

NOW_S = 1_760_000_000.0
CORP = {
    "type": "oauth2",
    "token_url": "https://sso.corp.example/oauth/token?x=1",
    "client_id": "i",
    "client_secret": "s",
}


def config(**upstreams: Any) -> Config:
    used = {"chat": {"base_url": "https://llm.example/v1", "credential": "corp"}, **upstreams}
    return Config.model_validate({"credentials": {"corp": CORP}, "upstreams": used})


def lines(token: Token, status: TokenStatus = FRESH, settings: Config | None = None) -> list[tuple[str, str]]:
    return list(report(settings or config(), "corp", status, token, 0.123, NOW_S))


def test_an_opaque_token_is_reported_by_its_life():
    assert lines(Token(Secret("opaque-token"), 0.0, 300.0)) == [
        ("credential", "corp (oauth2)"),
        ("from", "sso.corp.example, in 0.12 s"),
        ("token", "opaque, 12 characters"),
        ("lifetime", "300 s, from the issuer's reply"),
        ("used for", "285 s more; not in its last 5 s, because it could expire on the way"),
        ("refresh", "in 232 s"),
        ("sent as", "Authorization: Bearer {token}, to chat"),
    ]


def test_a_jwt_shows_its_safe_claims_and_never_itself():
    text = jwt.encode({"iss": "https://sso", "email": "me@corp.example", "exp": NOW_S}, "k" * 32, algorithm="HS256")
    reported = lines(Token(Secret(text), 0.0, 300.0, TokenKind.JWT, LifetimeSource.JWT))
    assert reported[3] == ("lifetime", "300 s, from the token")
    assert reported[-2:] == [("claim", "iss: https://sso"), ("claim", "exp: 2025-10-09 08:53:20Z (in 0 s)")]
    assert text not in str(reported)
    assert "me@corp.example" not in str(reported)


FILE = {"type": "file", "path": "/t"}
KEY = Token(Secret("t"), 0.0, None, TokenKind.KEY, LifetimeSource.NONE)


def of_type(**settings: Any) -> Config:
    return Config.model_validate({"credentials": {"corp": settings}, "upstreams": {"u": {"base_url": "https://x"}}})


@pytest.mark.parametrize(
    ("settings", "token", "expected"),
    [
        (
            CORP,
            Token(Secret("t"), 0.0, 240.0, lifetime_source=LifetimeSource.DEFAULT),
            "240 s, from default_ttl_s, because no lifetime was found",
        ),
        (CORP, KEY, "unlimited: a key does not expire"),
        ({"type": "exec", "command": ["mint"]}, Token(Secret("t"), 0.0, 298.642), "298 s, from the program's output"),
        (FILE, Token(Secret("t"), 0.0, 60.0), "60 s, from the file"),
        (FILE, KEY, "until the file changes: the token has no expiry"),
        (CORP, Token(Secret("t"), 0.0, 5.96), "5.9 s, from the issuer's reply"),
    ],
)
def test_the_source_of_the_lifetime_is_named_as_what_it_is(settings, token, expected):
    assert ("lifetime", expected) in lines(token, settings=of_type(**settings))


def test_an_opaque_text_in_a_file_is_no_key():
    """A source without a request shows no time either."""
    reported = lines(KEY, settings=of_type(**FILE))
    assert reported[1:3] == [("from", "the file /t"), ("token", "opaque, 1 characters")]
    assert ("token", "key, 1 characters") in lines(KEY)


def test_a_token_from_the_store_is_marked_as_such():
    reported = lines(Token(Secret("opaque-token"), 0.0, 300.0), structs.replace(FRESH, age_s=100.4))
    assert reported[3] == ("age", "100 s: fetched by another gatepass, read from the store")


def test_a_key_has_no_future_to_show():
    labels = [label for label, _ in lines(KEY, structs.replace(FRESH, expires_in_s=None, next_try_in_s=None))]
    assert labels == ["credential", "from", "token", "lifetime", "sent as"]


def test_each_placement_is_reported_with_its_upstreams():
    other = {"base_url": "https://other.example/v1", "credential": "corp"}
    settings = config(
        embed=other,
        query={**other, "token_placement": {"query": "access_token"}},
        both={**other, "token_placement": {"headers": {"X-A": "{token}", "X-B": "v={token}"}, "query": "key"}},
        keyless={"base_url": "https://other.example/v1"},
    )
    assert [text for label, text in lines(Token(Secret("t"), 0.0, 300.0), FRESH, settings) if label == "sent as"] == [
        "Authorization: Bearer {token}, to chat, embed",
        "?access_token={token}, to query",
        "X-A: {token} and X-B: v={token} and ?key={token}, to both",
    ]


def test_a_token_for_an_mcp_server_is_reported():
    servers = {"search": {"url": "https://tools.example/mcp", "credential": "corp"}}
    settings = Config.model_validate({"credentials": {"corp": CORP}, "mcp": servers})
    assert [text for label, text in lines(Token(Secret("t"), 0.0, 300.0), FRESH, settings) if label == "sent as"] == [
        "Authorization: Bearer {token}, to mcp/search"
    ]


def test_an_expired_token_of_a_file_has_the_advice_of_doctor(tmp_path):
    place = tmp_path / "token"
    place.write_text(jwt.encode({"exp": 1_760_000_000}, "k" * 32, algorithm="HS256"))
    upstreams = "upstreams: {chat: {base_url: 'http://127.0.0.1:9/v1', credential: corp}}\n"
    text = f"credentials: {{corp: {{type: file, path: '{place}'}}}}\n{upstreams}"
    result = run_on(tmp_path / "gatepass.yaml", "token", text=text)
    assert result.exit_code == 1
    assert result.stderr.endswith(" Check the program that writes the token into this file.\n")
