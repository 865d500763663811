"""Twenty faults behind one running gatepass, for the tests of `gatepass show` and of the page at /ui.

`STAGED` names each fault with the hop that failed and a word that its story must have. The model of a request chooses
the fault: `ask` sends it and returns what the client sees.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import trustme

from tests.integration.answers import COMPLETION, EVENTS
from tests.integration.gateway import Ask
from tests.integration.processes import started
from tests.integration.scripted import Dialogue, Fin, Hold, Pause, Received, Send, begin_stream, chunk, reply
from tests.integration.test_connections import refusing_server
from tests.integration.test_doctor_faults import Stage

ADMIN, CALLER, NARROW = (f"gp-{name}-key-0123456789abcdef" for name in ("admin", "caller", "narrow"))
ID = re.compile(r'"request_id": ?"([^"]+)"')
PAGE = [Send(reply(b"<!doctype html><title>Sign in</title>", content_type="text/html"))]
TOKEN = [Send(reply({"access_token": "minted-token-4711", "expires_in": 300}))]
SEED = {"error": {"message": "Unsupported parameter: 'seed'", "param": "seed", "code": "unsupported_parameter"}}
TOOLS = {"error": {"message": "tools are not supported with this model", "code": "no_tools"}}


@dataclass(frozen=True, slots=True)
class Fault:
    """`model` chooses the fault. `code` and `hop` are the error's, both None where the client gets a good answer."""

    model: str
    hop: str | None
    code: str | None
    says: str
    """A word of the story as `gatepass show` prints it."""
    key: str = CALLER
    streams: bool = False
    leaves: bool = False
    """The client goes away in the middle of the stream."""


STAGED = (
    Fault(
        "issuer-refuses", "credential:issuer-refuses", "token_unavailable", "credentials.issuer-refuses.client_secret"
    ),
    Fault("issuer-page", "credential:issuer-page", "token_unavailable", "HTML"),
    Fault("issuer-hangs", "credential:issuer-hangs", "token_unavailable", "no complete answer"),
    Fault("dns", "upstream:dns", "upstream_dns", "llm.corp.invalid"),
    Fault("tls", "upstream:tls", "upstream_tls", "ca_file"),
    Fault("proxy", "upstream:proxy", "upstream_connect", "proxy"),
    Fault("rejects-token", "upstream:rejects-token", "upstream_auth", "401"),
    Fault("code-102", "upstream:plain", "102", "from user"),
    Fault("login-page", "upstream:plain", "upstream_html", "Sign in"),
    Fault("cut-stream", "upstream:plain", "upstream_closed", "closed first by: upstream", streams=True),
    Fault("slow-first", None, None, "first byte of the answer after 4", streams=True),
    Fault("refused-parameter", "upstream:plain", "no_tools", "tools are not supported"),
    Fault("learned-rule", None, None, "drop=seed"),
    Fault("failover", None, None, "next target"),
    Fault("client-gone", None, None, "closed first by: client", streams=True, leaves=True),
    Fault("total-timeout", "upstream:slow", "upstream_timeout_total", "timeouts.total_s"),
    Fault("limit", "gatepass", "concurrency_limited", "max_concurrent", key=NARROW),
    Fault("key", "client", "invalid_api_key", "API key", key="gp-unknown"),
    Fault("no-such-model", "client", "model_not_found", "not configured"),
    Fault("model-not-allowed", "client", "model_not_allowed", "may not use", key=NARROW),
)


def answer(request: Received) -> Dialogue:
    body = request.json()
    match body["model"]:
        case "code-102":
            return [Send(reply({"code": 102, "message": "The last content is not from user", "data": None}))]
        case "login-page":
            return [Send(reply(b"<!doctype html><title>Sign in</title>", 403, content_type="text/html"))]
        case "cut-stream":
            return [*begin_stream(), Send(chunk(EVENTS[0])), Fin()]
        case "slow-first":
            return [*begin_stream(), Pause(0.4), *(Send(chunk(one)) for one in EVENTS), Fin()]
        case "refused-parameter":
            return [Send(reply(TOOLS, 400))]
        case "learned-rule":
            return [Send(reply(SEED, 400) if "seed" in body else reply(COMPLETION))]
        case "client-gone":
            return [*begin_stream(), Send(chunk(EVENTS[0])), Hold()]
        case "total-timeout" | "held":
            return [Hold()]
    return [Send(reply(COMPLETION))]


