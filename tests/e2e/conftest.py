"""The servers of the end-to-end tests, started once per run: issuer, models, checks, gatepass."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.e2e.servers import (
    CheckedServer,
    Gatepass,
    Issuer,
    listening,
    start_check,
    start_gatepass,
    start_issuer,
    start_model,
)


@pytest.fixture(scope="session")
def seconds() -> float:
    """The duration of the long streaming test."""
    return float(os.environ.get("E2E_SECONDS", "25"))


@pytest.fixture(scope="session")
def issuer() -> Iterator[Issuer]:
    with start_issuer() as process:
        yield Issuer(listening(process))


@pytest.fixture(scope="session")
def chat_server(issuer: Issuer) -> Iterator[CheckedServer]:
    with start_model("tiny-chat.gguf") as model, start_check(issuer, listening(model)) as check:
        yield CheckedServer(listening(check))


@pytest.fixture(scope="session")
def embed_server(issuer: Issuer) -> Iterator[CheckedServer]:
    with start_model("tiny-ends.gguf", "--embeddings") as model, start_check(issuer, listening(model)) as check:
        yield CheckedServer(listening(check))


@pytest.fixture(scope="session")
def gatepass(
    tmp_path_factory: pytest.TempPathFactory,
    issuer: Issuer,
    chat_server: CheckedServer,
    embed_server: CheckedServer,
) -> Iterator[Gatepass]:
    with start_gatepass(tmp_path_factory.mktemp("gatepass"), issuer, chat_server, embed_server) as process:
        yield Gatepass(listening(process), process)
