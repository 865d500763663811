"""From a file, or from the environment alone, to a Config that can be used: the only reader of the environment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from gatepass.config.certificates import unusable_files
from gatepass.config.checks import (
    clashes,
    dangling,
    dead_ends,
    doubts,
    exposed,
    exposed_secrets,
    in_plain_sight,
    not_built_yet,
    open_doors,
)
from gatepass.config.document import (
    ConfigDocument,
    ConfigError,
    ConfigProblem,
    SettingPath,
    ValueOrigin,
    children,
    leaves,
    lookup,
    with_value,
)
from gatepass.config.environment import put_variables, read_environment, strangers, with_environment_proxies
from gatepass.config.file import read_document
from gatepass.config.model import Config
from gatepass.config.references import PREFIX, Reference, UnresolvedReference, own_variables, resolve, without_braces
from gatepass.config.wording import refusals
from gatepass.types import Secret

WITH_A_FILE = ("CONFIG", "HOST", "PORT")
"""The variables that count beside a file."""
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
_NUMBER = re.compile(r"-?[0-9]{1,300}\Z")


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration that can be used. `warnings` are for the log of the start; they hold no secret."""

    config: Config
    document: ConfigDocument = field(repr=False)
    warnings: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The file's name, or `environment`."""
        return self.document.source

    def origin(self, path: SettingPath) -> str:
        """`gatepass.yaml:12`, `environment NAME`, `--port`, or `default`."""
        block = dict(children(lookup(self.document.tree, path[:-1])))
        if path[-1] not in block or isinstance(value := block[path[-1]], dict | list):
            return "default"
        origin = str(self.document.origin(path))
        places = [str(place) for place in value.places] if isinstance(value, Reference) else []
        return ", ".join([origin, *(place for place in places if place != origin)])


def load(
    path: str | None,
    environment: Mapping[str, str],
    *,
    host: str | None = None,
    port: int | None = None,
) -> LoadedConfig:
    """The configuration of `path`, else of GATEPASS_CONFIG, else of the environment alone.

    `host` and `port` come from flags and win over GATEPASS_HOST and GATEPASS_PORT, which win over a
    file. Raises ConfigError with every problem at once.
    """
    document = _document(path, environment)
    _listen(document, environment, host, port)
    config = _checked(document)
    try:
        config = with_environment_proxies(config, environment)
    except ValueError as error:
        raise ConfigError(
            [ConfigProblem((), f"the proxy for network.from_env {error}", ValueOrigin("environment"))]
        ) from None
    if problems := [
        ConfigProblem(place, text, document.origin(place)) for place, text in in_plain_sight(_plain(config))
    ]:
        raise ConfigError(problems)
    warnings = (*document.warnings, *doubts(config), *_exposed(document, config), *_unused(document, environment))
    return LoadedConfig(config, document, (*warnings, *_unused_proxies(config, environment)))


def _document(path: str | None, environment: Mapping[str, str]) -> ConfigDocument:
    own = own_variables(environment)
    if name := path or own.get("CONFIG"):
        document = read_document(name)
        _resolve(document, environment)
        put_variables(document, environment)
        return document
    if "UPSTREAM_URL" in own:
        return read_environment(environment)
    text = f"there is none: name a file by --config or {PREFIX}CONFIG, or set {PREFIX}UPSTREAM_URL"
    raise ConfigError([ConfigProblem((), text, ValueOrigin("configuration")), *strangers(own)])


def _listen(document: ConfigDocument, environment: Mapping[str, str], host: str | None, port: int | None) -> None:
    """Put what flags and variables say of the address over what `document` says."""
    if not isinstance(lookup(document.tree, ("server",)) or {}, dict):
        return  # what stands there instead of a block will be refused
    own = own_variables(environment)
    for name, flag in (("host", host), ("port", port)):
        text = own.get(name.upper())
        if flag is not None:
            document.put(("server", name), flag, f"--{name}")
        elif text is not None:
            value = int(text) if name == "port" and _NUMBER.match(text) else text
            document.put(("server", name), value, f"environment {PREFIX}{name.upper()}")


def _resolve(document: ConfigDocument, environment: Mapping[str, str]) -> None:
    """Resolve each reference in the texts of `document`; one that cannot be stays as it was written."""
    for path, text in list(leaves(document.tree)):
        if not isinstance(text, str):
            continue
        if name := without_braces(text, environment):
            hint = f"looks like a reference: did you mean ${{{name}}}? ($$ is a plain dollar)"
            document.warnings.append(str(ConfigProblem(path, hint, document.origin(path))))
        try:
            value = resolve(text, environment)
        except UnresolvedReference as error:
            document.add_problem(path, str(error))
        else:
            if value is not text:
                document.tree = with_value(document.tree, path, value)


def _checked(document: ConfigDocument) -> Config:
    """The Config of a resolved document; raises ConfigError."""
    tree = document.tree
    document.refuse_all(not_built_yet(tree), {problem.path for problem in document.problems})
    known = {problem.path for problem in document.problems}
    for found in (dangling(tree), dead_ends(tree), unusable_files(tree), open_doors(tree)):
        document.refuse_all(found, known)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        document.refuse_all(refusals(error, tree), known)
        raise ConfigError(document.problems) from None
    if not document.problems:
        document.refuse_all(clashes(config), known)
    if document.problems:
        raise ConfigError(document.problems)
    return config


def check(config: Config) -> None:
    """Check a Config that no file stands behind as `load` checks a file. Raises ConfigError with every problem.

    The model itself has refused what one block alone can tell.
    """
    tree = _plain(config)
    found = (*not_built_yet(tree), *dangling(tree), *dead_ends(tree), *unusable_files(tree), *open_doors(tree))
    if problems := [ConfigProblem(path, text, ValueOrigin("configuration")) for path, text in found or clashes(config)]:
        raise ConfigError(problems)


def _plain(value: Any) -> Any:
    """The tree that a file would hold: what is set, without defaults. Secrets stay Secrets."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {fields[name].alias or name: _plain(getattr(value, name)) for name in value.model_fields_set}
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items()}
    return [_plain(member) for member in value] if isinstance(value, list | tuple) else value


def _exposed(document: ConfigDocument, config: Config) -> Iterator[str]:
    """A warning of each file that every user of this machine can write, or can read a secret in."""
    if document.source != "environment":
        secrets = (path for path, value in leaves(_plain(config)) if isinstance(value, Secret))
        holds_secret = any(type(lookup(document.tree, path)) is str for path in secrets)
        if warning := exposed(document.source, holds_secret=holds_secret, what="holds a secret and "):
            yield warning
    yield from exposed_secrets(document.tree)


def _unused(document: ConfigDocument, environment: Mapping[str, str]) -> Iterator[str]:
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
