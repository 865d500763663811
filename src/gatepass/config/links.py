"""Where a configuration leads: each name to another block of it, each model to an upstream, each base_url to an API."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from gatepass.config.problem import Path
from gatepass.config.profiles import BUILT_IN
from gatepass.config.references import Reference
from gatepass.config.settings import did_you_mean
from gatepass.config.tree import Pattern, lookup, matches

LINKS: tuple[tuple[Pattern, str], ...] = (
    (("upstreams", "*", "credential"), "credentials"),
    (("operations", "*", "upstream"), "upstreams"),
    (("models", "*", "upstream"), "upstreams"),
    (("models", "*", "targets", "*", "upstream"), "upstreams"),
    (("models", "*", "operations", "*", "upstream"), "upstreams"),
    (("models", "*", "operations", "*", "targets", "*", "upstream"), "upstreams"),
)
"""Where a name is used, and the block that must hold it."""

WITH_MODELS = ("chat", "completions", "embeddings", "rerank", "responses")
"""Operations whose requests name a model."""
NO_WAY = (
    'no model leads anywhere: with several upstreams add models (`models: {{"*": {{upstream: {first}}}}}`'
    " sends all to one) or operations"
)

_OPERATION = re.compile(
    r"(?<!/)(?:/chat/completions|/completions|/embeddings|/rerank|/responses|/audio/(?:speech|transcriptions)"
    r"|(?<=/v[0-9])/models)\Z"
)
"""An operation's path at the end of a URL, where no host is called so. Azure AI has base URLs that end in /models."""
NO_BASE = "ends in {path}, which gatepass puts behind it by itself: let it end before that, most often in /v1"


def dead_ends(tree: Any) -> Iterator[tuple[Path, str]]:
    """Each place from which no request could get anywhere, with what to do about it."""
    for path, url in matches(tree, ("upstreams", "*", "base_url")):
        if isinstance(url, str) and (found := _OPERATION.search(url.rstrip("/").lower())):
            yield path, NO_BASE.format(path=found[0])
    upstreams = lookup(tree, ("upstreams",))
    if isinstance(upstreams, dict) and len(upstreams) > 1 and not _leads_anywhere(tree):
        yield ("upstreams",), NO_WAY.format(first=next(iter(upstreams)))


def _leads_anywhere(tree: Any) -> bool:
    return bool(lookup(tree, ("models",))) or _has_own_upstream(tree)


def _has_own_upstream(tree: Any) -> bool:
    """Whether an operation says where its models go that no entry of `models` names."""
    return any(lookup(tree, ("operations", name, "upstream")) is not None for name in WITH_MODELS)


def dangling(tree: Any) -> Iterator[tuple[Path, str]]:
    """Each name that stands for nothing, with what to tell of it."""
    for pattern, block in LINKS:
        known = lookup(tree, (block,))
        names = [str(name) for name in known] if isinstance(known, dict) else []
        for path, value in matches(tree, pattern):
            if isinstance(value, str) and value not in names:
                yield path, _unknown(value, block, names)
    yield from _suggested(tree)
    own = lookup(tree, ("profiles",))
    profiles = sorted({*BUILT_IN, *(str(name) for name in own)} if isinstance(own, dict) else BUILT_IN)
    for path, value in matches(tree, ("access", "keys", "*", "profile")):
        if isinstance(value, str) and value not in profiles:
            yield path, _unknown(value, "profiles", profiles)


def _suggested(tree: Any) -> Iterator[tuple[Path, str]]:
    """Each model that is pointed at and that no request could reach."""
    models = lookup(tree, ("models",))
    names = [str(name) for name in models] if isinstance(models, dict) else []
    if _has_own_upstream(tree):
        return
    for path, value in matches(tree, ("models", "*", "suggest")):
        if isinstance(value, str) and not any(fnmatchcase(value, name) for name in names):
            yield path, _unknown(value, "models", names)


def _unknown(value: str, block: str, names: list[str]) -> str:
    if isinstance(value, Reference):  # its value is nobody's to read
        return f"{value.template} is not a name under {block}"
    return f"{value!r} is not a name under {block}{did_you_mean(value, names)}"
