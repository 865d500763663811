"""`gatepass doctor` against staged faults on real sockets: the hop, the step and the remedy of each.

`make doctor-faults` prints the table.
"""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
import trustme

from gatepass.cli.doctor import line_of
from gatepass.cli.probe import ProbeCall
from gatepass.cli.steps import diagnose
from gatepass.clock import Clock, SystemClock
from gatepass.config.model import Config
from gatepass.documents import Step, StepOutcome
from tests.integration.answers import DONE, delta
from tests.integration.scripted import Dialogue, Fin, Hold, Received, Scripted, Send, head, reply
from tests.integration.test_connections import full_server, refusing_server
from tests.integration.test_doctor import Hurried

PAST = datetime.now(UTC) - timedelta(days=2)
ROOT = trustme.CA()
LIST = [Send(reply({"object": "list", "data": [{"id": "gpt-4o"}, {"id": "bge-m3"}]}))]
PAGE = [Send(reply(b"<html><title>Sign in</title>", content_type="text/html"))]


class Stage:
    """The servers and files of one fault."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.stack = stack

    def ca_file(self) -> str:
        ROOT.cert_pem.write_to_path(self.folder / "ca.pem")
        return str(self.folder / "ca.pem")

    def tls(self, leaf: trustme.LeafCert, *, asks: bool = False) -> ssl.SSLContext:
        """A server's context with this certificate. `asks`: it requires one of ROOT from its clients."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        leaf.configure_cert(context)
        if asks:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.verify_mode = ssl.CERT_REQUIRED
            ROOT.configure_trust(context)
        return context

    async def server(self, *dialogues: Dialogue, **more: Any) -> str:
        return (await self.stack.enter_async_context(Scripted(*dialogues, **more))).url

    async def secure(self, leaf: trustme.LeafCert, *, is_trusted: bool = True, asks: bool = False) -> dict[str, Any]:
        """A configuration of an upstream with this certificate, and with ROOT in `ca_file`."""
        url = await self.server(LIST, tls=self.tls(leaf, asks=asks))
        return upstream(url, **({"network": {"ca_file": self.ca_file()}} if is_trusted else {}))


def upstream(url: str, /, **settings: Any) -> dict[str, Any]:
    return {"upstreams": {"chat": {"base_url": f"{url}/v1", **settings}}}


def with_credential(at_url: str, **credential: Any) -> dict[str, Any]:
    return {**upstream(at_url, credential="c"), "credentials": {"c": credential}}


async def issuer(stage: Stage, token_url: str, **settings: Any) -> dict[str, Any]:
    oauth2 = {"type": "oauth2", "token_url": token_url, "client_id": "me", "client_secret": "secret-4711"}
    return with_credential(await stage.server(LIST), **oauth2, **settings)


def refusal(status: int, code: str, text: str) -> Dialogue:
    return [Send(reply({"error": code, "error_description": text}, status))]


async def unknown_name(stage: Stage) -> dict[str, Any]:
    return upstream("https://llm.corp.invalid")


async def refused(stage: Stage) -> dict[str, Any]:
    return upstream(stage.stack.enter_context(refusing_server()))


async def full_backlog(stage: Stage) -> dict[str, Any]:
    return upstream(stage.stack.enter_context(full_server()), timeouts={"connect_s": 0.3})


async def proxy_password(stage: Stage) -> dict[str, Any]:
    answer: Dialogue = [Send(head(407, content_length="0")), Fin()]
    return upstream("https://llm.example", network={"proxy": await stage.server(answer)})


async def tunnel_password(stage: Stage) -> dict[str, Any]:
    """tinyproxy refuses a wrong password with a 401."""
    answer: Dialogue = [Send(head(401, content_length="0")), Fin()]
    return upstream("https://llm.example", network={"proxy": await stage.server(answer)})


async def issuers_tunnel(stage: Stage) -> dict[str, Any]:
    answer: Dialogue = [Send(head(401, content_length="0")), Fin()]
    return await issuer(stage, "https://id.example", network={"proxy": await stage.server(answer)})


async def https_to_http(stage: Stage) -> dict[str, Any]:
    answer: Dialogue = [Send(head(400, content_length="0")), Fin()]
    return upstream((await stage.server(answer, sends_first=True)).replace("http:", "https:"))


async def issuer_expired(stage: Stage) -> dict[str, Any]:
    token_url = await stage.server(LIST, tls=stage.tls(ROOT.issue_cert("127.0.0.1", not_after=PAST)))
    return await issuer(stage, token_url, network={"ca_file": stage.ca_file()})


def token_answer(answer: Dialogue) -> Callable[[Stage], Any]:
    async def staged(stage: Stage) -> dict[str, Any]:
        return await issuer(stage, await stage.server(answer))

    return staged


