"""Fixtures: the container engine, the image, and the corporate servers that gatepass calls."""

import asyncio
import hashlib
import os
import re
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from examples import company_gateway, issuer

from tests.e2e.container.compose import document
from tests.e2e.container.engine import REPOSITORY, Container, Engine, missing
from tests.serving import free_port, serving

CLIENT_ID = "ragflow"
CHAT_MODEL = "corp-chat"
EMBEDDINGS_MODEL = "corp-embed"
PACE_S = 0.2
"""Between the words of a stream."""
TOKEN_LIFE_S = 300.0
"""The token lifetime that deploy/compose.ragflow.yaml expects."""

LABELS = re.findall(
    r"--label (org\.opencontainers\.image\.[a-z.]+)=", (REPOSITORY / ".github/workflows/image.yml").read_text()
)
"""The labels of a release."""


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    if reason := missing():
        if os.environ.get("E2E_CONTAINER") == "skip":
            pytest.skip(f"E2E_CONTAINER=skip, and {reason}")
        pytest.fail(f"{reason} (E2E_CONTAINER=skip leaves this part out)")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    store = Path(os.environ.get("CONTAINER_STORE") or cache / "gatepass" / "containers")
    return Engine(store, tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="session")
def base(built: tuple[str, str]) -> str:
    return built[1]


@pytest.fixture(scope="session")
def image(built: tuple[str, str]) -> str:
    return built[0]


@pytest.fixture(scope="session")
def built(engine: Engine) -> tuple[str, str]:
    """Build the image of this checkout with the labels of a release. Return its name, and that of its base."""
    tag = f"localhost/gatepass-e2e-{hashlib.sha256(bytes(REPOSITORY)).hexdigest()[:8]}:latest"
    return tag, engine.build(REPOSITORY, tag, *(f"--label={name}=a value" for name in LABELS))


@dataclass(slots=True)
class ContainerFactory:
    """Starts hardened containers of the image under test. The fixture removes them."""

    engine: Engine
    image: str
    started: list[Container] = field(default_factory=list)

    async def start(
        self, environment: Mapping[str, str], *, network: str = "host", options: Sequence[str] = ()
    ) -> Container:
        name = f"gatepass-e2e-{os.getpid()}-{secrets.token_hex(3)}"
        container = Container(self.engine, name)
        self.started.append(container)
        await asyncio.to_thread(
            self.engine.start, self.image, name, environment=environment, network=network, options=options
        )
        return container


@pytest.fixture
def containers(engine: Engine, image: str) -> Iterator[ContainerFactory]:
    containers = ContainerFactory(engine, image)
    yield containers
    for container in containers.started:
        container.remove()


@dataclass(frozen=True, slots=True)
class CorporateServers:
    """A token issuer, and two gateways that accept its tokens, as examples/ has them. `minted` has each token."""

    minted: Sequence[str]
    issuer_url: str
    chat_url: str
    embeddings_url: str
    client_secret: Path


@pytest.fixture
async def corporate(tmp_path: Path) -> AsyncIterator[CorporateServers]:
    """Serve on loopback."""
    secret, minted = secrets.token_urlsafe(24), list[str]()
    tokens = issuer.create_app({CLIENT_ID: secret}, TOKEN_LIFE_S, lambda _, token, __: minted.append(token))
    chat = company_gateway.create_app(CHAT_MODEL, CLIENT_ID, PACE_S)
    embeddings = company_gateway.create_app(EMBEDDINGS_MODEL, CLIENT_ID)
    client_secret = tmp_path / "client_secret"
    client_secret.write_text(secret)
    client_secret.chmod(0o644)  # the image's user is another one
    async with serving(tokens) as issuer_url, serving(chat) as chat_url, serving(embeddings) as embed_url:
        yield CorporateServers(minted, issuer_url, chat_url, embed_url, client_secret)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """URL, API key, environment and engine options of the gatepass container."""

    url: str
    key: str
    environment: dict[str, str]
    options: tuple[str, ...]


@pytest.fixture
def endpoint(corporate: CorporateServers) -> Endpoint:
    """Return the environment and the secret of deploy/compose.ragflow.yaml with the URLs of the corporate servers."""
    key = f"gp-{secrets.token_urlsafe(32)}"
    port = free_port()
    variables = {
        "GATEPASS_UPSTREAM_URL": f"{corporate.chat_url}/v1",
        "GATEPASS_EMBEDDINGS_URL": f"{corporate.embeddings_url}/v1",
        "GATEPASS_TOKEN_URL": f"{corporate.issuer_url}/oauth/token",
        "GATEPASS_CLIENT_ID": CLIENT_ID,
        "GATEPASS_KEY_HASHES": f"sha256:{hashlib.sha256(key.encode()).hexdigest()}",
    }
    service = document(variables)["services"]["gatepass"]
    environment = {**service["environment"], "GATEPASS_PORT": str(port)}
    options = [f"--volume={corporate.client_secret}:/run/secrets/{name}:ro" for name in service["secrets"]]
    return Endpoint(f"http://127.0.0.1:{port}", key, environment, tuple(options))
