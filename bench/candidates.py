"""The measured gateways, and how each of them is started."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.environments import environment, nginx, portkey
from bench.paths import BENCH, CA_FILE, PEERS, ROOT, SCRATCH, TLS

CLIENT_KEY = "gp-bench-0000000000000000000000000000000000000000"
CLIENT_SECRET = "bench-client-secret"  # noqa: S105 - of the rig's own issuer

CONFIG = BENCH / "gatepass.yaml"
UVICORN = ("-m", "uvicorn", "--log-level", "warning", "--no-access-log", "--loop", "uvloop", "--http", "httptools")


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of the rig's servers."""

    mock: int
    tls: int
    issuer: int


@dataclass(frozen=True, slots=True)
class Launch:
    """A command that starts a candidate on its port. `fields` are header fields that each of its clients sends."""

    command: tuple[str | Path, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)


Launcher = Callable[[Ports, int], Launch]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A measured gateway.

    - `launch`: None for the upstream itself; raises SetupFailed if the candidate cannot be installed
    - `has_reader`: its log goes through a pipe to another process, otherwise into a file
    """

    name: str
    description: str
    launch: Launcher | None = None
    is_gatepass: bool = False
    has_reader: bool = False


def gatepass(source: Path = ROOT, *, tls: bool = False) -> Launcher:
    """Return the launcher of gatepass from the checkout `source`, with key, renamed model, token, log and metrics."""

    def launch(ports: Ports, port: int) -> Launch:
        command = ("-m", "gatepass", "serve", "--config", CONFIG, "--port", str(port))
        return Launch((sys.executable, *command), _variables(ports, source, tls=tls))

    return launch


def gatepass_uvicorn(source: Path = ROOT) -> Launcher:
    """Return the launcher of gatepass's application under plain uvicorn, from the checkout `source`."""

    def launch(ports: Ports, port: int) -> Launch:
        command = (sys.executable, *UVICORN, "--app-dir", PEERS, "--port", str(port), "plain_uvicorn:app")
        return Launch(command, {**_variables(ports, source), "GATEPASS_CONFIG": str(CONFIG)})

    return launch


def _variables(ports: Ports, source: Path, *, tls: bool = False) -> dict[str, str]:
    """Return the variables that bench/gatepass.yaml uses."""
    scheme, upstream = ("https", ports.tls) if tls else ("http", ports.mock)
    return {
        "PYTHONPATH": str(source / "src"),
        "BENCH_UPSTREAM_URL": f"{scheme}://127.0.0.1:{upstream}/v1",
        "BENCH_TOKEN_URL": f"http://127.0.0.1:{ports.issuer}/token",
        "BENCH_CLIENT_SECRET": CLIENT_SECRET,
        "BENCH_CA_FILE": str(CA_FILE),
        "BENCH_KEY_HASH": f"sha256:{hashlib.sha256(CLIENT_KEY.encode()).hexdigest()}",
    }


def _nginx(ports: Ports, port: int) -> Launch:
    return nginx_launch("nginx.conf", port, {"UPSTREAM": "http", "UPSTREAM_PORT": str(ports.mock), "SECURE": ""})


def _nginx_tls(ports: Ports, port: int) -> Launch:
    secure = (
        f"proxy_ssl_trusted_certificate {CA_FILE}; proxy_ssl_verify on; proxy_ssl_name localhost;"
        " proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.2 TLSv1.3;"
    )
    return nginx_launch("nginx.conf", port, {"UPSTREAM": "https", "UPSTREAM_PORT": str(ports.tls), "SECURE": secure})


def tls_end(mock_port: int, port: int) -> Launch:
    """Return the command of the TLS end in front of the mock, a part of the rig."""
    return nginx_launch("tls_end.conf", port, {"UPSTREAM_PORT": str(mock_port)})


