import asyncio
import gc
import socket
import ssl
import weakref
from contextlib import suppress

import httpx2
import pytest

from gatepass.clock import SystemClock
from gatepass.config.credential.kinds import ExecCredential
from gatepass.config.network import Network
from gatepass.errors import Fault, TransportFault
from gatepass.tokens.failure import FailureCase, FetchFailure, failure_advice
from gatepass.tokens.source import build_source
from gatepass.tokens.token_endpoint import TokenEndpointClient, send_request
from gatepass.tokens.token_reply import TokenReplyFormat
from gatepass.types import OutboundRequest, Secret
from tests.unit.clock import DrivenClock
from tests.unit.tokens.scripted import (
    JSON,
    SECRET,
    Answer,
    Broken,
    Hang,
    IssuerReply,
    Mint,
    ScriptedIssuer,
    answer,
    cancelled_at_each_await,
    failure_of,
    http_json,
    oauth2,
)

REQUEST = OutboundRequest("POST", "https://sso.example/token", body=b"client_secret=x")
FORMAT = TokenReplyFormat("sso.example", 240.0, url_setting="credentials.corp.token_url")

REPAIR = " After a repair at the issuer, run `gatepass reload`: it fetches at once."


def at(clock: DrivenClock, *replies: IssuerReply, **settings: object) -> tuple[TokenEndpointClient, ScriptedIssuer]:
    far = ScriptedIssuer(clock, *replies)
    return TokenEndpointClient("corp", oauth2(**settings), FORMAT, far, clock), far


REFUSED, AWAY = OSError(111, "Connect call failed ('127.0.0.1', 9)"), OSError(101, "Connect call failed ('::1', 9)")


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (REFUSED, "no connection to sso.example (connection refused)"),
        (ExceptionGroup("all", [AWAY, REFUSED]), "no connection to sso.example (network is unreachable, connection"),
        (None, "no connection to sso.example (All connection attempts failed)"),
        (socket.gaierror(-2, "Name or service not known"), "the name sso.example cannot be resolved (All connection"),
        (
            ssl.SSLError(1, "no"),
            "no secure connection to sso.example (the TLS handshake failed: no). Check the port in cred",
        ),
    ],
)
async def test_a_connection_failure_quotes_the_system(cause, expected):
    def fail(_: httpx2.Request) -> httpx2.Response:
        error = OSError("All connection attempts failed")
        error.__cause__ = cause
        raise httpx2.ConnectError("[Errno -2] All connection attempts failed") from error

    issuer = TokenEndpointClient("corp", oauth2(), FORMAT, lambda: httpx2.MockTransport(fail), SystemClock())
    assert (await failure_of(issuer.fetch_token(REQUEST, ()))).reason.startswith(expected)


async def test_an_unknown_host_is_reported_with_the_variables_of_the_environments_credential(monkeypatch):
    monkeypatch.setenv("GATEPASS_UPSTREAM_URL", "https://h/v1")
    issuer = ScriptedIssuer(DrivenClock(), otherwise=Broken(Fault.DNS))
    failure = await failure_of(build_source("token", http_json(), issuer, issuer.clock).fetch())
    assert failure.reason == (
        "the name portal.example cannot be resolved (refused). Check the host in credentials.token.url"
        " (GATEPASS_TOKEN_URL), the DNS of the machine that gatepass runs on, and whether this network needs"
        " network.proxy (GATEPASS_PROXY)"
    )


@pytest.mark.parametrize(
    ("settings", "secret"),
    [
        (http_json(), "json (GATEPASS_TOKEN_JSON or GATEPASS_TOKEN_JSON_FILE)"),
        (oauth2(), "client_secret (GATEPASS_CLIENT_SECRET or GATEPASS_CLIENT_SECRET_FILE)"),
    ],
)
def test_a_refused_secret_is_reported_with_its_variables(monkeypatch, settings, secret):
    refused = FetchFailure("no", case=FailureCase.REFUSED)
    assert (
        str(failure_advice(refused, "token", settings))
        == f"Check the client and the secret in credentials.token.{REPAIR}"
    )
    monkeypatch.setenv("GATEPASS_UPSTREAM_URL", "https://h/v1")
    repair = REPAIR.replace("run `gatepass reload`", "restart gatepass")
    advised = f"Check the client and the secret in credentials.token.{secret}.{repair}"
    assert str(failure_advice(refused, "token", settings)) == advised


