import asyncio

import pytest

from gatepass.errors import Fault
from gatepass.tokens.lifetime import LifetimeSource, TokenKind
from gatepass.tokens.secrets import mask_of
from gatepass.tokens.vendor.fetch import VendorEndpoints, VendorFetch
from gatepass.types import Secret
from tests.unit.tokens.scripted import Broken, Hang, Mint, ScriptedIssuer, answer, failure_of, signed
from tests.unit.tokens.vendor.accounts import entra, present

URL = "https://issuer.example/token?x=1"
IMDS = "http://169.254.169.254/metadata/token"


def vendor_fetch(issuer, settings=None, metadata=None):
    settings = settings or entra(client_secret="a-secret-of-theirs")
    return VendorFetch(
        VendorEndpoints("corp", settings, issuer, issuer.clock, metadata),
        "some-library",
        (Secret("a-secret-of-theirs"),),
    )


async def after(reply):
    """A fetch whose request had this reply."""
    work = vendor_fetch(ScriptedIssuer(present(), reply))
    await work.send("POST", URL, {})
    return work


async def test_requests_go_over_the_hops_transport_with_our_framing():
    issuer = ScriptedIssuer(present())
    given = {"Content-Type": "text/plain", "Host": "elsewhere", "Content-Length": "9", "User-Agent": "theirs"}
    reply = await vendor_fetch(issuer).send("POST", URL, {**given, "Accept-Encoding": "gzip", "X-Count": 3}, b"body")
    assert reply.status == 200
    (asked,) = issuer.requests
    assert (asked.method, asked.url, asked.body) == ("POST", URL, b"body")
    assert dict(asked.headers) == {
        b"accept": b"application/json",
        b"accept-encoding": b"identity",
        b"user-agent": b"theirs",
        b"content-type": b"text/plain",
        b"x-count": b"3",
    }


@pytest.mark.parametrize(
    ("url", "metadata", "goes"),
    [
        ("http://issuer.example/", None, False),
        ("http://issuer.example/", frozenset({"issuer.example"}), True),
        (IMDS, None, False),
        (IMDS, frozenset(), True),
        ("http://169.254.131.2:8081/msi", frozenset(), True),
        ("http://10.0.0.1/msi", frozenset(), False),
        ("http://127.0.0.1:9/msi", None, True),
        ("http://[fe80::1]/msi", frozenset(), True),
    ],
)
async def test_plain_http_is_allowed_to_loopback_and_metadata_servers_only(url, metadata, goes):
    issuer = ScriptedIssuer(present())
    work = vendor_fetch(issuer, metadata=metadata).send("GET", url, {})
    if goes:
        await work
    else:
        failure = await failure_of(work)
        assert "plain HTTP" in failure.reason
        assert "credentials.corp.allow_plain_http: true" in failure.reason
    assert issuer.calls == int(goes)


async def test_metadata_is_not_requested_through_a_proxy():
    issuer = ScriptedIssuer(present())
    settings = entra(managed_identity=True, network={"proxy": "http://proxy.example:3128"})
    failure = await failure_of(vendor_fetch(issuer, settings, metadata=frozenset()).send("GET", IMDS, {}))
    assert ("plain HTTP" in failure.reason, issuer.calls) == (True, 0)


@pytest.mark.parametrize(("method", "body"), [("POST", b""), ("GET", b"client_secret=x")])
async def test_only_plain_requests_are_sent_to_a_metadata_server(method, body):
    issuer = ScriptedIssuer(present())
    await failure_of(vendor_fetch(issuer, metadata=frozenset()).send(method, IMDS, {}, body))
    assert issuer.calls == 0


async def test_all_requests_share_one_time_limit():
    issuer = ScriptedIssuer(clock := present(), Mint(delay_s=6), otherwise=Hang())
    work = vendor_fetch(issuer)

    async def two() -> None:
        for _ in range(2):
            await work.send("GET", URL, {})

    task = asyncio.create_task(failure_of(work.run(two())))
    await clock.advance(9.9)
    assert not task.done()
    await clock.advance(0.2)
    expected = "issuer.example sent no complete answer within 10 s (credentials.corp.timeout_s); check whether"
    assert (await task).reason.startswith(expected)
    assert issuer.under_way == 0


async def test_the_last_reply_decides_the_lifetime_of_its_token():
    issuer = ScriptedIssuer(clock := present(), Mint(life="299", text="abc", delay_s=3))
    work = vendor_fetch(issuer)
    task = asyncio.create_task(work.send("GET", URL, {}))
    await clock.advance(3)
    await task
    token = work.token_from_text("abc", clock.wall() + 299)
    seen = (token.text, token.requested_s, token.lifetime_s, token.lifetime_source)
    assert seen == ("abc", 1_000.0, 299.0, LifetimeSource.REPLY)


