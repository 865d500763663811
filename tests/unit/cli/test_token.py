"""What `gatepass token` says; tests/integration/test_token_command.py runs it."""

from typing import Any

import jwt

from gatepass.cli.token import described
from gatepass.config.model import Config
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


def shown(token: Token, settings: Config | None = None) -> dict[str, Any]:
    return described(settings or config(), "corp", FRESH, token, NOW_S)


def test_a_jwt_shows_its_safe_claims_and_never_itself():
    text = jwt.encode({"iss": "https://sso", "email": "me@corp.example", "exp": NOW_S}, "k" * 32, algorithm="HS256")
    reported = shown(Token(Secret(text), 0.0, 300.0, TokenKind.JWT, LifetimeSource.JWT))
    assert reported["claims"] == {"iss": "https://sso", "exp": "2025-10-09 08:53:20Z (in 0 s)"}
    assert text not in str(reported)


def test_each_placement_is_reported_with_its_upstreams():
    other = {"base_url": "https://other.example/v1", "credential": "corp"}
    settings = config(
        embed=other,
        query={**other, "token_placement": {"query": "access_token"}},
        both={**other, "token_placement": {"headers": {"X-A": "{token}", "X-B": "v={token}"}, "query": "key"}},
        keyless={"base_url": "https://other.example/v1"},
    )
    assert shown(Token(Secret("t"), 0.0, 300.0), settings)["sent_as"] == [
        "Authorization: Bearer {token}, to chat, embed",
        "?access_token={token}, to query",
        "X-A: {token} and X-B: v={token} and ?key={token}, to both",
    ]


def test_a_token_for_an_mcp_server_is_reported():
    servers = {"search": {"url": "https://tools.example/mcp", "credential": "corp"}}
    settings = Config.model_validate({"credentials": {"corp": CORP}, "mcp": servers})
    assert shown(Token(Secret("t"), 0.0, 300.0), settings)["sent_as"] == [
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