@dataclass(frozen=True, slots=True)
class Staged:
    port: int
    socket: str

    async def ask(self, fault: Fault) -> str:
        """Send a request with `fault`, and return the text that its client sees."""
        body = {
            "model": fault.model,
            "seed": 1,
            "messages": [{"role": "user", "content": "hi"}],
            "stream": fault.streams,
        }
        fields = {"content-type": "application/json", "authorization": f"Bearer {fault.key}"}
        ask = Ask(self.port, "POST", "/v1/chat/completions", fields, json.dumps(body).encode())
        if fault.leaves:
            async with ask:
                await ask.head()
                await ask.until(b"data: ")
            return f'"request_id": "{ask.received["x-request-id"]}"'
        found = await ask.answer()
        # a good answer names its request in the header alone
        text = found.body.decode()
        return text if ID.search(text) else f'{text}\n"request_id": "{found.headers["x-request-id"]}"'

    async def hold(self) -> asyncio.Task[Any]:
        """Keep the only concurrent request of the narrow caller busy until the task is cancelled."""
        fields = {"content-type": "application/json", "authorization": f"Bearer {NARROW}"}
        data = b'{"model": "held", "messages": []}'
        held = asyncio.create_task(Ask(self.port, "POST", "/v1/chat/completions", fields, data).answer())
        await asyncio.sleep(0)
        return held


def id_in(text: str) -> str:
    """Return the id of the request in the text of an error."""
    found = ID.search(text)
    assert found is not None, text
    return found[1]


@asynccontextmanager
async def staged(tmp_path: Path, **server: Any) -> AsyncIterator[Staged]:
    """Run a gatepass with all faults behind it, with an admin, a caller, and a caller with one concurrent request."""
    path = tmp_path / "own" / "control.sock"
    async with AsyncExitStack() as stack:
        stage = Stage(tmp_path, stack)
        plain = await stage.server(answer=answer)
        secure = await stage.server([Hold()], tls=stage.tls(trustme.CA().issue_cert("127.0.0.1")))
        refused = stack.enter_context(refusing_server())
        rejecting = await stage.server([Send(reply({"error": {"message": "token expired"}}, 401))])
        issuers = {
            "issuer-refuses": await stage.server([Send(reply({"error": "invalid_client"}, 401))]),
            "issuer-page": await stage.server(PAGE),
            "issuer-hangs": await stage.server([Hold()]),
            "rejects-token": await stage.server(TOKEN),
        }
        url = f"{plain}/v1"
        upstreams: dict[str, Any] = {
            "plain": {"base_url": url},
            "slow": {"base_url": url, "timeouts": {"total_s": 0.5}},
            "dns": {"base_url": "https://llm.corp.invalid/v1"},
            "tls": {"base_url": f"{secure}/v1"},
            "proxy": {"base_url": "https://llm.example/v1", "network": {"proxy": refused}},
            "down": {"base_url": f"{refused}/v1"},
            **{name: {"base_url": url, "credential": name} for name in issuers},
        }
        upstreams["rejects-token"]["base_url"] = f"{rejecting}/v1"
        oauth2 = {"type": "oauth2", "client_id": "me", "client_secret": "secret-of-client-4711"}
        keys = ((ADMIN, {"name": "admin", "role": "admin"}), (CALLER, {"name": "caller"}))
        narrow = {"name": "narrow", "models": ["held", "limit"], "limits": {"max_concurrent": 1}}
        own = {"dns", "tls", "proxy", *issuers}
        behind_plain = {fault.model for fault in STAGED} - own - {"failover", "total-timeout", "no-such-model"}
        configuration = {
            "server": {"control_socket": str(path), "drain_timeout_s": 0, **server},
            "credentials": {
                name: {**oauth2, "token_url": f"{at}/token"} | ({"timeout_s": 2} if name == "issuer-hangs" else {})
                for name, at in issuers.items()
            },
            "upstreams": upstreams,
            "models": {
                **{name: {"upstream": name} for name in own},
                **{name: {"upstream": "plain"} for name in (*behind_plain, "held")},
                "total-timeout": {"upstream": "slow"},
                "failover": {"targets": [{"upstream": "down"}, {"upstream": "plain"}]},
            },
            "access": {
                "keys": [
                    {**settings, "hash": f"sha256:{sha256(key.encode()).hexdigest()}"}
                    for key, settings in (*keys, (NARROW, narrow))
                ]
            },
        }
        async with started(tmp_path, configuration) as running:
            yield Staged(await running.port, str(path))
