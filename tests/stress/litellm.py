"""A real LiteLLM between gatepass and a scripted provider: `make litellm`. The argument is its environment.

The provider has chats alone. Prints each case, and exits 1 if one differs. It takes half a minute, most of it LiteLLM's
start and the 5 s for which it takes a model out of service after a 404.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from tests.e2e.process import Process
from tests.e2e.servers import ask
from tests.e2e.test_gateways import ASKED, CHAT, Model
from tests.integration.gateway import Gateway, gateway
from tests.serving import free_port
from tests.stress.vllm import Asking, Case, words_in

READY_S, OUT_OF_SERVICE_S = 180.0, 20.0
KEY, PROVIDER_KEY = "sk-of-litellm", "sk-of-the-provider"
LEAST = 16
REFUSED: dict[str, tuple[int, dict[str, Any]]] = {
    "below": (
        400,
        {"message": f"Invalid 'max_output_tokens': integer below minimum value. Expected a value >= {LEAST}"},
    ),
    "least": (400, {"message": f"max_tokens must be at least {LEAST}", "param": "max_tokens"}),
    "long": (
        400,
        {"message": "This model's maximum context length is 8192 tokens.", "code": "context_length_exceeded"},
    ),
    "absent": (404, {"message": "The model `absent` does not exist", "code": "model_not_found"}),
}
"""The provider's error by its model. The first two are for a limit of the answer below LEAST."""


class Provider(Model, BaseHTTPRequestHandler):
    """Refuses another key, and what REFUSED has."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        model, limit = asked["model"], asked.get("max_tokens", LEAST)
        status, error = REFUSED.get(model, (0, {}))
        if self.path != CHAT:
            self.answer(404, {"detail": "Not Found"})
        elif self.headers["authorization"] != f"Bearer {PROVIDER_KEY}":
            self.answer(401, {"error": {"message": "Incorrect API key provided: back-****", "code": "invalid_api_key"}})
        elif status and (model not in ("below", "least") or limit < LEAST):
            self.answer(status, {"error": {"type": "invalid_request_error", **error}})
        elif asked.get("stream"):
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            part = {"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
            event = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [part]}
            self.wfile.write(f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode())
        else:
            choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
            chat = {"id": "c", "object": "chat.completion", "created": 1, "model": model, "choices": [choice]}
            self.answer(200, chat)


@contextmanager
def provider() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def serve(environment: Path, folder: str, url: str) -> tuple[Process, int]:
    """Start LiteLLM in front of the provider at `url` and return it with its port."""
    keys = dict.fromkeys(("m", "n", *REFUSED), PROVIDER_KEY) | {"other": "sk-replaced"}
    models = [
        {"model_name": name, "litellm_params": {"model": f"openai/{name}", "api_base": url, "api_key": key}}
        for name, key in keys.items()
    ]
    config, port = Path(folder, "litellm.yaml"), free_port()
    config.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": KEY}}), encoding="utf-8")
    command: list[str | Path] = [environment / "bin" / "litellm", "--config", config, "--telemetry", "False"]
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return Process([*command, "--host", "127.0.0.1", "--port", str(port)], environment=os.environ | offline), port


def served(relayed: Asking, path: str, body: dict[str, Any]) -> list[int]:
    """Return the statuses until LiteLLM has the model in service again."""
    statuses, ends_s = [relayed(path, body)[0]], time.monotonic() + OUT_OF_SERVICE_S
    while statuses[-1] == 429 and time.monotonic() < ends_s:
        time.sleep(0.5)  # the pace of a client: LiteLLM tells nobody when its pause ends
        statuses.append(relayed(path, body)[0])
    return statuses


def compare(case: Case, relayed: Asking, learned: Callable[[str], list[str]]) -> None:
    for name, (path, body) in zip("mn", ASKED.items(), strict=True):
        operation, asked = path.removeprefix("/v1/"), {**body, "model": name}
        found = served(relayed, operation, asked)
        case.check(f"{operation}: 429 for some seconds, then chats", sorted({*found}), [200, 429])
        case.check(
            f"{operation}: the next one", (relayed(operation, asked)[0], learned(name)), (200, ["protocols=chat"])
        )
        streamed = relayed(operation, {**asked, "stream": True})
        case.check(f"{operation}: streamed", (streamed[0], "Hi" in streamed[1]), (200, True))
        status, text = relayed(operation, {**body, "model": "nope"})
        case.check(
            f"{operation}: an unknown model", (status, "models.nope.name" in text, "hop" in text), (400, True, True)
        )
    chat: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
    for name in ("below", "least"):
        status, _ = relayed("chat/completions", {**chat, "model": name})
        case.check(f"{name}: a limit is raised", (status, "clamp=max_tokens" in learned(name)), (200, True))
    status, text = relayed("chat/completions", {**chat, "model": "other"})
    said = [part in words_in(text) for part in ("Incorrect API key", "upstream's own key", "credentials.litellm")]
    case.check("the provider refuses LiteLLM's key", (status, said), (401, [True] * 3))
    status, text = relayed("chat/completions", {**chat, "model": "absent"})
    case.check("a model that the provider lacks", (status, "models.absent.name" in text), (404, True))
    status, text = relayed("chat/completions", {**chat, "model": "long"})
    case.check("too long a context", (status, "maximum context length" in text, learned("long")), (400, True, []))


def relay(port: int, path: str, body: dict[str, Any]) -> tuple[int, str]:
    return ask(f"http://127.0.0.1:{port}/v1/{path}", body)


def learned(gp: Gateway, model: str) -> list[str]:
    return [one.rule.entry for one in gp.state.learned_rules() if one.scope.model == model]


async def run(case: Case, litellm: Process, port: int) -> None:
    upstream = {"base_url": f"http://127.0.0.1:{port}/v1", "rejection": {"codes": ["no_db_connection"]}}
    for key in (KEY, "sk-unknown"):
        credentials = {"litellm": {"type": "api_key", "key": key}}
        upstreams, models = {"litellm": {**upstream, "credential": "litellm"}}, {"*": {"upstream": "litellm"}}
        async with gateway(credentials=credentials, upstreams=upstreams, models=models) as gp:
            asking = partial(relay, gp.port)
            if key == KEY:
                await asyncio.to_thread(compare, case, asking, partial(learned, gp))
                continue
            for path, body in ASKED.items():
                status, text = await asyncio.to_thread(asking, path.removeprefix("/v1/"), body)
                said = ["upstream_auth" in text, "credentials.litellm" in text]
                case.check(f"{path}: a key that LiteLLM does not know", (status, said), (400, [True] * 2))
            litellm.stop()
            status, text = await asyncio.to_thread(asking, "chat/completions", {"model": "m", "messages": []})
            case.check("LiteLLM is down", (status, "upstreams.litellm.base_url" in text), (502, True))


def main() -> int:
    environment, case = Path(sys.argv[1]).resolve(), Case()
    with provider() as url, tempfile.TemporaryDirectory() as folder:
        litellm, port = serve(environment, folder, url)
        with litellm:
            litellm.wait_for("Application startup complete", READY_S)
            asyncio.run(run(case, litellm, port))
    print(f"{case.differing} cases differ")
    return int(case.differing > 0)


if __name__ == "__main__":
    sys.exit(main())
