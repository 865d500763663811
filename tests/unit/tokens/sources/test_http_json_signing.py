from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64encode
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from gatepass.config.credential.http_json import Sign
from gatepass.config.references import resolve
from gatepass.tokens.sources.http_json import (
    NONCE_BYTES,
    HttpJsonSource,
    LoginRequestTemplate,
    fresh_nonce,
    request_values,
    sign_request,
    signature,
)
from gatepass.types import OutboundRequest, Secret
from tests.unit.clock import DrivenClock
from tests.unit.tokens.scripted import ScriptedIssuer, failure_of, http_json

NONCE = "00112233445566778899aabbccddeeff"
SECRET = "hmac-secret"
VALUES = request_values(1_800_000_000.75, NONCE)


def by_hand(text: str, algorithm: str = "sha256") -> bytes:
    return hmac.new(SECRET.encode(), text.encode(), algorithm).digest()


def sign(text: str, **more: Any) -> Sign:
    return Sign.model_validate({"secret": Secret(SECRET), "text": text, **more})


def test_the_values_of_a_moment():
    assert VALUES == {
        "timestamp": "1800000000",
        "timestamp_ms": "1800000000750",
        "time": "2027-01-15T08:00:00Z",
        "nonce": NONCE,
    }


def test_a_known_answer():
    """RFC 4231 4.3 (test case 2)."""
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert signature(sign("x"), "Jefe", "what do ya want for nothing?") == expected


@pytest.mark.parametrize("algorithm", ["sha256", "sha1", "sha512"])
def test_each_algorithm_and_encoding(algorithm):
    digest = by_hand("a\nb", algorithm)
    assert signature(sign("x", algorithm=algorithm), SECRET, "a\nb") == digest.hex()
    encoded = signature(sign("x", algorithm=algorithm, encoding="base64"), SECRET, "a\nb")
    assert encoded == b64encode(digest).decode()


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("{app_id}\n{timestamp}\n{nonce}", f"bot\n1800000000\n{NONCE}"),
        ("{q}|{f}|{X-H}", "in query|in form|in header"),
        ("{method} {path}", "POST /v1/login"),
        ("{body}", "f=in+form&app_id=bot"),
        ("{body_sha256}", hashlib.sha256(b"f=in+form&app_id=bot").hexdigest()),
        ("{ts}", "1800000000750"),
    ],
)
def test_the_text_is_made_of_what_is_sent(text, becomes):
    template = LoginRequestTemplate(
        "POST",
        "https://portal.example/v1/login?v=1",
        {"X-H": "in header", "X-Sign": "v1={signature}"},
        {"q": "in query", "ts": "{timestamp_ms}"},
        {"f": "in form", "app_id": "bot"},
    )
    found = sign_request(template, sign(text), SECRET, VALUES)
    assert found == LoginRequestTemplate(
        template.method,
        template.url,
        {"X-H": "in header", "X-Sign": f"v1={by_hand(becomes).hex()}"},
        {"q": "in query", "ts": "1800000000750"},
        template.form,
    )


def test_members_of_a_json_body_are_written_as_json_writes_them():
    document = {"a": True, "b": False, "c": None, "d": 5, "e": 1.5, "f": "x", "n": [1], "ts": "{timestamp:number}"}
    template = LoginRequestTemplate("PUT", "https://portal.example", {"X-Sign": "{signature}"}, document=document)
    found = sign_request(template, sign("{a}{b}{c}{d}{e}{f}{n}{ts}"), SECRET, VALUES)
    assert found.headers == {"X-Sign": by_hand("truefalse51.5x{n}1800000000").hex()}
    assert found.document == {**document, "ts": 1_800_000_000}
    assert sign_request(template, sign("{path}"), SECRET, VALUES).headers == {"X-Sign": by_hand("/").hex()}


def test_query_has_precedence_over_the_body_for_signed_values():
    places = {"a": "header", "s": "{signature}"}
    template = LoginRequestTemplate("POST", "https://x", places, {"a": "query"}, None, {"a": "json"})
    assert sign_request(template, sign("{a}"), SECRET, VALUES).headers["s"] == by_hand("query").hex()


def test_value_of_a_member_is_not_a_placeholder():
    template = LoginRequestTemplate("POST", "https://x", {"s": "{signature}"}, {"a": "{body}"})
    assert sign_request(template, sign("{a}"), SECRET, VALUES).headers["s"] == by_hand("{body}").hex()