def nginx_launch(template: str, port: int, values: Mapping[str, str]) -> Launch:
    binary, folder = nginx(), SCRATCH / f"nginx-{port}"
    folder.mkdir(parents=True, exist_ok=True)
    text = (PEERS / template).read_text(encoding="utf-8")
    for name, value in {**values, "PORT": str(port), "DIR": str(folder), "TLS": str(TLS)}.items():
        text = text.replace(f"@{name}@", value)
    conf = folder / "nginx.conf"
    conf.write_text(text, encoding="utf-8")
    return Launch((binary, "-p", folder, "-c", conf))


def _naive(ports: Ports, port: int) -> Launch:
    command = (environment("naive"), *UVICORN, "--app-dir", PEERS, "--port", str(port), "naive_app:app")
    return Launch(command, {"UPSTREAM_URL": f"http://127.0.0.1:{ports.mock}/v1"})


def _tuned(ports: Ports, port: int) -> Launch:
    command = (sys.executable, *UVICORN, "--app-dir", PEERS, "--port", str(port), "tuned_app:app")
    return Launch(command, {"UPSTREAM_URL": f"http://127.0.0.1:{ports.mock}/v1"})


def _openai_forward(ports: Ports, port: int) -> Launch:
    """Its logs are off, as in its examples for speed. It checks no key and renames no model."""
    routes = [{"base_url": f"http://127.0.0.1:{ports.mock}", "route": "/", "type": "general"}]
    env = {"FORWARD_CONFIG": json.dumps(routes), "LOG_GENERAL": "false", "LOG_CHAT": "false"}
    command = (environment("openai-forward"), *UVICORN, "--port", str(port), "openai_forward.app:app")
    return Launch(command, env)


def _portkey(ports: Ports, port: int) -> Launch:
    """It learns its upstream from each request."""
    fields = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"http://127.0.0.1:{ports.mock}/v1"}
    return Launch(("node", portkey(), f"--port={port}", "--headless"), fields=fields)


def _litellm(ports: Ports, port: int) -> Launch:
    return litellm_launch(PEERS / "litellm.yaml", port, {"UPSTREAM_URL": f"http://127.0.0.1:{ports.mock}/v1"})


def litellm_launch(config: Path, port: int, env: Mapping[str, str]) -> Launch:
    """Return LiteLLM's lightest form: no keys and no database. The variables prevent network access at its start."""
    binary = environment("litellm").with_name("litellm")
    options = ("--config", config, "--port", str(port), "--host", "127.0.0.1", "--num_workers", "1")
    return Launch(
        (binary, *options),
        {
            **env,
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
            "NO_DOCS": "True",
        },
    )


CANDIDATES = (
    Candidate("direct", "the upstream itself, without a gateway"),
    Candidate("nginx", "nginx, `proxy_buffering off`, keep-alive to the upstream, one worker", _nginx),
    Candidate("gatepass", "gatepass with key, renamed model, token, log line and metrics", gatepass(), True),
    Candidate("gatepass-piped", "the same, with its log written to a pipe, as in a container", gatepass(), True, True),
    Candidate("gatepass-uvicorn", "gatepass's application under plain uvicorn, no log handler", gatepass_uvicorn()),
    Candidate("tuned", "FastAPI with httpx2, tuned: raw routes, raw bytes, no limit of the pool", _tuned),
    Candidate("naive", "FastAPI with httpx and StreamingResponse, as in examples", _naive),
    Candidate("openai-forward", "openai-forward, logging off", _openai_forward),
    Candidate("portkey", "Portkey's gateway, one process of Node.js, no log", _portkey),
    Candidate("litellm", "LiteLLM's proxy, one worker, no keys, no database", _litellm),
    Candidate("nginx-tls", "nginx, TLS to the upstream, verified, with session reuse", _nginx_tls),
    Candidate("gatepass-tls", "gatepass, TLS to the upstream", gatepass(tls=True), True),
)
QUICK = ("direct", "nginx", "gatepass", "gatepass-uvicorn", "tuned")