def test_a_refusal_by_a_program_names_its_command():
    settings = ExecCredential.model_validate({"type": "exec", "command": ["login"]})
    advice = failure_advice(FetchFailure("no", case=FailureCase.REFUSED), "token", settings)
    assert str(advice) == "Check what credentials.token.command runs."


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.CONNECT, "no connection to the proxy p.corp:3128 (refused). Check the host and port in {}, and whether"),
        (Fault.DNS, "the name p.corp cannot be resolved (refused). Check the host in {} and the DNS of"),
    ],
)
async def test_a_proxy_that_is_down_is_named_instead_of_the_issuer(fault, reason):
    own, top = Network(proxy="http://p.corp:3128"), Network(proxy="http://p.corp:3128")
    top.inherit(own)
    for network, named in ((own, "credentials.corp.network.proxy"), (top, "network.proxy")):
        issuer, _ = at(DrivenClock(), Broken(fault), network=network)
        failure = await failure_of(issuer.fetch_token(REQUEST, ()))
        assert failure.reason.startswith(reason.format(named))


REFUSES = "the proxy in front of sso.example refuses"
WHOLE = (
    "sso.example sent no complete answer within 7 s (credentials.corp.timeout_s). Check whether the issuer is up, or"
    " raise this setting, for example to 14, if it is only slow"
)


async def test_a_wrong_proxy_password_is_not_tried_again_and_again():
    issuer, _ = at(DrivenClock(), Broken(Fault.PROXY, "407 Proxy Authentication Required"))
    failure = await failure_of(issuer.fetch_token(REQUEST, ()))
    assert (failure.reason, failure.is_refused) == (
        (f"{REFUSES} (407 Proxy Authentication Required). Check credentials.corp.network.proxy_auth"),
        True,
    )
    issuer, _ = at(DrivenClock(), Broken(Fault.PROXY, "403 Forbidden"))
    assert not (await failure_of(issuer.fetch_token(REQUEST, ()))).is_refused


@pytest.mark.parametrize(
    "reply",
    [
        Hang(),
        Answer(body=b"", pieces=[b"x"] * 60, every_s=1.0),
        Answer(status=500, pieces=[b"x"] * 60, every_s=1.0),
    ],
)
async def test_hanging_or_slow_issuer_is_bounded_as_a_whole(reply):
    clock = DrivenClock()
    issuer, far = at(clock, reply, timeout_s=7.0)
    task = asyncio.create_task(failure_of(issuer.fetch_token(REQUEST, ())))
    await clock.advance(6.9)
    assert not task.done()
    await clock.advance(0.1)
    failure = await task
    assert (failure.reason, failure.is_refused) == (WHOLE, False)
    assert far.open == 0


@pytest.mark.parametrize("reply", [Hang(), Broken(Fault.TIMEOUT_FIRST_BYTE), Broken(Fault.CONNECT)])
async def test_a_failure_is_freed_without_a_garbage_collector(reply):
    clock = DrivenClock()
    issuer, _ = at(clock, reply, timeout_s=7.0)

    async def fail():
        try:
            await issuer.fetch_token(REQUEST, ())
        except FetchFailure as failure:
            return weakref.ref(failure)

    gc.disable()
    try:
        task = asyncio.create_task(fail())
        await clock.advance(7.0)
        assert (await task)() is None
    finally:
        gc.enable()


async def test_a_reply_beyond_64_kib_is_read_no_further():
    fits, _ = at(DrivenClock(), Answer(body=b'{"access_token": "t"}'.ljust(64 * 1024)))
    assert (await fits.fetch_token(REQUEST, ())).text == "t"
    issuer, far = at(DrivenClock(), Answer(pieces=[b"x" * 1024] * 400_000))
    failure = await failure_of(issuer.fetch_token(REQUEST, ()))
    assert failure.reason == "the reply of sso.example is not a token: the reply is larger than 65536 bytes"
    assert far.bytes_read == 65 * 1024
    assert far.open == 0


async def test_reply_that_breaks_off_contains_no_token():
    issuer, far = at(
        DrivenClock(), Answer(pieces=[b'{"access_token": "abc'], ends_with=TransportFault(Fault.CLOSED, "eof"))
    )
    assert (await failure_of(issuer.fetch_token(REQUEST, ()))).reason == (
        "sso.example closed the connection before its reply was complete (eof)"
    )
    assert far.open == 0


async def test_a_secret_is_not_sent_over_plain_http_unless_allowed():
    request = OutboundRequest("POST", "http://sso.example/token")
    issuer, far = at(DrivenClock())
    failure = await failure_of(issuer.fetch_token(request, ()))
    assert (failure.is_refused, far.calls) == (True, 0)
    assert "credentials.corp.allow_plain_http: true" in failure.reason
    allowed, _ = at(DrivenClock(), allow_plain_http=True)
    assert (await allowed.fetch_token(request, ())).text == "token-1"
    issuer, _ = at(DrivenClock())
    assert (await issuer.fetch_token(OutboundRequest("POST", "http://127.0.0.1:9/token"), ())).text == "token-1"


