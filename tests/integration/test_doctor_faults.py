"""`gatepass doctor` against staged faults on real sockets: the hop, the step and the remedy of each.

`make doctor-faults` prints the table.
"""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from gatepass.cli.doctor import line_of
from gatepass.cli.probe import ProbeCall
from gatepass.cli.steps import diagnose
from gatepass.clock import Clock
from gatepass.config.model import Config
from gatepass.documents import Step, StepOutcome
from gatepass.types import Secret
from tests.integration.scripted import Dialogue, Fin, Hold, Scripted, Send, head, reply
from tests.integration.test_connections import full_server, refusing_server
from tests.integration.test_doctor import Hurried

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
PAST, FUTURE = NOW - 2 * DAY, NOW + 90 * DAY
LIST = [Send(reply({"object": "list", "data": [{"id": "gpt-4o"}, {"id": "bge-m3"}]}))]
PAGE = [Send(reply(b"<html><title>Sign in</title>", content_type="text/html"))]


@dataclass(frozen=True)
class Signed:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def signed(
    name: str,
    by: Signed | None = None,
    *,
    ca: bool = False,
    host: str = "127.0.0.1",
    until: datetime = FUTURE,
    since: datetime = NOW - 30 * DAY,
    download: str | None = None,
) -> Signed:
    """A certificate of `name` that `by` signed; without `by` it is self-signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, signer = (subject, key) if by is None else (by.certificate.subject, by.key)
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), since, until)
    builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = builder.add_extension(own, critical=False)
    signer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = builder.add_extension(signer_id, critical=False)
    if ca:
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    else:
        named = x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
        builder = builder.add_extension(x509.SubjectAlternativeName([named]), critical=False)
    if download is not None:
        place = x509.UniformResourceIdentifier(download)
        access = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, place)
        builder = builder.add_extension(x509.AuthorityInformationAccess([access]), critical=False)
    return Signed(builder.sign(signer, hashes.SHA256()), key)


ROOT = signed("Corp Root", ca=True)
INTERMEDIATE = signed("Corp Issuing", ROOT, ca=True)


class Stage:
    """The servers and files of one fault."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.stack = stack

    def file(self, name: str, *signed: Signed) -> str:
        path = self.folder / name
        path.write_bytes(b"".join(each.pem for each in signed))
        return str(path)

    def tls(
        self,
        leaf: Signed,
        *chain: Signed,
        clients: Signed | None = None,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    ) -> ssl.SSLContext:
        """A server's context that sends `leaf` and `chain`. With `clients` it requires a certificate of that CA."""
        key = leaf.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = self.folder / "server.pem"
        path.write_bytes(b"".join((leaf.pem, *(each.pem for each in chain), key)))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        if clients is not None:
            context.maximum_version = version
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.file("clients.pem", clients))
        return context

    async def server(self, *dialogues: Dialogue, **more: Any) -> str:
        return (await self.stack.enter_async_context(Scripted(*dialogues, **more))).url

    async def secure(self, leaf: Signed, *chain: Signed, ca: Signed | None = ROOT, **more: Any) -> dict[str, Any]:
        """A configuration of an upstream with this certificate, and with `ca` in `ca_file`."""
        url = await self.server(LIST, tls=self.tls(leaf, *chain, **more))
        settings: dict[str, Any] = {} if ca is None else {"network": {"ca_file": self.file("ca.pem", ca)}}
        return upstream(url, **settings)


def upstream(url: str, /, path: str = "/v1", **settings: Any) -> dict[str, Any]:
    return {"upstreams": {"chat": {"base_url": f"{url}{path}", **settings}}}


def with_credential(at_url: str, **credential: Any) -> dict[str, Any]:
    return {**upstream(at_url, credential="c"), "credentials": {"c": credential}}


async def issuer(stage: Stage, answer: Dialogue, **settings: Any) -> dict[str, Any]:
    """A configuration whose token endpoint gives `answer`."""
    token_url, url = await stage.server(answer), await stage.server(LIST)
    oauth2 = {"type": "oauth2", "token_url": f"{token_url}/token", "client_id": "me", "client_secret": "secret-4711"}
    return with_credential(url, **{**oauth2, **settings})


def refusal(status: int, code: str, text: str) -> Dialogue:
    return [Send(reply({"error": code, "error_description": text}, status))]


def error(status: int, message: str, code: str | None = None) -> Dialogue:
    return [Send(reply({"error": {"message": message, "code": code}}, status))]


async def unknown_name(stage: Stage) -> dict[str, Any]:
    return upstream("https://llm.corp.invalid")


async def refused(stage: Stage) -> dict[str, Any]:
    return upstream(stage.stack.enter_context(refusing_server()))


async def full_backlog(stage: Stage) -> dict[str, Any]:
    return upstream(stage.stack.enter_context(full_server()), timeouts={"connect_s": 0.3})


