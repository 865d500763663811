"""From a file, or from the environment alone, to a Config that can be used: the only reader of the environment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ValidationError

from gatepass.config.certificates import unusable_files
from gatepass.config.checks import clashes, dangling, dead_ends, doubts, not_built_yet, open_doors
from gatepass.config.document import ConfigError, Document, Origin, Path, Problem, leaves, lookup, replaced
from gatepass.config.environment import read_environment, strangers, with_environment_proxies, with_variables
from gatepass.config.file import read_document
from gatepass.config.model import Config
from gatepass.config.references import Reference, UnresolvedReference, resolve, without_braces
from gatepass.config.variables import PREFIX, own_variables
from gatepass.config.wording import refusals

WITH_A_FILE = ("CONFIG", "HOST", "PORT")
"""The variables that count beside a file."""
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
_NUMBER = re.compile(r"-?[0-9]{1,300}\Z")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be used. `warnings` are for the log of the start; they hold no secret."""

    config: Config
    source: str
    origins: Mapping[Path, str]
    warnings: tuple[str, ...] = ()

    def origin(self, path: Path) -> str:
        """`gatepass.yaml:12`, `environment NAME`, `--port`, or `default`."""
        return self.origins.get(path, "default")


def load(
    path: str | None,
    environment: Mapping[str, str],
    *,
    host: str | None = None,
    port: int | None = None,
) -> Loaded:
    """The configuration of `path`, else of GATEPASS_CONFIG, else of the environment alone.

    `host` and `port` come from flags and win over GATEPASS_HOST and GATEPASS_PORT, which win over a
    file. Raises ConfigError with every problem at once.
    """
    document = _listening(_document(path, environment), environment, host, port)
    config = _with_proxies(_checked(document), environment)
    return Loaded(
        config,
        document.source,
        dict(_origins(document)),
        (*document.warnings, *doubts(config), *_unused(document, environment), *_unused_proxies(config, environment)),
    )


def _document(path: str | None, environment: Mapping[str, str]) -> Document:
    own = own_variables(environment)
    if name := path or own.get("CONFIG"):
        return with_variables(_resolved(read_document(name), environment), environment)
    if "UPSTREAM_URL" in own:
        return read_environment(environment)
    text = f"there is none: name a file by --config or {PREFIX}CONFIG, or set {PREFIX}UPSTREAM_URL"
    raise ConfigError([Problem((), text, Origin("configuration")), *strangers(own)])


def _listening(document: Document, environment: Mapping[str, str], host: str | None, port: int | None) -> Document:
    own = own_variables(environment)
    for name, flag in (("host", host), ("port", port)):
        text = own.get(name.upper())
        if flag is not None:
            document = _overridden(document, name, flag, f"--{name}")
        elif text is not None:
            value = int(text) if name == "port" and _NUMBER.match(text) else text
            document = _overridden(document, name, value, f"environment {PREFIX}{name.upper()}")
    return document


def _overridden(document: Document, name: str, value: str | int, source: str) -> Document:
    path = ("server", name)
    if not isinstance(lookup(document.tree, ("server",)) or {}, dict):
        return document  # what stands there instead of a block will be refused
    tree = replaced(document.tree, path, value)
    return replace(document, tree=tree, origins={**document.origins, path: Origin(source)})


def _resolved(document: Document, environment: Mapping[str, str]) -> Document:
    """`document` with each reference in its texts resolved; one that cannot be stays as it was written."""
    tree, problems = document.tree, list(document.problems)
    for path, text in list(leaves(tree)):
        if isinstance(text, str):
            try:
                value = resolve(text, environment)
            except UnresolvedReference as error:
                problems.append(Problem(path, str(error), document.origin(path)))
            else:
                tree = tree if value is text else replaced(tree, path, value)
    warnings = (*document.warnings, *_without_braces(document, environment))
    return replace(document, tree=tree, problems=tuple(problems), warnings=warnings)


def _without_braces(document: Document, environment: Mapping[str, str]) -> Iterator[str]:
    for path, text in leaves(document.tree):
        if isinstance(text, str) and (name := without_braces(text, environment)):
            hint = f"looks like a reference: did you mean ${{{name}}}? ($$ is a plain dollar)"
            yield str(Problem(path, hint, document.origin(path)))


def _checked(document: Document) -> Config:
    """The Config of a resolved document; raises ConfigError."""
    tree, problems = document.tree, list(document.problems)
    problems += _located(document, not_built_yet(tree), problems)
    known = list(problems)  # what has been said of a place makes what follows from it noise
    for found in (dangling(tree), dead_ends(tree), unusable_files(tree), open_doors(tree)):
        problems += _located(document, found, known)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        problems += _located(document, refusals(error, tree), known)
        raise ConfigError(problems) from None
    problems += () if problems else _located(document, clashes(config), known)
    if problems:
        raise ConfigError(problems)
    return config


def check(config: Config) -> None:
    """Check a Config that no file stands behind as `load` checks a file. Raises ConfigError with every problem.

    The model itself has refused what one block alone can tell.
    """
    tree = _plain(config)
    found = (*not_built_yet(tree), *dangling(tree), *dead_ends(tree), *unusable_files(tree), *open_doors(tree))
    if problems := [Problem(path, text, Origin("configuration")) for path, text in found or clashes(config)]:
        raise ConfigError(problems)


def _plain(value: Any) -> Any:
    """The tree that a file would hold: what is set, without defaults. Secrets stay Secrets."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {fields[name].alias or name: _plain(getattr(value, name)) for name in value.model_fields_set}
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items()}
    return [_plain(member) for member in value] if isinstance(value, list | tuple) else value


def _with_proxies(config: Config, environment: Mapping[str, str]) -> Config:
    try:
        return with_environment_proxies(config, environment)
    except ValueError as error:
        raise ConfigError([Problem((), f"the proxy for network.from_env {error}", Origin("environment"))]) from None


def _located(document: Document, found: Iterable[tuple[Path, str]], known: Sequence[Problem]) -> Iterator[Problem]:
    silent = {problem.path for problem in known}
    for path, text in found:
        if path not in silent:
            yield Problem(path, text, document.origin(path))


def _origins(document: Document) -> Iterator[tuple[Path, str]]:
    for path, value in leaves(document.tree):
        origin = str(document.origin(path))
        places = [str(place) for place in value.places] if isinstance(value, Reference) else []
        yield path, ", ".join([origin, *(place for place in places if place != origin)])


def _unused(document: Document, environment: Mapping[str, str]) -> Iterator[str]:
    """A variable that would count without a file, and that no reference of the file names."""
    if document.source == "environment":
        return
    values = [value for _, value in leaves(document.tree) if isinstance(value, Reference)]
    used = {place.name for value in values for place in value.places if place.kind == "environment"}
    for name in own_variables(environment):
        if name not in WITH_A_FILE and f"{PREFIX}{name}" not in used:
            yield f"{PREFIX}{name} is set and says nothing: the file {document.source} is the configuration"


def _unused_proxies(config: Config, environment: Mapping[str, str]) -> Iterator[str]:
    names = [name for name in PROXY_VARIABLES if environment.get(name)]
    hops: list[Any] = [*config.upstreams.values(), *config.credentials.values()]
    if names and not any(hop.network.from_env for hop in hops):
        yield f"{' and '.join(names)} is set and no hop uses it: set network.from_env: true where it should"
