"""Where two settings of a valid configuration contradict each other, or most likely do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from gatepass.config.carry import BEARER, Carry
from gatepass.config.dialects import no_assistant
from gatepass.config.model import Config
from gatepass.config.models import Model
from gatepass.config.problem import Path
from gatepass.config.upstream import Upstream

TWICE = "{} carries the token already: a request has one of each name"
NOT_AZURE = "is Azure, whose deployments want dialect: azure; with openai it ends in /openai/v1"
_AZURE = re.compile(r"\.(?:openai|cognitiveservices)\.azure\.(?:com|us|cn)\Z")


def carry_of(upstream: Upstream, config: Config) -> Carry:
    """How `upstream` of `config` is shown its credential's tokens."""
    if upstream.carry is not None or upstream.credential is None:
        return upstream.carry or BEARER
    return config.credentials[upstream.credential].carried


def clashes(config: Config) -> Iterator[tuple[Path, str]]:
    """Each operation that RAGFlow does not know, each name that no assistant of it can have, and each static header
    that carries the token too, with what to tell of it."""
    for operation, route in config.operations.items():
        if operation not in ("chat", "models") and config.upstreams[route.upstream].dialect == "ragflow":
            yield (
                ("operations", operation, "upstream"),
                f"{route.upstream} is RAGFlow, which answers chats and nothing else",
            )
    for name, model in config.models.items():
        yield from _no_assistants(name, model, config)
    for name, upstream in config.upstreams.items():
        if upstream.credential is not None:
            carried = {field.lower() for field in carry_of(upstream, config).templates}
            for field in upstream.headers:
                if field.lower() in carried:
                    yield ("upstreams", name, "headers", field), TWICE.format(field)


def doubts(config: Config) -> Iterator[str]:
    """What a configuration that can be used says in all likelihood by mistake, as warnings."""
    for name, upstream in config.upstreams.items():
        url = urlsplit(upstream.base_url)
        is_azure = _AZURE.search((url.hostname or "").lower()) is not None
        if is_azure and upstream.dialect == "openai" and not url.path.endswith("/openai/v1"):
            yield f"upstreams.{name}.base_url {NOT_AZURE}"


def _no_assistants(name: str, model: Model, config: Config) -> Iterator[tuple[Path, str]]:
    for number, target in enumerate(model.in_order()):
        is_pattern = target.name is None and any(sign in name for sign in "*?[")
        if config.upstreams[target.upstream].dialect != "ragflow" or is_pattern:
            continue
        if (fault := no_assistant(target.name if target.name is not None else name)) is not None:
            block: Path = ("models", name) if model.targets is None else ("models", name, "targets", number)
            yield (*block, "name") if target.name is not None else block, fault
