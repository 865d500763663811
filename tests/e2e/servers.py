"""The real servers of the tests, and functions that read their counts."""

import hashlib
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.check import Tally
from tests.e2e.process import Process

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
INSTALLED = ROOT / ".e2e"

TOKEN_LIFE_S = 10
ONE_LATE: tuple[list[str], ...] = ([], ["Signature has expired"])
"""What a check may have refused while many programs share two cores: one token that ended on its way. gatepass renews
it, and no client notices."""
CLIENT_ID = "gatepass"
CLIENT_SECRET = "a secret: 100 % + more & more"  # RFC 6749 2.3.1 requires form encoding in Basic
RESOURCE, SCOPE = "urn:e2e:models", "chat"
KEY = "e2e-key-of-the-client"
READY_S = 60.0
REPLY_S = 30.0


def installed(name: str) -> Path:
    """Return the path of an installation in `.e2e/`; raise AssertionError with the command that creates it."""
    path = INSTALLED / name
    assert path.exists(), f"{path} is missing: run `make e2e`, or tests/e2e/setup.sh once"
    return path


def get_json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=REPLY_S) as reply:  # noqa: S310 - loopback
        return json.load(reply)


def ask(url: str, body: Any = None, **fields: str) -> tuple[int, str]:
    """Send a GET, or a POST with `body` as JSON, and return the status and the text of the reply."""
    headers = {name.replace("_", "-"): value for name, value in fields.items()} | {"content-type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(request, timeout=REPLY_S) as reply:  # noqa: S310 - loopback
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@dataclass(frozen=True, slots=True)
class Issuer:
    url: str

    @property
    def token_url(self) -> str:
        return f"{self.url}/token"


@dataclass(frozen=True, slots=True)
class CheckedServer:
    """A server that checks its tokens itself."""

    url: str

    def tally(self) -> Tally:
        return Tally(**get_json(f"{self.url}/check"))


def start_issuer(token_life_s: int = TOKEN_LIFE_S) -> Process:
    environment = {
        "CLIENT_ID": CLIENT_ID,
        "CLIENT_SECRET": CLIENT_SECRET,
        "RESOURCE": RESOURCE,
        "SCOPE": SCOPE,
        "TOKEN_LIFE_S": str(token_life_s),
    }
    return node("issuer", HERE / "issuer" / "server.mjs", environment)


def node(name: str, script: Path, environment: dict[str, str]) -> Process:
    """Run a Node script from stdin. It finds its packages in the working directory, which is in `.e2e/`."""
    return Process(
        ["node", "--input-type=module", "-"],
        environment=os.environ | environment,
        folder=installed(f"node-{name}"),
        stdin=script,
    )


def start_model(gguf: str, *options: str) -> Process:
    python = installed("python-models") / "bin" / "python"
    return Process([python, HERE / "realllm" / "serve.py", installed("gguf") / gguf, *options])


def listening(process: Process) -> str:
    """Wait until the process is ready and return the URL that it prints."""
    return process.wait_for(r'(?:listening on |"event":"listening","url":")(https?://[^\s"]+)', READY_S)[1].rstrip("/")


def serve_routes(
    folder: Path,
    issuer: Issuer,
    routes: str,
    *,
    requires_key: bool = True,
) -> Process:
    """Start gatepass with its run-time dependencies only, so that a missing one is detected.

    `routes` has the upstreams, models and MCP servers. Their credential is `sso`.
    """
    secret = folder / "client_secret"
    secret.write_text(CLIENT_SECRET + "\n", encoding="utf-8")
    config = folder / "gatepass.yaml"
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    access = f'access: {{keys: [{{name: e2e, hash: "sha256:{digest}"}}]}}' if requires_key else ""
    config.write_text(
        f"""
credentials:
  sso:
    type: oauth2
    token_url: {issuer.token_url}
    client_id: {CLIENT_ID}
    client_secret: ${{file:{secret}}}
    scope: {SCOPE}
    extra: {{resource: "{RESOURCE}"}}
{routes}
{access}
""",
        encoding="utf-8",
    )
    return serve(config)


def serve(config: Path, python: str | Path | None = None, **variables: str) -> Process:
    """Start gatepass on a free port, by default with its run-time dependencies only; `variables` are for its file."""
    python = python or installed("python-gatepass") / "bin" / "python"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GATEPASS_")}
    return Process(
        [python, "-m", "gatepass", "serve", "--config", config, "--port", "0"],
        environment=plain | {"PYTHONPATH": str(ROOT / "src")} | variables,
    )
