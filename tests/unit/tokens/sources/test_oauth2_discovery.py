import asyncio
from typing import Any

import pytest

from gatepass.errors import Fault
from gatepass.tokens import FetchFailure, build_source
from gatepass.tokens.sources.oauth2 import REREAD_S, TTL_S, Endpoint, endpoint_in, metadata_urls
from tests.unit.clock import DrivenClock
from tests.unit.tokens.scripted import Answer, Broken, Hang, Mint, ScriptedIssuer, answer, failure_of, oauth2, refused

ISSUER = "https://sso.example/realms/corp"
TOKEN_URL = "https://sso.example/realms/corp/token"
DOCUMENT = {"issuer": ISSUER, "token_endpoint": TOKEN_URL}
FIRST, SECOND = metadata_urls(ISSUER)


def found(**settings: Any):
    return oauth2(**{"token_url": None, "issuer": ISSUER, **settings})


def at(*replies: Any, otherwise: Any = None, **settings: Any):
    issuer = ScriptedIssuer(DrivenClock(), *replies, otherwise=otherwise)
    return issuer, build_source("corp", found(**settings), issuer, issuer.clock)


def asked(issuer: ScriptedIssuer) -> list[str]:
    return [f"{request.method} {request.url}" for request in issuer.requests]


@pytest.mark.parametrize(
    ("issuer", "first", "second"),
    [
        ("https://a.example", "https://a.example/.well-known/openid-configuration", "https://a.example{}"),
        ("https://a.example/", "https://a.example/.well-known/openid-configuration", "https://a.example{}"),
        (
            "https://a.example:8/b/c",
            "https://a.example:8/b/c/.well-known/openid-configuration",
            "https://a.example:8{}/b/c",
        ),
        ("https://a.example/b/", "https://a.example/b/.well-known/openid-configuration", "https://a.example{}/b"),
    ],
)
def test_discovery_document_has_two_possible_urls(issuer, first, second):
    assert metadata_urls(issuer) == (first, second.format("/.well-known/oauth-authorization-server"))


async def test_the_document_names_the_token_endpoint():
    issuer, source = at(answer(DOCUMENT), Mint())
    assert (await source.fetch()).text == "token-1"
    assert asked(issuer) == [f"GET {FIRST}", f"POST {TOKEN_URL}"]
    assert issuer.requests[0].body == b""
    assert dict(issuer.requests[0].headers)[b"accept"] == b"application/json"


@pytest.mark.parametrize("first", [answer({}, 404), Answer(200, b"<html>", ()), answer("no", 500), Answer(302)])
async def test_second_url_is_tried_if_the_first_has_no_document(first):
    issuer, source = at(first, answer(DOCUMENT), Mint())
    await source.fetch()
    assert asked(issuer) == [f"GET {FIRST}", f"GET {SECOND}", f"POST {TOKEN_URL}"]


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (
            answer({"error": "no"}, 404),
            answer({}, 404),
            f"no discovery document of {ISSUER}: sso.example answered 404: no",
        ),
        (Answer(200, b"<html>", ()), answer({}, 404), f"the discovery document of {ISSUER} is not JSON"),
        (
            Answer(302, b"", ((b"location", b"https://evil.example/"),)),
            answer({}, 404),
            f"no discovery document of {ISSUER}: sso.example answered 302, a redirect to evil.example. gatepass",
        ),
        (
            Answer(pieces=[b" " * 1024] * 80),
            None,
            "the reply of sso.example is not a token: the reply is larger than 65536",
        ),
        (Broken(Fault.CONNECT), None, "no connection to sso.example (refused)"),
    ],
)
async def test_missing_discovery_document_is_a_failure_with_the_reason(first, second, reason):
    issuer, source = at(first, *([second] if second else []))
    failure = await failure_of(source.fetch())
    assert failure.reason.startswith(reason)
    assert failure.is_refused is False
    assert all(request.method == "GET" and not request.body for request in issuer.requests)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"issuer": "https://evil.example"}, "names another issuer, https://evil.example. Set issuer exactly as the"),
        ({"issuer": None}, "names another issuer, None"),
        ({"token_endpoint": None}, "contains no token_endpoint"),
        ({"token_endpoint": 5}, "contains no token_endpoint"),
        ({"token_endpoint": "http://sso.example/token"}, "names a token_endpoint that is plain HTTP"),
        ({"token_endpoint": "ftp://sso.example/"}, "names a token_endpoint that expects http://host"),
        ({"token_endpoint": "https://me:pw@sso.example/"}, "names a token_endpoint that holds a user name"),
    ],
)
async def test_no_secret_is_sent_to_the_endpoint_of_a_wrong_document(change, reason):
    issuer, source = at(answer({**DOCUMENT, **change}))
    failure = await failure_of(source.fetch())
    assert failure.reason.startswith(f"the discovery document of {ISSUER} {reason}")
    assert issuer.calls == 1


