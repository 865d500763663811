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


@pytest.fixture(scope="module")
def loaded(started) -> dict[str, list[str]]:
    return {kind: reported["modules"] for kind, reported in started.items()}


def of(modules: list[str], *names: str) -> set[str]:
    return {name for name in names if any(f"{module}.".startswith(f"{name}.") for module in modules)}


def sources(modules: list[str]) -> set[str]:
    found = of(modules, *(f"gatepass.tokens.{name}" for name in SOURCES))
    return {name.removeprefix("gatepass.tokens.") for name in found}


@pytest.mark.parametrize("kind", CREDENTIALS)
def test_nothing_is_loaded_that_only_create_app_or_other_commands_want(loaded, kind):
    """FastAPI takes 6 MB and a tenth of a second."""
    assert of(loaded[kind], *UNUSED) == set()


def test_garbage_collector_is_enabled_and_skips_permanent_objects(started):
    assert {reported["collects"] for reported in started.values()} == {True}
    assert min(reported["frozen"] for reported in started.values()) > 50_000


@pytest.mark.parametrize("kind", CREDENTIALS)
def test_no_library_is_loaded_that_the_credentials_do_not_want(loaded, kind):
    assert of(loaded[kind], *LIBRARIES) == set()


def test_the_http_client_of_token_endpoints_is_not_loaded_for_a_credential_without_requests(loaded):
    """It takes 9 MiB and a tenth of a second."""
    assert of(loaded["exec"], *HTTP_CLIENT) == set()


def test_no_source_is_loaded_that_is_not_configured(loaded):
    assert {kind: sources(modules) for kind, modules in loaded.items()} == {
        "exec": {"sources.exec"},
        "oauth2": {"sources.oauth2", "token_endpoint", "sources.file"},  # it watches its refresh token's file
    }