async def proxy_password(stage: Stage) -> dict[str, Any]:
    answer: Dialogue = [Send(head(407, content_length="0")), Fin()]
    return upstream("https://llm.example", network={"proxy": await stage.server(answer)})


async def https_to_http(stage: Stage) -> dict[str, Any]:
    answer: Dialogue = [Send(head(400, content_length="0")), Fin()]
    return upstream((await stage.server(answer, sends_first=True)).replace("http:", "https:"))


async def issuer_expired(stage: Stage) -> dict[str, Any]:
    token_url = await stage.server(LIST, tls=stage.tls(signed("sso", ROOT, until=PAST)))
    network = {"ca_file": stage.file("ca.pem", ROOT)}
    oauth2 = {"type": "oauth2", "token_url": token_url, "client_id": "me", "client_secret": "secret-4711"}
    return with_credential(await stage.server(LIST), **oauth2, network=network)


def token_answer(answer: Dialogue, **settings: Any) -> Callable[[Stage], Any]:
    async def staged(stage: Stage) -> dict[str, Any]:
        return await issuer(stage, answer, **settings)

    return staged


def ended(kind: str, member: str) -> Callable[[Stage], Any]:
    """A JWT that ended two days ago, as the key, in the file or in the variable of a credential."""
    token = jwt.encode({"exp": int(PAST.timestamp())}, "0" * 32, "HS256")

    async def staged(stage: Stage) -> dict[str, Any]:
        (stage.folder / "token").write_text(token)
        secret = Secret(token, reference="${CORP_TOKEN}")
        value = {"path": str(stage.folder / "token"), "variable": secret}.get(member, token)
        return with_credential(await stage.server(LIST), type=kind, **{member: value})

    return staged


def answers(dialogue: Dialogue, path: str = "/v1") -> Callable[[Stage], Any]:
    async def staged(stage: Stage) -> dict[str, Any]:
        return upstream(await stage.server(dialogue), path)

    return staged


def chat_answers(dialogue: Dialogue) -> Callable[[Stage], Any]:
    async def staged(stage: Stage) -> dict[str, Any]:
        return upstream(await stage.server(answer=lambda asked: LIST if asked.method == "GET" else dialogue))

    return staged


CHUNK = 'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"p"},"finish_reason":null}]}\n\n'  # noqa: E501 - one event
CUT: Dialogue = [Send(head(200, content_type="text/event-stream") + CHUNK.encode()), Fin()]


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


BASE_URL = "upstreams.chat.base_url"
FAULTS = {
    "the name is unknown": at("upstream:chat models", unknown_name, "cannot be resolved", f"the host in {BASE_URL}"),
    "nobody listens": at("upstream:chat models", refused, "connection refused", f"host and port in {BASE_URL}"),
    "the port hangs": at(
        "upstream:chat models",
        full_backlog,
        "within 0.3 s (upstreams.chat.timeouts.connect_s)",
        "firewall",
    ),
    "the proxy requires a password": at(
        "upstream:chat models", proxy_password, "407", "Check upstreams.chat.network.proxy_auth."
    ),
    "https to a plain port": at("upstream:chat models", https_to_http, "does not use TLS on this port", "http://"),
    "an expired certificate": at(
        "upstream:chat models",
        lambda stage: stage.secure(signed("llm", ROOT, until=PAST)),
        "certificate has expired",
        "Renew the certificate",
    ),
    "a CA that nobody trusts": at(
        "upstream:chat models",
        lambda stage: stage.secure(signed("llm", INTERMEDIATE), INTERMEDIATE, ca=None),
        "signed by a CA that this machine does not trust",
        "Set network.ca_file to a PEM file with the",
    ),
    "another host name": at(
        "upstream:chat models",
        lambda stage: stage.secure(signed("llm", ROOT, host="llm.corp.example")),
        "its certificate is not valid: ",
        f"use a host name of it in {BASE_URL}",
    ),
    "a client certificate is required": at(
        "upstream:chat models",
        lambda stage: stage.secure(signed("llm", ROOT), clients=ROOT),
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
    "a refusal without an error code": at(
        "credential:c token",
        token_answer([Send(reply({"message": "not you"}, 401))]),
        *("the issuer refused the client: ", "the client and the secret in credentials.c"),
    ),
    "the token endpoint hangs": at(
        "credential:c token",
        token_answer([Hold()], timeout_s=0.3),
        "within 0.3 s (credentials.c.timeout_s)",
        "Check whether the issuer is up",
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
    "a login page": at("upstream:chat models", answers(PAGE), 'titled "Sign in"', f"Check {BASE_URL}"),
    "a token that the upstream rejects with 403": at(
        "upstream:chat models",
        answers(error(403, "token illegal")),
        *("HTTP 403: token illegal", "Follow the upstream's message."),
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
