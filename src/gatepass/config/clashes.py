"""Where two settings of a valid configuration contradict each other, or most likely do."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from urllib.parse import urlsplit

from gatepass.config.carry import BEARER, Carry
from gatepass.config.dialects import no_assistant
from gatepass.config.model import Config
from gatepass.config.models import Lead, Model
from gatepass.config.problem import Path
from gatepass.config.upstream import Upstream

TWICE = "{} carries the token already: a request has one of each name"
NEVER = "never counts: operations.{}.upstream comes before `*`; write there what is different"
NOT_AZURE = "is Azure, whose deployments want dialect: azure; with openai it ends in /openai/v1"
UNASKED = (
    "upstreams.{name}: no model and no operation leads there, so no request does: write `models: {{NAME: {{upstream:"
    ' {name}}}}}` ("*" as NAME stands for all that nothing else names), or take it out'
)
ONLY_LISTED = (
    "upstreams.{name}: operations.models alone leads there, so its list of models is all it is asked for; requests"
    " for these go elsewhere or nowhere: write `models: {{NAME: {{upstream: {name}}}}}`, or take it out"
)
PASSED_ON = ("transcriptions", "translations", "files")
"""Operations whose bodies pass through as they come: forms."""
NO_RULES = "never counts: the body of {} passes through as it comes"
NO_LIST = "never counts: a list of models is asked for within bounds of its own, and of no model"
_AZURE = re.compile(r"\.(?:openai|cognitiveservices)\.azure\.(?:com|us|cn)\Z")


def carry_of(upstream: Upstream, config: Config) -> Carry:
    """How `upstream` of `config` is shown its credential's tokens."""
    if upstream.carry is not None or upstream.credential is None:
        return upstream.carry or BEARER
    return config.credentials[upstream.credential].carried


def clashes(config: Config) -> Iterator[tuple[Path, str]]:
    """Each operation that RAGFlow does not know, each name that no assistant of it can have, what could never count
    beside `*` or at all, and each static header that carries the token too, with what to tell of it."""
    for operation, route in config.operations.items():
        if route.upstream is not None:
            yield from _no_chat(operation, ("operations", operation, "upstream"), route.upstream, config)
        yield from _idle(operation, ("operations", operation), route.model_fields_set)
    for name, model in config.models.items():
        yield from _of_model(name, model, config)
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
    yield from _unasked(config)


def _unasked(config: Config) -> Iterator[str]:
    """A warning of each upstream to which no request for a model could go."""
    if len(config.upstreams) == 1:
        return
    asked = {target.upstream for model in config.models.values() for target in model.everywhere()}
    asked |= {route.upstream for name, route in config.operations.items() if name != "models" and route.upstream}
    listed = {route.upstream for name, route in config.operations.items() if name == "models"}
    for name in config.upstreams:
        if name not in asked:
            yield (ONLY_LISTED if name in listed else UNASKED).format(name=name)


def _of_model(name: str, model: Model, config: Config) -> Iterator[tuple[Path, str]]:
    yield from _no_assistants(("models", name), name, model, config)
    for operation, own in model.operations.items():
        block: Path = ("models", name, "operations", operation)
        yield from _idle(operation, block, own.model_fields_set)
        route = config.operations.get(operation)
        if name == "*" and route is not None and route.upstream is not None:
            yield block, NEVER.format(operation)
        for number, target in enumerate(own.in_order()):
            place = (*block, "upstream") if own.targets is None else (*block, "targets", number, "upstream")
            yield from _no_chat(operation, place, target.upstream, config)
        yield from _no_assistants(block, name, own, config)


def _idle(operation: str, block: Path, given: Collection[str]) -> Iterator[tuple[Path, str]]:
    """What is `given` in `block` and could change nothing."""
    if operation in PASSED_ON and "rules" in given:
        yield (*block, "rules"), NO_RULES.format(operation)
    if operation == "models":
        yield from (((*block, name), NO_LIST) for name in ("rules", "model", "timeouts") if name in given)


def _no_chat(operation: str, place: Path, upstream: str, config: Config) -> Iterator[tuple[Path, str]]:
    if operation not in ("chat", "models") and config.upstreams[upstream].dialect == "ragflow":
        yield place, f"{upstream} is RAGFlow, which answers chats and nothing else"


def _no_assistants(block: Path, name: str, lead: Lead, config: Config) -> Iterator[tuple[Path, str]]:
    for number, target in enumerate(lead.in_order()):
        is_pattern = target.name is None and any(sign in name for sign in "*?[")
        if config.upstreams[target.upstream].dialect != "ragflow" or is_pattern:
            continue
        if (fault := no_assistant(target.name if target.name is not None else name)) is not None:
            place = block if lead.targets is None else (*block, "targets", number)
            yield (*place, "name") if target.name is not None else place, fault
