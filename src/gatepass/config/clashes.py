"""Where two settings of a valid configuration contradict each other."""

from __future__ import annotations

from collections.abc import Iterator

from gatepass.config.carry import BEARER, Carry
from gatepass.config.model import Config
from gatepass.config.problem import Path
from gatepass.config.upstream import Upstream

TWICE = "{} carries the token already: a request has one of each name"


def carry_of(upstream: Upstream, config: Config) -> Carry:
    """How `upstream` of `config` is shown its credential's tokens."""
    if upstream.carry is not None or upstream.credential is None:
        return upstream.carry or BEARER
    return config.credentials[upstream.credential].carried


def clashes(config: Config) -> Iterator[tuple[Path, str]]:
    """Each operation that RAGFlow does not know, and each static header that carries the token too, with what to
    tell of it."""
    for operation, route in config.operations.items():
        if operation not in ("chat", "models") and config.upstreams[route.upstream].dialect == "ragflow":
            yield (
                ("operations", operation, "upstream"),
                f"{route.upstream} is RAGFlow, which answers chats and nothing else",
            )
    for name, upstream in config.upstreams.items():
        if upstream.credential is not None:
            carried = {field.lower() for field in carry_of(upstream, config).templates}
            for field in upstream.headers:
                if field.lower() in carried:
                    yield ("upstreams", name, "headers", field), TWICE.format(field)
