"""The modules that `gatepass serve` has loaded when it listens: only configured sources and their libraries."""

import json
import subprocess
import sys
from typing import Any

import pytest

HTTP_CLIENT = ("httpx2", "httpcore2", "h11", "anyio._backends")
UNUSED = (
    "fastapi",
    "opentelemetry",
    "rich",
    "gatepass.cli.check",
    "gatepass.demo",
    "gatepass.cli.doctor",
    "gatepass.server.supervisor",
)
LIBRARIES = ("azure", "msal", "google", "botocore", "urllib3", "requests", "jwt", "cryptography")
SOURCES = ("vendor", *("sources.oauth2", "sources.http_json", "sources.exec", "sources.file", "token_endpoint"))
CREDENTIALS = {
    "exec": "command: [/bin/true]",
    "oauth2": "token_url: https://127.0.0.1:9/token, client_id: me, client_secret: abcdefgh",
}
PROBE = """
import gc, json, sys
from gatepass.server.process import DrainingServer as Server
from gatepass.cli import main
start = Server.startup

async def startup(self, sockets=None):
    await start(self, sockets)
    print(json.dumps({"modules": sorted(sys.modules), "collects": gc.isenabled(), "frozen": gc.get_freeze_count()}))
    self.should_exit = True

Server.startup = startup
main(["serve", "--config", sys.argv[1], "--port", "0"])
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """A process that listens with one credential, by its kind."""
    found = {}
    for kind, settings in CREDENTIALS.items():
        path = tmp_path_factory.mktemp("lazy") / "gatepass.yaml"
        own = f"{{type: {kind.partition(' ')[0]}, {settings}}}"
        path.write_text(
            f"credentials: {{corp: {own}}}\nupstreams: {{chat: {{base_url: https://llm.example/v1, credential: corp}}}}"
        )
        ran = subprocess.run(
            [sys.executable, "-c", PROBE, path], capture_output=True, text=True, timeout=60, check=True
        )
        found[kind] = json.loads(ran.stdout)
    return found


def of(modules: list[str], *names: str) -> set[str]:
    return {name for name in names if any(f"{module}.".startswith(f"{name}.") for module in modules)}


def sources(modules: list[str]) -> set[str]:
    found = of(modules, *(f"gatepass.tokens.{name}" for name in SOURCES))
    return {name.removeprefix("gatepass.tokens.") for name in found}


def test_garbage_collector_is_enabled_and_skips_permanent_objects(started):
    assert {reported["collects"] for reported in started.values()} == {True}
    assert min(reported["frozen"] for reported in started.values()) > 50_000


def test_only_configured_sources_and_what_they_use_are_loaded(started):
    """FastAPI takes 6 MB and a tenth of a second, the HTTP client of token endpoints 9 MiB and as long."""
    loaded = {kind: reported["modules"] for kind, reported in started.items()}
    assert {kind: of(modules, *UNUSED, *LIBRARIES) for kind, modules in loaded.items()} == {
        kind: set() for kind in loaded
    }
    assert of(loaded["exec"], *HTTP_CLIENT) == set()
    assert {kind: sources(modules) for kind, modules in loaded.items()} == {
        "exec": {"sources.exec"},
        "oauth2": {"sources.oauth2", "token_endpoint", "sources.file"},  # it watches its refresh token's file
    }