async def test_librarys_expiry_only_shortens_a_lifetime():
    made_s = (clock := present()).wall() - 3_000
    cached = signed(iat=int(made_s), exp=int(made_s) + 3_600)
    issuer = ScriptedIssuer(clock, otherwise=answer({"access_token": cached}))
    work = vendor_fetch(issuer)
    await work.send("GET", URL, {})
    assert work.token_from_text(cached, made_s + 3_600).lifetime_s == pytest.approx(600)
    assert work.token_from_text(cached, made_s + 9_000).lifetime_s == 3_600
    assert work.token_from_text(cached, None).lifetime_s == 3_600
    # this machine's clock is wrong: the token is new
    assert work.token_from_text(cached, clock.wall() - 5).lifetime_s == 3_600


async def test_seconds_that_a_library_cuts_off_do_not_count():
    work = await after(Mint(life=300, text="abc"))
    assert work.token_from_text("abc", int(work.wall_s) + 300).lifetime_s == 300


async def test_a_token_that_no_reply_contained_has_its_own_lifetime():
    issuer = ScriptedIssuer(clock := present(), Mint())
    work = vendor_fetch(issuer)
    own = signed(iat=int(clock.wall()), exp=int(clock.wall()) + 3_600)
    assert (work.token_from_text(own, None).kind, work.token_from_text(own, None).lifetime_s) == (TokenKind.JWT, 3_600)
    token = work.token_from_text("opaque", None)
    assert (token.lifetime_s, token.lifetime_source) == (240, LifetimeSource.DEFAULT)
    assert work.token_from_text("opaque", clock.wall() + 100).lifetime_s == 100
    await work.send("GET", URL, {})
    assert work.token_from_text("another-than-answered", None).lifetime_source is LifetimeSource.DEFAULT


async def test_transport_failure_overrides_the_librarys_message():
    issuer = ScriptedIssuer(present(), Mint(), Broken(Fault.TLS, "self-signed certificate"))
    work = vendor_fetch(issuer)
    await work.send("GET", URL, {})  # an earlier reply does not explain a failure
    await failure_of(work.send("GET", URL, {}))
    expected = (
        "no secure connection to issuer.example (the TLS handshake failed: certificate verify failed). Check the URL"
    )
    assert work.failure_for("no response from the endpoint").reason.startswith(expected)
    assert (await failure_of(work.token_from_response)).reason.startswith(expected)


async def test_issuers_message_overrides_the_librarys():
    refusal = answer({"error": "invalid_client", "error_description": "a-secret-of-theirs is wrong"}, 401)
    failure = (await after(refusal)).failure_for("something is not right")
    expected = "the issuer refused the client: issuer.example answered 401: invalid_client: *** is wrong"
    assert (failure.reason, failure.is_refused) == (expected, True)


async def test_after_a_challenge_the_librarys_reason_is_included():
    refusal = answer({}, 401, (b"www-authenticate", b"Basic realm=/etc/passwd"))
    assert (await after(refusal)).failure_for("The key file path is invalid").reason == (
        "the issuer refused the client: issuer.example answered 401: {} (some-library: The key file path is invalid)"
    )


async def test_a_good_reply_that_the_library_does_not_take_is_not_quoted():
    work = await after(Mint(text="token-in-full"))
    expected = "some-library cannot use the answer of issuer.example"
    assert work.failure_for("Unexpected response {'access_token': 'token-in-full'}").reason == expected


async def test_librarys_message_is_masked_and_cut_without_a_reply():
    work = vendor_fetch(ScriptedIssuer(present()))
    failure = work.failure_for("cannot use\na-secret-of-theirs " + "x" * 500)
    assert failure.reason.startswith("some-library: cannot use *** xxx")
    assert len(failure.reason) < 230
    assert not failure.is_refused
    assert (await failure_of(work.token_from_response)).reason == "some-library sent no request"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Authorization": "Bearer proof-of-this-request"}, b""),
        ({"X-IDENTITY-HEADER": "proof-of-this-request"}, b""),
        ({}, b"client_assertion=proof-of-this-request&scope=x"),
        ({}, b"WebIdentityToken=proof-of-this-request"),
    ],
)
async def test_an_echo_of_what_the_library_made_up_to_sign_in_is_masked(headers, body):
    work = vendor_fetch(ScriptedIssuer(present(), answer({"error": "proof-of-this-request is bad"}, 400), Mint()))
    await work.send("POST", URL, headers, body)
    assert "answered 400: *** is bad" in work.failure_for("").reason
    await work.send("POST", URL, {})
    assert mask_of(work.secrets)("proof-of-this-request") == "***"


def test_a_vendor_fetch_prints_no_secret():
    work = vendor_fetch(ScriptedIssuer(present()))
    assert "a-secret-of-theirs" not in repr(work)


async def test_token_that_needs_a_proof_is_refused_from_the_library_too():
    work = await after(answer({"access_token": "abc", "token_type": "pop", "expires_in": 300}))
    failure = await failure_of(lambda: work.token_from_text("abc", None))
    assert failure.is_refused
    assert "a token of type pop" in failure.reason