@pytest.mark.parametrize(("proxy", "goes"), [("http://proxy.example:3128", False), ("http://[::1]:3128", True)])
async def test_plain_http_to_loopback_through_a_remote_proxy_is_refused(proxy, goes):
    issuer, far = at(DrivenClock(), network={"proxy": proxy})
    asked = issuer.fetch_token(OutboundRequest("POST", "http://127.0.0.1:9/token"), ())
    if goes:
        assert (await asked).text == "token-1"
    else:
        failure = await failure_of(asked)
        assert (failure.is_refused, far.calls) == (True, 0)
        assert "plain HTTP by a proxy on another machine" in failure.reason


@pytest.mark.parametrize(
    "reply",
    [
        answer({"error": "invalid_client", "error_description": f"wrong secret {SECRET}"}, 401),
        answer({"code": 10, "msg": f"wrong secret {SECRET}"}),
        Answer(500, b"x" * 190 + SECRET.encode(), JSON),
        Broken(Fault.CLOSED, f"while sending {SECRET}"),
    ],
)
async def test_secret_echoed_by_the_issuer_is_masked(reply):
    issuer, _ = at(DrivenClock(), reply)
    failure = await failure_of(issuer.fetch_token(REQUEST, (Secret(SECRET),)))
    assert SECRET[:6] not in failure.reason
    assert SECRET not in repr(failure)


@pytest.mark.parametrize(
    "reply", [Mint(), answer({}, 500), Answer(pieces=[b"{", b"}"]), Answer(302), Answer(401, pieces=[b"a", b"b"])]
)
async def test_a_cancelled_fetch_leaves_no_response_open_at_any_await(reply):
    far = ScriptedIssuer(DrivenClock(), otherwise=reply)
    issuer = TokenEndpointClient("corp", oauth2(), FORMAT, far, far.clock)

    async def begin() -> None:
        with suppress(FetchFailure):
            await issuer.fetch_token(REQUEST, ())

    def check() -> None:
        assert far.open == 0

    assert await cancelled_at_each_await(begin, check) > 2


async def test_bounds_of_the_phases_fit_into_the_whole():
    seen: list[dict[str, float]] = []

    def note(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.extensions["timeout"])
        return httpx2.Response(503)

    for limit_s in (2.0, 20.0):
        await send_request(lambda: httpx2.MockTransport(note), REQUEST, limit_s)
    assert seen == [httpx2.Timeout(2.0).as_dict(), httpx2.Timeout(20.0, connect=5.0).as_dict()]


@pytest.mark.parametrize(
    ("name", "variable"),
    [("corp", ". A setting without a variable requires a configuration file"), ("token", " (GATEPASS_PROXY)")],
)
async def test_the_407_of_a_proxy_names_the_setting_of_its_password(name, variable, monkeypatch):
    monkeypatch.setenv("GATEPASS_UPSTREAM_URL", "https://h/v1")
    terms = TokenReplyFormat("sso.example", 240.0, url_setting=f"credentials.{name}.token_url", credential=name)
    page = Answer(407, b"<html>", ((b"content-type", b"text/html"),))
    clock = DrivenClock()
    issuer = TokenEndpointClient(name, oauth2(), terms, ScriptedIssuer(clock, page), clock)
    failure = await failure_of(issuer.fetch_token(REQUEST, ()))
    expected = f". Check credentials.{name}.network.proxy_auth{variable}"
    assert failure.reason == f"{REFUSES} (407){expected}"


async def test_an_error_whose_text_breaks_off_keeps_its_status():
    issuer, _ = at(DrivenClock(), Answer(401, pieces=[b"x"], ends_with=TransportFault(Fault.CLOSED, "eof")))
    failure = await failure_of(issuer.fetch_token(REQUEST, ()))
    assert (failure.reason, failure.kind) == ("sso.example answered 401", "limited")


async def test_a_redirect_whose_body_does_not_end_is_reported_at_once():
    to = ((b"location", b"https://login.example/"),)
    issuer, far = at(DrivenClock(), Answer(302, headers=to, pieces=[b"x"] * 60, every_s=1.0))
    failure = await failure_of(issuer.fetch_token(REQUEST, ()))
    assert failure.reason.startswith(
        "sso.example answered 302, a redirect to login.example. gatepass follows no redirect"
    )
    assert (far.bytes_read, far.open) == (0, 0)


def test_a_failure_that_nothing_else_explains_names_where_the_token_comes_from():
    odd = FetchFailure("the program p has text before its JSON, such as a warning: leave it out")
    run = ExecCredential(type="exec", command=["p"])
    found = [str(failure_advice(odd, "corp", one)) for one in (run, http_json(), oauth2())]
    assert found == [f"Check credentials.corp.{name}." for name in ("command", "url", "token_url")]
