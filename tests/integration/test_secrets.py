"""No secret is printed anywhere, whichever side echoes it, and no token is sent to another host."""

import asyncio
import html
import io
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from click.testing import CliRunner

from gatepass.cli import main
from gatepass.config.references import Reference
from gatepass.observability.capture import CaptureSettings
from gatepass.observability.log import configure
from gatepass.proxy.app_state import AppState
from gatepass.proxy.upstream_call import ERROR_BYTES
from gatepass.server.inspection import stories
from tests.integration.answers import COMPLETION, EVENTS, VECTORS, delta
from tests.integration.gateway import HELLO, JSON, STREAMED, Answer, Gateway, gateway, relaying
from tests.integration.scripted import Dialogue, Fin, Received, Scripted, Send, event, reply, stream
from tests.jwt_signer import Clients, SigningKey, key_set
from tests.unit.observability.test_log import Text

ODD = '"q\\uote & 50%+ä/='
"""Characters that JSON, URLs and forms each write in their own way."""

CLIENT_SECRET = f"client-secret-{ODD}"
FORM_SECRET = "form-secret-9931"
ASSERTION = f"assertion-{ODD}"
JSON_SECRET = f"json-secret-{ODD}"
HEADER_SECRET = "header-secret-5512"
QUERY_SECRET = "query secret+7741/x="
PARAMETER = "parameter secret+5513/x="
STATIC_TOKEN = 'static-token-"q\\uote|4711'
CLIENT_KEY = "gp-client-key-by-reference-0815"
OTHER_KEY = "gp-second-key-in-the-same-file-0816"
CONFIGURED = (
    *(CLIENT_SECRET, FORM_SECRET, ASSERTION, JSON_SECRET, HEADER_SECRET, QUERY_SECRET),
    *(PARAMETER, STATIC_TOKEN, CLIENT_KEY, OTHER_KEY),
)


@contextmanager
def logged(state: AppState) -> Iterator[io.StringIO]:
    """The log of the process, through the handler that `gatepass serve` sets up."""
    root, own = logging.getLogger(), logging.getLogger("gatepass")
    before = (list(root.handlers), root.level, own.level, logging._srcfile)  # `configure` changes all of these
    switches = {name: getattr(logging, name) for name in ("logThreads", "logProcesses", "logMultiprocessing")}
    out = Text()
    configure(state.config.log.level, state.config.log.format, state.redactor, out)
    try:
        yield out
    finally:
        out.getvalue()
        root.handlers[:], root.level, own.level, logging._srcfile = before
        own.setLevel(own.level)  # which empties what loggers remember of levels
        for name, value in switches.items():
            setattr(logging, name, value)


GOOD = ("corp", "form", "login", "fixed")
"""The credentials whose issuer mints a token, or that are one."""


def received(request: Received) -> str:
    """The error of a careless server, which contains the whole request."""
    fields = "; ".join(f"{name}: {value}" for name, value in request.headers)
    return f"{request.method} {request.target} [{fields}] {request.body.decode('utf-8', 'replace')}"


def _quoted(text: str) -> dict[str, Any]:
    return {"error": {"message": text, "type": text[-60:], "param": text[-60:], "code": "c", "more": [{"seen": text}]}}