def source(clock: DrivenClock, issuer: ScriptedIssuer, nonces: Any = None, **settings: Any) -> HttpJsonSource:
    numbers = iter(range(100))
    return HttpJsonSource("login", http_json(**settings), issuer, clock, nonces or (lambda: f"nonce-{next(numbers)}"))


async def test_each_request_has_a_new_signature():
    clock = DrivenClock()
    issuer = ScriptedIssuer(clock)
    it = source(
        clock,
        issuer,
        json={"app_id": "bot", "timestamp": "{timestamp}", "nonce": "{nonce}", "sign": "{signature}"},
        sign={"secret": SECRET, "text": "{app_id}\n{timestamp}\n{nonce}"},
    )
    await it.fetch()
    await clock.advance(60.0)
    await it.fetch()
    assert [json.loads(request.body) for request in issuer.requests] == [
        {
            "app_id": "bot",
            "timestamp": f"{second}",
            "nonce": f"nonce-{at}",
            "sign": by_hand(f"bot\n{second}\nnonce-{at}").hex(),
        }
        for at, second in enumerate((1_800_000_000, 1_800_000_060))
    ]


async def test_signature_may_be_in_headers_and_the_query():
    clock = DrivenClock()
    issuer = ScriptedIssuer(clock)
    signing = {"secret": SECRET, "text": "{method}{path}{time}{key}", "encoding": "base64"}
    headers = {"Authorization": "HMAC {key}:{signature}", "X-Time": "{time}"}
    await source(
        clock, issuer, method="GET", query={"key": "a b", "s": "{signature}"}, headers=headers, sign=signing
    ).fetch()
    request: OutboundRequest = issuer.requests[0]
    expected = b64encode(by_hand("GET/login2027-01-15T08:00:00Za b")).decode()
    assert parse_qs(urlsplit(request.url).query) == {"key": ["a b"], "s": [expected]}
    assert dict(request.headers)[b"authorization"] == f"HMAC {{key}}:{expected}".encode()
    assert dict(request.headers)[b"x-time"] == b"2027-01-15T08:00:00Z"


async def test_without_sign_braces_are_what_they_are():
    issuer = ScriptedIssuer(DrivenClock())
    await source(issuer.clock, issuer, json={"a": "{nonce}"}, headers={"X-A": "{timestamp}"}).fetch()
    assert issuer.requests[0].body == b'{"a":"{nonce}"}'
    assert dict(issuer.requests[0].headers)[b"x-a"] == b"{timestamp}"


async def test_a_rotated_secret_signs_the_next_request(tmp_path):
    file = tmp_path / "secret"
    file.write_text("first")
    signing = {"secret": resolve(f"${{file:{file}}}", {}), "text": "{nonce}"}
    issuer = ScriptedIssuer(DrivenClock())
    it = source(issuer.clock, issuer, lambda: "n", form={"s": "{signature}"}, sign=signing)
    file.write_text(SECRET)
    await it.fetch()
    assert issuer.requests[0].body == b"s=" + by_hand("n").hex().encode()
    file.unlink()
    assert (await failure_of(it.fetch())).reason.startswith("sign.secret: the file ")
    assert issuer.calls == 1


def test_signing_secret_is_masked_and_placeholders_are_not(tmp_path):
    file = tmp_path / "key"
    file.write_text("api-key-1")
    reference = resolve(f"${{file:{file}}}", {})
    issuer = ScriptedIssuer(DrivenClock())
    it = source(
        issuer.clock,
        issuer,
        headers={"X-Key": reference, "X-Nonce": "{nonce}", "Authorization": "HMAC {signature}"},
        json={"sign": "{signature}", "token": "{timestamp}{nonce}", "pin_secret": "pin-1234"},
        sign={"secret": SECRET, "text": "{nonce}"},
    )
    assert [secret.reveal() for secret in it.secrets()] == ["api-key-1", "HMAC {signature}", "pin-1234", SECRET]


def test_a_secret_that_cannot_be_read_now_is_a_secret_still(tmp_path):
    file = tmp_path / "key"
    file.write_text("api-key-1")
    headers = {"X-Key": resolve(f"${{file:{file}}}", {}), "X-Sign": "{signature}"}
    file.unlink()
    issuer = ScriptedIssuer(DrivenClock())
    it = source(issuer.clock, issuer, headers=headers, sign={"secret": SECRET, "text": "{nonce}"})
    file.write_text("api-key-2")
    assert [secret.reveal() for secret in it.secrets()] == ["api-key-2", SECRET]


def test_a_nonce_is_random_and_long_enough():
    assert len({fresh_nonce() for _ in range(100)}) == 100
    assert len(fresh_nonce()) == 2 * NONCE_BYTES