def ended(kind: str, member: str) -> Callable[[Stage], Any]:
    """A JWT that ended two days ago, as the key or in the file of a credential."""
    token = jwt.encode({"exp": int(PAST.timestamp())}, "0" * 32, "HS256")

    async def staged(stage: Stage) -> dict[str, Any]:
        (stage.folder / "token").write_text(token)
        value = str(stage.folder / "token") if member == "path" else token
        return with_credential(await stage.server(LIST), type=kind, **{member: value})

    return staged


def answers(dialogue: Dialogue) -> Callable[[Stage], Any]:
    async def staged(stage: Stage) -> dict[str, Any]:
        return upstream(await stage.server(dialogue))

    return staged


def chat_answers(dialogue: Dialogue) -> Callable[[Stage], Any]:
    async def staged(stage: Stage) -> dict[str, Any]:
        return upstream(await stage.server(answer=lambda asked: LIST if asked.method == "GET" else dialogue))

    return staged


CUT: Dialogue = [Send(head(200, content_type="text/event-stream") + delta(content="p")), Fin()]


@dataclass(frozen=True)
class Fault:
    """`step` is the hop and the step that must report it, `words` what its line must contain."""

    stage: Callable[[Stage], Any]
    step: str
    words: tuple[str, ...]
    call: ProbeCall | None = None
    """A timeout is involved."""
    clock: Clock | None = None


def at(step: str, stage: Callable[[Stage], Any], *words: str, **more: Any) -> Fault:
    return Fault(stage, step, words, **more)


BASE_URL = "`upstreams.chat.base_url`"
FAULTS = {
    "the name is unknown": at("upstream:chat models", unknown_name, "cannot be resolved", f"Correct {BASE_URL}, then"),
    "nobody listens": at("upstream:chat models", refused, "connection refused", f"Check {BASE_URL}, whether"),
    "the port hangs": at(
        "upstream:chat models",
        full_backlog,
        "within 0.3 s (upstreams.chat.timeouts.connect_s)",
        "firewall",
    ),
    "the proxy requires a password": at(
        "upstream:chat models", proxy_password, "407", "Check `upstreams.chat.network.proxy_auth`."
    ),
    "the proxy refuses a password with 401": at(
        "upstream:chat models", tunnel_password, "401", "Check `upstreams.chat.network.proxy_auth`."
    ),
    "an issuer's proxy refuses a password with 401": at(
        "credential:c token", issuers_tunnel, "401", "Check `credentials.c.network.proxy_auth`."
    ),
    "a page without a title": at(
        "upstream:chat models",
        answers([Send(reply(b"<h1>503 Service Unavailable</h1>\nNo server is up.", 503, content_type="text/html"))]),
        "with an HTML page. It says: No server is up.",
    ),
    "a page whose title gives a reason": at(
        "upstream:chat models",
        answers([Send(reply(b"<title>Blocked</title><p>Host 10.1.2.3<p>for alice", 403, content_type="text/html"))]),
        'titled "Blocked". The page says: Host 10.1.2.3. for alice.',
    ),
    "an issuer's page": at(
        "credential:c token",
        token_answer([Send(reply(b"<title>Portal</title><p>Closed on Sunday", 403, content_type="text/html"))]),
        "answered 403: an HTML page, Portal. The page says: Closed on Sunday.",
    ),
    "an issuer's page in place of a token": at(
        "credential:c token",
        token_answer(
            [Send(reply(b"<h1>Error</h1><p>The code is QWERTYUIOPASDFGHJKLZXCVBNM12", content_type="text/html"))]
        ),
        "with an HTML page instead of a token. It says: The code is ***.",
    ),
    "a stack trace": at(
        "upstream:chat models",
        answers([Send(reply({"error": {"message": "boom\n    at f (/srv/a.js:1:2)"}}, 500))]),
        "HTTP 500: boom. It sent: boom at f (/srv/a.js:1:2)",
    ),
    "headers that are too large": at(
        "upstream:chat models",
        answers([Send(reply(b"<title>400 Request Header Or Cookie Too Large</title>", 400, content_type="text/html"))]),
        *("400 Request Header Or Cookie Too Large", "`upstreams.chat.headers`"),
    ),
    "https to a plain port": at("upstream:chat models", https_to_http, "does not use TLS on this port", "http://"),
    "an expired certificate": at(
        "upstream:chat models",
        lambda stage: stage.secure(ROOT.issue_cert("127.0.0.1", not_after=PAST)),
        "certificate has expired",
        "Renew the certificate",
    ),
    "a CA that nobody trusts": at(
        "upstream:chat models",
        lambda stage: stage.secure(ROOT.issue_cert("127.0.0.1"), is_trusted=False),
        "signed by a CA that this machine does not trust",
        "Set `network.ca_file` to a PEM file with the",
    ),
    "another host name": at(
        "upstream:chat models",
        lambda stage: stage.secure(ROOT.issue_cert("llm.corp.example")),
        "its certificate is not valid: ",
        f"use a host name of it in {BASE_URL}",
    ),
    "a client certificate is required": at(
        "upstream:chat models",
        lambda stage: stage.secure(ROOT.issue_cert("127.0.0.1"), asks=True),
        "upstreams.chat.network.client_cert",
    ),
    "the issuer's certificate has expired": at(
        "credential:c token", issuer_expired, "certificate has expired", "Renew the certificate"
    ),
    "a wrong client secret": at(
        "credential:c token",
        token_answer(refusal(401, "invalid_client", "wrong secret")),
        *("invalid_client: wrong secret", "credentials.c.client_secret"),
    ),
    "a wrong scope": at(
        "credential:c token",
        token_answer(refusal(400, "invalid_scope", "unknown")),
        *("invalid_scope", "credentials.c.scope"),
    ),
    "a static token that has ended": at(
        "credential:c token",
        ended("static", "token"),
        f"credentials.c.token is a token that ended at {PAST:%Y-%m-%d %H:%M:%S}Z (17",
        " s ago). Replace it, or configure a source that renews it.",
    ),
    "a token that has ended, in a file": at(
        "credential:c token", ended("file", "path"), "/token contains a token that expired 17", "Check the program"
    ),
    "a login page": at(
        "upstream:chat models", answers(PAGE), 'titled "Sign in"', f"Check that {BASE_URL} is the address of the API"
    ),
    "a token that the upstream rejects with 403": at(
        "upstream:chat models",
        answers([Send(reply({"error": {"message": "token illegal"}}, 403))]),
        *(
            "HTTP 403: token illegal",
            "The upstream's message has the reason: change the request, or ask the owner of the upstream.",
        ),
    ),
    "an upstream that closes": at("upstream:chat models", answers([Fin()]), "closed the connection", "try again"),
    "an upstream that hangs": at(
        "upstream:chat models", answers([Hold()]), "within 10 s", "overloaded", clock=Hurried()
    ),
    "a stream that breaks off": at(
        "upstream:chat stream",
        chat_answers(CUT),
        "before the answer was complete",
        call=ProbeCall("chat", "gpt-4", stream=True),
    ),
}


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield Stage(tmp_path, stack)


