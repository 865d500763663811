"""Keys as tokens, and the modules that `gatepass serve` has loaded when it listens: only configured sources."""

import json
import subprocess
import sys
from typing import Any

import pytest

from gatepass.config.credential.kinds import ApiKeyCredential
from gatepass.tokens import TokenSource, build_source
from gatepass.tokens.lifetime import LifetimeSource, TokenKind
from tests.unit.clock import DrivenClock
from tests.unit.tokens.scripted import ScriptedIssuer, failure_of, static

HTTP_CLIENT = ("httpx2", "httpcore2", "h11", "anyio._backends")
UNUSED = (
    "fastapi",
    "opentelemetry",
    "rich",
    "gatepass.cli.check",
    "gatepass.cli.doctor",
)
LIBRARIES = ("jwt", "cryptography")
SOURCES = ("sources.oauth2", "sources.http_json", "sources.exec", "sources.file", "token_endpoint")
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
        own = f"{{type: {kind}, {settings}}}"
        path.write_text(
            f"credentials: {{corp: {own}}}\nupstreams: {{chat: {{base_url: https://llm.example/v1, credential: corp}}}}"
        )
        ran = subprocess.run(
            [sys.executable, "-c", PROBE, path], capture_output=True, text=True, timeout=180, check=True
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
        "oauth2": {"sources.oauth2", "token_endpoint", "sources.file"},  # it may read an assertion from a file
    }


def source(kind: str, value: str) -> TokenSource:
    issuer = ScriptedIssuer(DrivenClock())
    settings: dict[str, Any] = {
        "static": lambda: static(value),
        "api_key": lambda: ApiKeyCredential.model_validate({"type": "api_key", "key": value}),
    }
    return build_source("corp", settings[kind](), issuer, issuer.clock)


@pytest.mark.parametrize("kind", ["static", "api_key"])
@pytest.mark.parametrize("value", ["sk-abc", "1|abc", "id:secret", " sk-abc\n", "Bearer sk-abc"])
async def test_a_key_is_a_token_without_an_end_and_its_own_secret(kind, value):
    it = source(kind, value)
    token = await it.fetch()
    assert token.text == value.strip().removeprefix("Bearer ")
    assert (token.requested_s, token.lifetime_s) == (1000.0, None)
    assert (token.kind, token.lifetime_source) == (TokenKind.KEY, LifetimeSource.NONE)
    assert [secret.reveal() for secret in it.secrets()] == [value]


NO_HEADER = "contains a space, a line break or a non-ASCII character"


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        *(("static", value, f"token {NO_HEADER}") for value in ("a b", "a\nb", "ä", "Bearer ", "a\x7f")),
        ("api_key", "a b", f"key {NO_HEADER}"),
    ],
)
async def test_a_key_that_fits_into_no_header_is_refused(kind, value, reason):
    failure = await failure_of(source(kind, value).fetch())
    assert (failure.reason, failure.is_refused) == (reason, True)