BESIDE = ("id: ", "id: 2 ", "event: ", ": ", "vendor: ", "seen ")
"""How the lines of an event begin that are no data."""
ECHOES: dict[str, Callable[[str], Dialogue]] = {
    "json": lambda text: [Send(reply(_quoted(text), 400))],
    "detail": lambda text: [Send(reply({"detail": [{"loc": ["header", text], "msg": text}]}, 422))],
    "code": lambda text: [Send(reply({"error": {"message": "m", "code": text.partition("[")[2][:100]}}, 403))],
    "text": lambda text: [Send(reply(text.encode(), 500, content_type="text/plain"))],
    "title": lambda text: [Send(reply(f"<html><title>{text}</title>".encode(), 502, content_type="text/html"))],
    "login": lambda text: [Send(reply(f"<html><title>{text}</title>".encode(), content_type="text/html"))],
    "in-200": lambda text: [Send(reply({"code": 102, "message": text, "data": None}))],
    "no-choices": lambda text: [Send(reply({text[-50:]: text}))],
    "refused": lambda text: [Send(reply(_quoted(text), 401))],
    "no-http": lambda text: [Send(f"-ERR {text}\r\n\r\n".encode()), Fin()],
    "moved": lambda text: [Send(reply(b"", 302, location=f"http://localhost/{text[:900]}"))],
    "limits": lambda text: [Send(reply({"error": {"message": "slow"}}, 429, x_ratelimit_seen=text, retry_after=text))],
    "field": lambda text: [Send(reply(COMPLETION, openai_seen=text, openai_model="seen"))],
    "coding": lambda text: [Send(reply(b"x", content_encoding=text[-30:]))],
    "first-event": lambda text: [Send(stream(event(_quoted(text))))],
    "own-event": lambda text: [Send(stream(delta(content="a"), event({"error": {"message": text, "type": "t"}})))],
    "foreign-event": lambda text: [Send(stream(delta(content="a"), event({"code": 5, "msg": text})))],
    "named-event": lambda text: [Send(stream(delta(content="a"), f"event: error\ndata: {text!r}\n\n".encode()))],
    "beside-event": lambda text: [
        Send(stream(*(f"{name}{text}\n".encode() + EVENTS[0] for name in BESIDE), *EVENTS[1:])),
    ],
    "no-event": lambda text: [Send(stream(delta(content="a"), f"data: {text!r}\n\n".encode()))],
}
"""Errors in which an upstream quotes what it received."""


def upstream_answer(request: Received) -> Dialogue:
    if request.method == "GET":  # the model list, or what doctor asks after it
        return [Send(reply(_quoted(received(request)), 500))]
    asked = request.json()
    if (case := asked.get("user")) in ECHOES:
        return ECHOES[case](received(request))
    if request.target.endswith("/embeddings"):
        return [Send(reply(VECTORS))]
    return [Send(stream(*EVENTS) if asked.get("stream") else reply(COMPLETION))]


ISSUERS: dict[str, Callable[[str], Dialogue]] = {
    "described": lambda text: [Send(reply({"error": "invalid_client", "error_description": text}, 401))],
    "message": lambda text: [Send(reply({"message": text}, 500))],
    "text": lambda text: [Send(reply(text.encode(), 500, content_type="text/plain"))],
    "title": lambda text: [Send(reply(f"<html><title>{text}</title>".encode(), 503, content_type="text/html"))],
    "in-200": lambda text: [Send(reply({"code": 40101, "msg": text}))],
    "member": lambda text: [Send(reply({text[-30:]: "x"}))],
    "no-http": lambda text: [Send(f"-ERR {text}\r\n\r\n".encode()), Fin()],
    "moved": lambda text: [Send(reply(b"", 302, location=f"http://localhost/{text[:900]}"))],
    "no-token": lambda text: [Send(reply({"access_token": text}))],
}
"""Replies in which an issuer quotes what it received, without a token."""