async def steps_of(blocks: dict[str, Any], call: ProbeCall | None, clock: Clock | None) -> list[Step]:
    async with aclosing(diagnose(Config.model_validate(blocks), [] if call is None else [call], clock)) as steps:
        return [step async for step in steps]


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_is_reported_at_its_hop_with_the_remedy(name: str, stage: Stage) -> None:
    fault = FAULTS[name]
    blocks = await fault.stage(stage)
    steps = await steps_of(blocks, fault.call, fault.clock)
    by_name = {f"{step.hop} {step.what}": step for step in steps}
    found, line = by_name[fault.step], line_of(by_name[fault.step])
    assert found.outcome is StepOutcome.FAILS, line
    assert [step for step in steps if step.failed] == [found]
    assert [words for words in fault.words if words not in line] == [], line
    assert not [sign in line for sign in ("Errno", "Error", "_ssl", "[SSL") if sign in line], line
    assert "next try" not in line, "this command ends now"
    assert "{" not in found.why_zh + found.advice_zh
    assert bool(found.advice) <= bool(found.advice_zh)


class Jumping(SystemClock):
    """So far ahead as the upstream says that it took."""

    ahead_s = 0.0

    def now(self) -> float:
        return super().now() + self.ahead_s


@pytest.mark.parametrize(
    ("count", "late_s", "is_buffered"), [(12, 3.0, True), (10, 2.0, True), (8, 3.0, False), (12, 1.0, False)]
)
async def test_events_that_come_at_once_and_late_are_reported(
    count: int, late_s: float, is_buffered: bool, stage: Stage
):
    clock = Jumping()
    events = [delta(content="p") for _ in range(count - 1)] + [delta("stop")]

    def answer(asked: Received) -> Dialogue:
        if asked.method == "GET":
            return LIST
        clock.ahead_s += late_s
        return [Send(head(200, content_type="text/event-stream") + b"".join(events) + DONE), Fin()]

    call = ProbeCall("chat", "gpt-4o", stream=True)
    *_, found = await steps_of(upstream(await stage.server(answer=answer)), call, clock)
    assert found.outcome is StepOutcome.WORKS
    assert (f"{count} events, complete; {count} of them came all at once" in found.why) is is_buffered
    assert ("may buffer" in found.advice) is ("缓冲" in found.advice_zh) is is_buffered