def test_a_document_that_is_no_object_is_refused():
    with pytest.raises(FetchFailure, match="is not a JSON object"):
        endpoint_in([DOCUMENT], ISSUER, str, mtls=False)


def test_an_issuer_on_loopback_may_be_plain_but_not_with_certificates():
    document = {"issuer": "http://127.0.0.1:9", "token_endpoint": "http://127.0.0.1:9/token"}
    assert endpoint_in(document, "http://127.0.0.1:9", str, mtls=False) == Endpoint("http://127.0.0.1:9/token")
    with pytest.raises(FetchFailure, match="is plain HTTP"):
        endpoint_in(document, "http://127.0.0.1:9", str, mtls=True)


async def test_a_plain_endpoint_of_a_plain_issuer_beyond_loopback_gets_no_secret():
    plain = {"issuer": "http://127.0.0.1:9", "token_endpoint": "http://sso.example/token"}
    issuer, source = at(answer(plain), issuer="http://127.0.0.1:9")
    failure = await failure_of(source.fetch())
    assert "sso.example would receive the secret over plain HTTP" in failure.reason
    assert issuer.calls == 1


@pytest.mark.parametrize(
    ("aliases", "mtls", "plain"),
    [
        ({"token_endpoint": "https://mtls.sso.example/token"}, "https://mtls.sso.example/token", TOKEN_URL),
        ({"revocation_endpoint": "https://x"}, TOKEN_URL, TOKEN_URL),
        ("nonsense", TOKEN_URL, TOKEN_URL),
    ],
)
def test_mtls_uses_the_alias_endpoint_if_present(aliases, mtls, plain):
    document = {**DOCUMENT, "mtls_endpoint_aliases": aliases}
    assert endpoint_in(document, ISSUER, str, mtls=True).token_url == mtls
    assert endpoint_in(document, ISSUER, str, mtls=False).token_url == plain


@pytest.mark.parametrize(
    ("expected", "methods"),
    [
        (["client_secret_basic", "private_key_jwt"], ("client_secret_basic", "private_key_jwt")),
        (["<b>", 5, None, "none", "x" * 50], ("none",)),
        (["a"] * 9, ("a",) * 8),
        ("client_secret_basic", ()),
        (None, ()),
    ],
)
def test_only_names_are_read_from_the_issuers_supported_methods(expected, methods):
    document = {**DOCUMENT, "token_endpoint_auth_methods_supported": expected}
    assert endpoint_in(document, ISSUER, str, mtls=False).methods == methods


@pytest.mark.parametrize(
    ("methods", "reply", "advice"),
    [
        (["private_key_jwt", "client_secret_basic", "client_secret_basic"], refused(), "private_key_jwt, basic"),
        (["client_secret_post"], refused(), None),
        (["private_key_jwt"], refused("invalid_scope", 400), None),
        ([], refused(), None),
    ],
)
async def test_a_refused_client_authentication_names_the_supported_ones(methods, reply, advice):
    _, source = at(answer({**DOCUMENT, "token_endpoint_auth_methods_supported": methods}), reply)
    failure = await failure_of(source.fetch())
    assert failure.is_refused
    reported = failure.reason.partition("; ")[2]
    assert reported == (f"client_auth is form, and the issuer supports {advice}" if advice else "")


