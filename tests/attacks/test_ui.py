"""Nothing of the page at /ui leaves to a client without the role, or to another site, however a request is written."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import product
from typing import Any
from urllib.parse import unquote

import pytest
from fastapi import FastAPI

from gatepass import Config, create_app
from gatepass.config.access import hash_key
from gatepass.observability.capture import BODY_BYTES, MOST_BYTES, CaptureSettings
from gatepass.server.admin import ROUTES
from tests.attacks.conftest import Attack
from tests.integration.answers import COMPLETION
from tests.integration.gateway import Ask, gateway
from tests.integration.scripted import Scripted, Send, reply

KEYS = {role: f"gp-{role}-0123456789abcdef" for role in ("caller", "viewer", "admin")}
BLOCKS: dict[str, Any] = {
    "upstreams": {"u": {"base_url": "http://127.0.0.1:9/v1"}},
    "server": {"base_path": "/llm", "drain_timeout_s": 0, "ui": True, "ui_hosts": ["gw.example"]},
    "access": {"keys": [{"name": role, "role": role, "hash": hash_key(key)} for role, key in KEYS.items()]},
}
HOST = "gw.example"
TRICKS = 1_000
OF_VIEWER = (
    b'"requests":[',
    b'"stories":[',
    b'"routes":[',
    b'"callers":[',
    b'"values":[',
    b'"action":',
    b'"series":',
    b'"rules":[',
    b'"limits":[',
    b'"upstreams":',
)
OF_ADMIN = (b'"forgotten":', b'\n{"running":', b"event: step")
"""Words of the answers that only these roles receive."""
ANY = (*OF_VIEWER, *OF_ADMIN, b'"signed_in":', b"set-cookie", b"<html")
"""Words that no other site receives."""

PATHS = (
    *(
        "/ui/{}",
        "/ui//{}",
        "//ui/{}",
        "/ui/./{}",
        "/ui/x/../{}",
        "/UI/{}",
        "/ui/{}/",
        "/ui/{}//",
        "/ui/{}%00",
        "/ui/{};a=b",
    ),
    *("/ui/{}?role=admin", "/ui/{}?key={admin}", "/ui/{}?access_token={admin}", "/llm/ui/{}", "/llm//ui/{}"),
    *("http://gw.example/ui/{}", "http://127.0.0.1/ui/{}", "/for/plain/ui/{}", "/v1/ui/{}", "/ui\\{}", "/ui/%2e/{}"),
    *("/healthz/../ui/{}", "/ui/api/session/../../{}", "/ui/api/status/{}", "/ui/%61pi/../{}", "/ui%2f{}", "/ui/{}#"),
)
METHODS = ("GET", "POST", "DELETE", "HEAD", "PUT", "PATCH", "OPTIONS", "PROPFIND", "get")
CLAIMS: tuple[tuple[tuple[str, str], ...], ...] = (
    (),
    (("authorization", "Bearer {caller}"),),
    (("authorization", "Bearer {digest}"),),
    (("authorization", "Bearer "),),
    (("authorization", "Bearer {caller}, Bearer {admin}"),),
    (("authorization", "Bearer {caller}"), ("x-api-key", "{admin}")),
    (("authorization", "Bearer sha256:{digest}"),),
    (("authorization", "Cookie {admin}"),),
    (("cookie", "gatepass_ui={admin}"),),
    (("cookie", "gatepass_key={admin}; authorization=Bearer {admin}"),),
    (("x-authorization", "Bearer {admin}"), ("x-gatepass-key", "{admin}")),
    (("proxy-authorization", "Bearer {admin}"),),
    (("x-role", "admin"), ("x-gatepass-caller", "admin")),
    (("x-original-url", "/ui/api/session"), ("x-rewrite-url", "/healthz")),
    (("x-http-method-override", "GET"), ("x-forwarded-for", "127.0.0.1")),
    (("forwarded", "for=127.0.0.1;host=localhost"), ("x-forwarded-host", "localhost")),
)
"""What a client without the right key claims. `{admin}` stands where gatepass reads no key, or another one."""
FOREIGN: tuple[tuple[tuple[str, str], ...], ...] = (
    (("host", "evil.example"),),
    (("host", "evil.example"), ("origin", "http://evil.example")),
    (("host", "gw.example.evil.example"),),
    (("host", "127.0.0.1.evil.example"),),
    (("host", "gw.example@evil.example"),),
    (("host", "evil.example#gw.example"),),
    (("host", "gw.example"), ("host", "evil.example")),
    (("host", "evil.example"), ("x-forwarded-host", "gw.example")),
    (("host", ""),),
    (("host", "gw.example evil.example"),),
    (("host", "gw.example"), ("origin", "http://evil.example")),
    (("host", "gw.example"), ("origin", "null")),
    (("host", "gw.example"), ("origin", "")),
    (("host", "gw.example"), ("origin", "http://gw.example:81")),
    (("host", "gw.example"), ("origin", "http://gw.example.evil.example")),
    (("host", "gw.example"), ("origin", "http://evil.example/gw.example")),
    (("host", "gw.example"), ("origin", "http://gw.example@evil.example")),
    (("host", "gw.example"), ("origin", "ftp://gw.example")),
    (("host", "gw.example"), ("origin", "chrome-extension://gw.example")),
    (("host", "gw.example"), ("origin", "http://gw.example"), ("origin", "http://evil.example")),
    (("host", "gw.example"), ("origin", "http://gw.example http://evil.example")),
    (("host", "gw.example"), ("origin", "http://gw.example"), ("sec-fetch-site", "cross-site")),
    (("host", "gw.example"), ("sec-fetch-site", "same-site")),
    (("host", "gw.example"), ("sec-fetch-site", "Cross-Site")),
    (("host", "gw.example"), ("sec-fetch-site", "same-origin, cross-site")),
    (("host", "gw.example"), ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")),
)
"""Fields of requests that pages of other sites may cause, all with the key of an admin."""


@dataclass(frozen=True, slots=True)
class Trick:
    method: str
    target: str
    fields: tuple[tuple[str, str], ...]
    forbidden: tuple[bytes, ...]
    """Words that the answer must not have."""

    @property
    def head(self) -> bytes:
        lines = "".join(f"{name}: {value}\r\n" for name, value in (*self.fields, ("connection", "close")))
        return f"{self.method} {self.target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


def tricks(seed: int = 29) -> Iterator[Trick]:
    choose = random.Random(seed)
    paths = ["api/" + route.path.format(id="x") for route in ROUTES]
    own = (("host", HOST), ("origin", f"http://{HOST}"))
    json_body = (("content-type", "application/json"), ("content-length", "0"))
    names = {**KEYS, "digest": sha256(KEYS["admin"].encode()).hexdigest()}
    for number in range(TRICKS):
        target = choose.choice(PATHS).replace("{admin}", KEYS["admin"]).replace("{}", choose.choice(paths))
        method = choose.choice(METHODS)
        claims = tuple((name, value.format(**names)) for name, value in choose.choice(CLAIMS))
        if number % 3 == 0:  # no key with a role
            yield Trick(method, target, (*own, *claims, *json_body), (*OF_VIEWER, *OF_ADMIN))
        elif number % 3 == 1:  # a viewer, who claims more
            key = ("authorization", f"Bearer {KEYS['viewer']}")
            claims = tuple(field for field in claims if field[0] != "authorization")
            yield Trick(method, target, (*own, key, *claims, *json_body), OF_ADMIN)
        else:
            # a browser sends a URL as the target only to a proxy, and its host then counts (RFC 9112, section 3.2.2)
            target = target.removeprefix("http://gw.example").removeprefix("http://127.0.0.1")
            key = ("authorization", f"Bearer {KEYS['admin']}")
            target = target if choose.random() < 0.8 else choose.choice(["/ui", "/ui/", "/ui/index.html", "/llm/ui/"])
            yield Trick(method, target, (*choose.choice(FOREIGN), key, *json_body), ANY)


async def over_http(port: int, trick: Trick) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(trick.head)
    received = b""
    try:
        while data := await reader.read(65536):
            received += data
            if any(mark in received for mark in trick.forbidden):
                break
    finally:
        writer.close()
    return received


async def over_asgi(app: FastAPI, trick: Trick) -> bytes:
    target = trick.target.removeprefix("http://gw.example").removeprefix("http://127.0.0.1").partition("#")[0]
    path, _, query = target.partition("?")
    received = bytearray()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": trick.method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "root_path": "",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in trick.fields],
        "client": ("192.0.2.7", 4711),
        "server": ("gw.example", 80),
    }
    messages, ended = iter([{"type": "http.request", "body": b"", "more_body": False}]), asyncio.Event()

    async def receive() -> Any:
        for message in messages:
            return message
        await ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        for name, value in message.get("headers", ()):
            received.extend(name + b": " + value + b"\r\n")
        received.extend(message.get("body", b""))
        if message["type"] == "http.response.body" and not message.get("more_body"):
            ended.set()

    await app(scope, receive, send)
    return bytes(received)


@asynccontextmanager
async def opened(blocks: dict[str, Any]) -> AsyncIterator[tuple[Callable[[Trick], Awaitable[bytes]], ...]]:
    """Serve one configuration under `gatepass serve` and as an ASGI application, and yield what asks each one."""
    app = create_app(Config.model_validate(blocks))
    async with gateway(**blocks) as gp, app.router.lifespan_context(app):
        yield partial(over_http, gp.port), partial(over_asgi, app)


@pytest.mark.attack("access: tricks at the page of operators")
async def test_no_trick_reaches_the_page(attack: Attack):
    async with opened(BLOCKS) as servers:
        for ask, trick in product(servers, tricks()):
            answer = await ask(trick)
            attack.check(not any(mark in answer for mark in trick.forbidden), (ask, trick))


MIB = 1 << 20
KNOWN = [f"gp-{sha256(b'%d' % number).hexdigest()[:43]}" for number in range(100)]
"""Keys that gatepass knows in clear: each is masked in all its spellings."""
ALIKE = [f"gp-{one[3:11]}-0123456789abcdefghijklmnopqrstuv" for one in KNOWN]
"""Keys of one ending, which have one anchor."""
BODIES = {
    "an image": b"iVBORw0KGgo",
    "escapes": b'\\n\\"\\u00e9',
    "a key": KNOWN[7].encode() + b" ",
    "beginnings of keys": b"".join(one[:-1].encode() for one in KNOWN),
    "keys of one ending": " ".join(ALIKE).encode() + b" ",
}


@pytest.mark.attack("a click on a large captured request")
@pytest.mark.parametrize("text", BODIES)
async def test_a_click_on_a_large_captured_request_holds_no_loop_and_little_memory(attack: Attack, text: str) -> None:
    key, unit, known = KEYS["admin"], BODIES[text], ALIKE if "ending" in text else KNOWN
    content = unit * (9 * MIB // len(unit))
    body = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % content
    bearer = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    async with (
        Scripted([Send(reply(COMPLETION))]) as upstream,
        gateway(**{**BLOCKS, "upstreams": {"u": {"base_url": f"{upstream.url}/v1"}}}) as gp,
    ):
        for number, one in enumerate(known):  # as for `access.keys[].key`
            gp.state.redactor.learn(one, ("access.keys", number, 0))
        gp.state.capture.start(CaptureSettings())
        asked = await gp.ask(body, "/llm/v1/chat/completions", headers=bearer).answer()
        fields = {"host": HOST, "authorization": f"Bearer {key}"}
        path = f"/ui/api/requests/{asked.headers['x-request-id']}"
        async with attack.on_this_loop():
            shown = await Ask(gp.port, "GET", path, fields, b"").answer()
        (request,) = [one for one in shown.json()["stories"][0]["bodies"] if one["name"] == "request"]
        with attack.memory(8 * MOST_BYTES):
            again = await Ask(gp.port, "GET", path, fields, b"").answer()
        attack.check((request["size_bytes"], again.body) == (BODY_BYTES, shown.body), shown.body[:200])
        attack.check(known[7].encode() not in shown.body, text)