class Servers:
    """`spoken` holds the tokens that were minted, `upstreams` one server for each credential."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.issuer = Scripted(answer=self._mint)
        self.upstreams = {name: Scripted(answer=upstream_answer) for name in GOOD}

    def _mint(self, request: Received) -> Dialogue:
        case = request.target.split("/")[1].partition("?")[0]
        if case in ISSUERS:
            return ISSUERS[case](received(request))
        self.tokens.append(f"minted+token/{len(self.tokens)}~{case}==")
        return [Send(reply({"access_token": self.tokens[-1], "expires_in": 300}))]

    def credentials(self, cases: Iterable[str] = ISSUERS) -> dict[str, Any]:
        def basic(case: str) -> dict[str, Any]:
            url = f"{self.issuer.url}/{case}"
            return {"type": "oauth2", "token_url": url, "client_id": "ragflow", "client_secret": CLIENT_SECRET}

        def form(case: str) -> dict[str, Any]:
            return {
                **basic(case),
                "client_auth": "form",
                "client_secret": FORM_SECRET,
                "extra": {"assertion": ASSERTION},
            }

        def login(case: str) -> dict[str, Any]:
            return {
                "type": "http_json",
                "url": f"{self.issuer.url}/{case}",
                "headers": {"x-login": HEADER_SECRET},
                "query": {"sig": QUERY_SECRET},
                "json": {"user": "bot", "secret": JSON_SECRET},
            }

        kinds = {"corp": basic, "form": form, "login": login}
        good = {name: kind(name) for name, kind in kinds.items()}
        bad = {f"{name}.{case}": kind(case) for case in cases for name, kind in kinds.items()}
        return {**good, **bad, "fixed": {"type": "static", "token": STATIC_TOKEN}}

    def blocks(self, cases: Iterable[str] = ISSUERS) -> dict[str, Any]:
        names = self.credentials(cases)
        keys = f"{CLIENT_KEY}\n{OTHER_KEY}"
        return {
            "credentials": names,
            "upstreams": {
                name: {
                    "base_url": f"{self.upstreams[name.partition('.')[0]].url}/v1",
                    "credential": name,
                    "query": {"tenant": Reference.to_variable("PARAMETER", PARAMETER)},
                }
                for name in names
            },
            "models": {name: {"upstream": name} for name in names},
            "operations": {"embeddings": {"upstream": "login"}},
            "access": {"keys": [{"name": "client", "key": Reference.to_variable("KEYS", keys)}]},
        }


@pytest.fixture
async def servers():
    made = Servers()
    servers = [made.issuer, *made.upstreams.values()]
    for server in servers:
        await server.__aenter__()
    yield made
    for server in servers:
        await server.__aexit__(None, None, None)


async def send(gp: Gateway, body: Any, path: str = "/v1/chat/completions", **more: Any) -> Answer:
    return await gp.ask(body, path, headers={**JSON, "authorization": f"Bearer {CLIENT_KEY}"}, **more).answer()


async def play(gp: Gateway, servers: Servers, good: Sequence[str]) -> list[Answer]:
    """Good and failing exchanges of every kind, with the credentials `good` and the failing ones of the same kind."""
    answers = [await send(gp, {**body, "model": name}) for name in good for body in (HELLO, STREAMED)]
    assert {answer.status for answer in answers} == {200}
    answers += [
        await send(gp, {**body, "model": name, "user": case})
        for name in good
        for case in ECHOES
        for body in (HELLO, STREAMED)
    ]
    bad = [name for name in servers.credentials() if "." in name and name.partition(".")[0] in good]
    failed = await asyncio.gather(*(send(gp, {**HELLO, "model": name}) for name in bad))
    assert {(answer.status, answer.error["code"]) for answer in failed} <= {(503, "token_unavailable")}
    answers += failed
    answers += [await send(gp, {"model": "unlisted", "input": "x"}, "/v1/embeddings")]
    answers += [await send(gp, None, "/v1/models", method="GET")]
    answers += [await send(gp, None, f"/v1/models/gpt?key={CLIENT_KEY}&other={OTHER_KEY}", method="GET")]
    answers += [await gp.ask(headers={**JSON, "x-api-key": CLIENT_KEY, "api-key": OTHER_KEY}).answer()]
    return answers


async def shown_stories(state: AppState, answers: list[Answer]) -> str:
    ids = [answer.headers["x-request-id"] for answer in answers if "x-request-id" in answer.headers]
    return "\n".join([msgspec.json.encode(await stories(state, one, bodies=True)).decode() for one in ids])


def assert_silent(text: str, secrets: list[str], where: str) -> None:
    """Assert that `text` contains none of `secrets`, neither unchanged nor as JSON writes it."""
    for secret in secrets:
        forms = {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
        forms |= {json.dumps(form)[1:-1] for form in forms}
        for form in forms:
            at = text.find(form)
            assert at < 0, f"{where} holds {secret!r}: …{text[max(0, at - 200) : at + 100]!r}…"


@pytest.mark.parametrize(("name", "style"), [("corp", "json"), ("form", "text"), ("login", "json"), ("fixed", "text")])
async def test_no_secret_is_printed_in_any_echo(servers, style, name):
    log = {"format": style, "level": "debug"}
    async with Scripted(answer=lambda _: [Send(reply(""))]) as collector:
        tracing = {"endpoint": collector.url}
        async with gateway(log=log, tracing=tracing, **servers.blocks()) as gp:
            with logged(gp.state) as out:
                gp.state.capture.start(CaptureSettings())
                answers = await play(gp, servers, [name])
                metrics = await send(gp, None, "/metrics", method="GET")
                shown = "\n".join(map(repr, _inner(gp.state)))
                stories = await shown_stories(gp.state, answers)
        spans = b"".join(one.body for one in collector.received).decode("utf-8", "replace")
    secrets = [*CONFIGURED, *servers.tokens]
    assert name == "fixed" or len(servers.tokens) > 3, "a 401 was answered with a new token"
    bodies = "\n".join(answer.body.decode() for answer in answers)
    fields = "\n".join(f"{name}: {value}" for answer in answers for name, value in answer.headers.items())
    assert bodies.count("***") > 15, "echoes were masked, or there was none"
    assert "openai-model: seen" in fields, "fields of a good answer are relayed"
    assert "***" in out.getvalue()
    assert stories.count("***") > 30
    assert spans.count("gatepass.code") > 3, "failures were traced"
    for text, where in (
        *((out.getvalue(), "the log"), (bodies, "a body"), (fields, "a header")),
        *((metrics.body.decode(), "/metrics"), (shown, "a repr"), (stories, "a captured body")),
        (spans, "a span"),
    ):
        assert_silent(text, secrets, where)
        if text is not shown:  # a pool has the whole URL
            assert_silent(text, [quote(PARAMETER, safe=""), quote(PARAMETER)], where)
    # no token is sent to another host
    own = {f"Bearer {token}" for token in servers.tokens if token.endswith(f"~{name}==")}
    requests = servers.upstreams[name].received
    assert {request.header("authorization") for request in requests} <= (own or {f"Bearer {STATIC_TOKEN}"})
    assert {request.target.partition("?")[2] for request in requests} == {f"tenant={quote(PARAMETER, safe='')}"}
    configured = [*CONFIGURED[:-4], CLIENT_KEY, OTHER_KEY]
    assert_silent("".join(map(received, requests)), configured, f"the upstream {name}")
    asked = "".join(map(received, servers.issuer.received))
    assert_silent(asked, [*servers.tokens, PARAMETER, quote(PARAMETER), *CONFIGURED[-3:]], "the issuer")


async def test_no_secret_leaves_by_the_page(servers):
    """The ring, a capture and each view that an admin reads, after echoes of every kind."""
    blocks = servers.blocks()
    blocks["access"]["keys"][0]["role"] = "admin"
    async with gateway(server={"ui": True, "drain_timeout_s": 0}, log={"level": "debug"}, **blocks) as gp:
        own = {**JSON, "origin": f"http://127.0.0.1:{gp.port}", "authorization": f"Bearer {CLIENT_KEY}"}

        async def page(path: str) -> str:
            answer = await gp.ask(None, f"/ui/api/{path}", method="GET", headers=own).answer()
            assert answer.status == 200
            return answer.body.decode()

        with logged(gp.state) as out:
            assert (await gp.ask({"for_s": 600}, "/ui/api/capture", headers=own).answer()).status == 200
            await play(gp, servers, ["login"])
            listing = await page("requests?limit=1000")
            ids = [one["id"] for one in json.loads(listing)["requests"]]
            told = [await page(f"requests/{one}") for one in ids]
            paths = ("session", "status", "traffic", "callers", "models", "use", "capture")
            views = [await page(path) for path in paths]
    assert len(ids) > 40
    assert sum('"bodies"' in one for one in told) > 30
    secrets = [*CONFIGURED, *servers.tokens]
    for text in (out.getvalue(), listing, *told, *views):
        assert_silent(text, secrets, "the page or the log")


async def test_no_caller_s_token_is_printed_anywhere(servers):
    """Good, expired and broken ones, in Authorization and x-api-key, while upstreams quote what they receive."""
    key, issuer = SigningKey("k1"), "https://login.corp.example/realm"
    claims = Clients(issuer, time.time(), more={"jti": "jti-4711-of-a-token", "email": "a@corp.example"}).claims
    head, body, signature = key.sign(claims()).split(".")
    texts = {
        "good": key.sign(claims()),
        "expired": key.sign(claims(exp=5)),
        "of another audience": key.sign(claims(aud="api://other")),
        "of another issuer": key.sign(claims(iss="https://other.example")),
        "without a row": key.sign(claims(roles=["none"])),
        "with another key": SigningKey("k1", number=1).sign(claims()),
        "with an unknown kid": SigningKey("k9", "EdDSA").sign(claims()),
        "with a broken signature": f"{head}.{body}.{signature[:-9]}AAAAAAAAA",
        "without a signature": f"{head}.{body}.",
        "cut": f"{head}.{body[:-5]}.{signature}",
        "with padding": f"{head}.{body}==.{signature}",
        "encrypted": f"{head}.{'b' * 40}.{'c' * 40}.{'d' * 40}.{'e' * 40}",
    }
    blocks = servers.blocks()
    blocks["access"]["keys"][0]["role"] = "admin"
    row = {"claim": "roles", "contains": "llm-user", "name_from": "preferred_username", "name": "people"}
    document = key_set(key)

    def keys_or_answer(request: Received) -> Dialogue:
        return [Send(reply(document))] if request.target == "/certs" else [Send(reply(""))]

    async with Scripted(answer=keys_or_answer) as collector:
        entry = {"issuer": issuer, "audience": "api://gatepass", "callers": [row], "jwks": f"{collector.url}/certs"}
        blocks["access"]["jwt"] = [entry]
        log = {"format": "json", "level": "debug"}
        server = {"ui": True, "drain_timeout_s": 0}
        async with gateway(server=server, log=log, tracing={"endpoint": collector.url}, **blocks) as gp:
            with logged(gp.state) as out:
                gp.state.capture.start(CaptureSettings())
                answers: list[Answer] = []
                for name, text in texts.items():
                    for fields in (
                        {"authorization": f"Bearer {text}"},
                        {"x-api-key": text},
                        {"authorization": f"bearer {text}", "x-api-key": text},
                        {"authorization": f"Bearer {CLIENT_KEY}", "x-api-key": text},
                        {"authorization": f"Basic {text}"},
                    ):
                        cases = [{"user": "json"}, {"user": "detail"}, {}] if name == "good" else [{}]
                        for case in cases:
                            asked = {**HELLO, "model": "fixed", **case}
                            answers.append(await gp.ask(asked, headers={**JSON, **fields}).answer())
                        path = f"/v1/models?key={text}"
                        answers.append(await gp.ask(None, path, method="GET", headers=fields).answer())
                own = {"origin": f"http://127.0.0.1:{gp.port}", "authorization": f"Bearer {CLIENT_KEY}"}
                paths = ["/metrics", "/status", "/learned", "/ui/api/requests?limit=1000", "/ui/api/traffic"]
                views = [await gp.ask(None, path, method="GET", headers=own).answer() for path in paths]
                shown = "\n".join(map(repr, _inner(gp.state)))
                stories = await shown_stories(gp.state, answers)
        spans = b"".join(one.body for one in collector.received).decode("utf-8", "replace")
    found = {answer.status for answer in answers}
    assert found >= {200, 400, 401, 403}
    assert "alice" in out.getvalue(), "the log names the user"
    assert {view.status for view in views} == {200}
    parts = sorted({part for text in texts.values() for part in text.split(".")[1:] if len(part) > 20})
    bodies = "\n".join(f"{answer.headers} {answer.body.decode()}" for answer in answers)
    relayed = "".join(map(received, servers.upstreams["fixed"].received))
    for text, where in (
        *((out.getvalue(), "the log"), (bodies, "an answer"), (shown, "a repr"), (stories, "a captured body")),
        *((view.body.decode(), "a view") for view in views),
        *((spans, "a span"), (relayed, "the upstream")),
    ):
        assert_silent(text, [*parts, "jti-4711-of-a-token", "a@corp.example"], where)
    # no metric has a name that an issuer gave
    assert_silent(views[0].body.decode(), ["alice", '"u1"'], "a metric")


def _inner(state: AppState) -> Iterator[Any]:
    """Objects that a developer might print while debugging."""
    config = state.config
    yield from (
        state,
        config,
        config.model_dump(),
        config.model_dump_json(),
        dict(state.upstreams),
        dict(state.holders),
    )
    for holder in state.holders.values():
        yield from (vars(holder), str(holder), holder.status(), holder.current())
    for hop in state.upstreams.values():
        yield from (hop.settings, vars(hop.transport) if hasattr(hop.transport, "__dict__") else hop.transport)
    yield from (vars(state.authenticator), state.routes, state.redactor)


@pytest.mark.parametrize(("title", "blank"), [("", " "), ("<html><title>", "\0")])
@pytest.mark.parametrize("shown_chars", [12, len(STATIC_TOKEN) - 1])
async def test_a_secret_that_the_bound_of_an_error_body_halves_is_not_shown(shown_chars, blank, title):
    """gatepass reads 64 KiB of an error. Blanks are folded, so the end of those bytes may be shown."""
    before = (f"{title}wrong:").ljust(ERROR_BYTES - shown_chars, blank)
    page = f"{before}{STATIC_TOKEN}{blank}and more".encode()
    credentials = {"fixed": {"type": "static", "token": STATIC_TOKEN}}
    error = [Send(reply(page, 500, content_type="text/plain"))]
    async with relaying(error, chat={"credential": "fixed"}, credentials=credentials) as (_, gp):
        with logged(gp.state) as out:
            answer = await gp.ask(HELLO).answer()
    assert answer.status == 500
    for text in (answer.body.decode(), out.getvalue()):
        assert STATIC_TOKEN[:8] not in text


async def test_token_that_an_upstream_quotes_with_html_references_is_masked():
    token = "eyJh+bGci/OiJS=UzI1-NiIs_InR5.cCI6&IkpX:VCJ9"
    quoted = "".join(f"&#x{ord(char):X};" if char in "+/=-_.&:" else char for char in token)

    def answer(request: Received) -> Dialogue:
        assert request.header("authorization") == f"Bearer {token}"
        return ECHOES[request.json()["user"]](f"[ Bearer {quoted}")

    credentials = {"fixed": {"type": "static", "token": token}}
    settings: Any = {"credentials": credentials, "log": {"level": "debug"}}
    async with relaying(answer=answer, chat={"credential": "fixed"}, **settings) as (_, gp):
        with logged(gp.state) as out:
            answers = [await gp.ask({**body, "user": case}).answer() for case in ECHOES for body in (HELLO, STREAMED)]
    shown = "\n".join([out.getvalue(), *(f"{answer.body.decode()} {dict(answer.headers)!r}" for answer in answers)])
    assert shown.count("***") > 30
    assert_silent(shown, [token, quoted, html.unescape(quoted)], "an answer or the log")


async def test_check_route_and_doctor_print_no_secret(servers, tmp_path, monkeypatch):
    """The file names variables; the effective configuration, the route and the doctor name no value."""
    names = {
        "CLIENT_SECRET": CLIENT_SECRET,
        "FORM_SECRET": FORM_SECRET,
        "ASSERTION": ASSERTION,
        "JSON_SECRET": JSON_SECRET,
        "HEADER_SECRET": HEADER_SECRET,
        "QUERY_SECRET": QUERY_SECRET,
        "PARAMETER": PARAMETER,
        "STATIC_TOKEN": STATIC_TOKEN,
        "CLIENT_KEYS": f"{CLIENT_KEY}\n{OTHER_KEY}",
    }
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GATEPASS_CONFIG", raising=False)
    blocks = servers.blocks(["described", "member"])
    blocks["access"] = {"keys": [{"name": "client", "key": "${CLIENT_KEYS}"}]}
    text = json.dumps(blocks, ensure_ascii=False)
    for name, value in names.items():
        text = text.replace(json.dumps(value, ensure_ascii=False)[1:-1], f"${{{name}}}")
    file = tmp_path / "gatepass.json"
    file.write_text(text)
    printed = ""
    for command, *arguments in (
        ["check"],
        ["check", "--json"],
        ["check", "--route", "corp", "--key", "client"],
        ["doctor"],
    ):
        called = [command, "--config", str(file), *arguments]
        result = await asyncio.to_thread(CliRunner().invoke, main, called)
        assert result.exit_code == (1 if command == "doctor" else 0), result.output
        printed += result.output
    assert "credential:corp.described" in printed
    assert "***" in printed
    assert "query parameters tenant" in printed
    assert_silent(printed, [*CONFIGURED, *servers.tokens, quote(PARAMETER, safe="")], "check, route and doctor")