async def test_client_certificates_go_to_the_endpoint_that_the_document_has_for_them(tmp_path):
    document = {**DOCUMENT, "mtls_endpoint_aliases": {"token_endpoint": "https://mtls.sso.example/token"}}
    certified = {"client_secret": None, "client_auth": "mtls", "network": {"client_cert": str(tmp_path / "c.pem")}}
    issuer, source = at(answer(document), Mint(), **certified)
    await source.fetch()
    assert asked(issuer) == [f"GET {FIRST}", "POST https://mtls.sso.example/token"]


async def test_discovery_document_is_read_again_after_its_ttl():
    issuer, source = at(
        answer(DOCUMENT), Mint(), Mint(), answer({**DOCUMENT, "token_endpoint": f"{TOKEN_URL}2"}), Mint()
    )
    await source.fetch()
    await issuer.clock.advance(TTL_S - 1)
    await source.fetch()
    await issuer.clock.advance(1)
    await source.fetch()
    assert asked(issuer) == [
        *(f"GET {FIRST}", f"POST {TOKEN_URL}", f"POST {TOKEN_URL}"),
        *(f"GET {FIRST}", f"POST {TOKEN_URL}2"),
    ]


async def test_after_a_failed_fetch_the_document_is_read_again_but_not_with_every_try():
    issuer, source = at(answer(DOCUMENT), otherwise=answer({"error": "gone"}, 404))
    await failure_of(source.fetch())
    await failure_of(source.fetch())
    assert asked(issuer)[1:] == [f"POST {TOKEN_URL}"] * 2
    await issuer.clock.advance(REREAD_S)
    issuer.replies.extend([answer({**DOCUMENT, "token_endpoint": f"{TOKEN_URL}2"}), Mint()])
    await source.fetch()
    assert asked(issuer)[3:] == [f"GET {FIRST}", f"POST {TOKEN_URL}2"]


@pytest.mark.parametrize("reply", [Broken(Fault.CLOSED), answer({**DOCUMENT, "issuer": "https://evil.example"})])
async def test_last_valid_document_is_used_during_an_outage(reply):
    issuer, source = at(answer(DOCUMENT), Mint())
    await source.fetch()
    await issuer.clock.advance(TTL_S)
    issuer.replies.extend([reply, Mint()])
    assert (await source.fetch()).text == "token-2"
    assert (await source.fetch()).text == "token-3"
    assert asked(issuer)[2:] == [f"GET {FIRST}", f"POST {TOKEN_URL}", f"POST {TOKEN_URL}"]
    await issuer.clock.advance(REREAD_S)
    issuer.replies.extend([answer(DOCUMENT), Mint()])
    await source.fetch()
    assert asked(issuer)[5:] == [f"GET {FIRST}", f"POST {TOKEN_URL}"]


async def test_hanging_discovery_leaves_half_of_the_time_to_the_known_endpoint():
    issuer, source = at(answer(DOCUMENT), Mint(), timeout_s=8.0)
    await source.fetch()
    await issuer.clock.advance(TTL_S)
    issuer.replies.extend([Hang(), Mint()])
    fetched = asyncio.create_task(source.fetch())
    await issuer.clock.advance(3.9)
    assert not fetched.done()
    await issuer.clock.advance(0.1)
    assert (await fetched).text == "token-2"


@pytest.mark.parametrize(
    "replies", [[Hang()], [answer({}, 404, delay_s=4.0), Hang()], [answer(DOCUMENT, delay_s=5.0), Hang()]]
)
async def test_discovery_and_fetch_together_are_bounded_by_the_time_of_the_whole(replies):
    issuer, source = at(*replies, timeout_s=7.0)
    fetched = asyncio.create_task(failure_of(source.fetch()))
    await issuer.clock.advance(6.9)
    assert not fetched.done()
    await issuer.clock.advance(0.1)
    assert (await fetched).reason.startswith(
        "sso.example sent no complete answer within 7 s (credentials.corp.timeout_s)"
    )
    assert issuer.open == 0
