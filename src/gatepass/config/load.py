"""Load a Config from a file or from environment variables, and compare two of them for a reload."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from gatepass.config import checks
from gatepass.config.access import expiry_warnings
from gatepass.config.document import (
    ConfigDocument,
    ConfigError,
    ConfigProblem,
    SettingPath,
    ValueOrigin,
    children,
    dotted,
    leaves,
    lookup,
    with_value,
)
from gatepass.config.environment import CHAT, CREDENTIAL, LIMIT_VARIABLES, OPERATION_URLS, put_proxy, read_environment
from gatepass.config.file import configuration_file, read_document
from gatepass.config.model import Config, Limits
from gatepass.config.references import (
    PREFIX,
    VARIABLES_BY_TYPE,
    Reference,
    UnresolvedReference,
    own_variables,
    resolve,
    without_braces,
)
from gatepass.config.wording import explained_errors
from gatepass.types import Secret

OF_SERVER: Mapping[str, SettingPath] = {
    name.upper(): ("server", name) for name in ("host", "port", "ui", "control_socket")
}
OF_NETWORK: Mapping[str, SettingPath] = {name.upper(): ("network", name) for name in ("ca_file", "no_proxy", "proxy")}
OVERRIDES: Mapping[str, SettingPath] = {**OF_SERVER, **OF_NETWORK, **LIMIT_VARIABLES}
"""The variables that override a file, each with its setting."""
SETTING_VARIABLES: Mapping[str, str] = {
    **{dotted(path): name for name, path in OVERRIDES.items()},
    **{f"upstreams.{name}.base_url": variable for name, variable in {CHAT: "UPSTREAM_URL", **OPERATION_URLS}.items()},
    **{f"upstreams.{name}.allow_plain_http": "ALLOW_PLAIN_HTTP" for name in (CHAT, *OPERATION_URLS)},
    **{f"upstreams.{name}.credential": "TOKEN_TYPE" for name in (CHAT, *OPERATION_URLS)},
    **{
        dotted(("credentials", CREDENTIAL, *path)): name
        for names in (*VARIABLES_BY_TYPE.values(), {"ALLOW_PLAIN_HTTP": ("allow_plain_http",)})
        for name, path in names.items()
    },
    **dict.fromkeys(("network.proxy_auth", f"credentials.{CREDENTIAL}.network.proxy_auth"), "PROXY"),
    "access.keys": "KEYS",
}
"""The variable of each setting that has one, for a gatepass that the environment alone configures."""
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
DEFAULT = "default"
"""The origin of a value that nothing sets."""
NO_FLAGS: Mapping[str, str] = {}
_NUMBER = re.compile(r"-?[0-9]{1,300}\Z")
_DECIMAL = re.compile(r"[0-9]{1,30}\.[0-9]{1,30}\Z")


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A valid configuration. `warnings` are those that every command reports. No warning contains a secret."""

    config: Config
    document: ConfigDocument = field(repr=False)
    warnings: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The file's name, or `environment`."""
        return self.document.source

    def origin(self, path: SettingPath) -> str:
        """Return the origin of a value: `gatepass.yaml:12`, `environment NAME`, `--port`, or `default`."""
        above = lookup(self.document.tree, path[:-1])
        if isinstance(above, str):  # a text that stands for a list
            return self.origin(path[:-1])
        block = dict(children(above))
        if path[-1] not in block or (isinstance(value := block[path[-1]], dict | list) and value):
            return DEFAULT
        origin = str(self.document.origin(path))
        sources = [str(source) for source in value.sources] if isinstance(value, Reference) else []
        return ", ".join([origin, *(source for source in sources if source != origin)])

    def effective(self) -> tuple[Any, dict[SettingPath, str]]:
        """Return the tree of all values, and the origin of each by its path."""
        tree = self.config.model_dump(mode="json", by_alias=True)
        origins = {path: self.origin(path) for path, _ in leaves(tree)}
        for path, origin in origins.items():
            # the top-level `network` is the default of each hop
            if path[-2:-1] == ("network",) and origin == DEFAULT and lookup(tree, path) is not None:
                origins[path] = self.origin(path[-2:])
        return tree, origins


def load(
    path: str | None,
    environment: Mapping[str, str],
    *,
    host: str | None = None,
    port: int | None = None,
    log: Mapping[str, str] = NO_FLAGS,
    memory_bytes: int | None = None,
) -> LoadedConfig:
    """Load the file `path`, else that of GATEPASS_CONFIG, else the GATEPASS_ variables alone, else ./gatepass.yaml.

    The flags `host`, `port` and `log` override the variables, which override the file. Raises ConfigError with all
    problems. With `memory_bytes`, those of the container, the default of `limits.held_bytes` is at most half of them.
    """
    document = _document(path, environment)
    own = own_variables(environment)
    for variable, setting in OVERRIDES.items():
        if (text := own.get(variable)) is not None:
            # the validation quotes another text
            value: str | float = {"true": True, "false": False}.get(text.lower(), text) if variable == "UI" else text
            if setting[0] == "limits" or setting == OF_SERVER["PORT"]:  # the error for another text names the variable
                value = int(text) if _NUMBER.match(text) else float(text) if _DECIMAL.match(text) else text
            _override(document, setting, value, f"environment {PREFIX}{variable}")
    for name, flag in (("host", host), ("port", port)):
        _override(document, ("server", name), flag, f"--{name}")
    for name, word in log.items():
        _override(document, ("log", name), word, f"--log-{name}")
    held: SettingPath = ("limits", "held_bytes")
    if memory_bytes is not None and memory_bytes < 2 * Limits().held_bytes and lookup(document.tree, held) is None:
        _override(document, held, memory_bytes // 2, "half of the container's memory")
    config = _checked(document)
    warnings = [*document.warnings, *checks.likely_mistakes(config)]
    warnings += [*expiry_warnings(config.access.keys, time.time()), *_unused_variables(document, environment)]
    names = [name for name in PROXY_VARIABLES if environment.get(name)]
    if names and config.network.proxy is None and not any(hop.network.proxy for _, hop in config.hops()):
        remedy = f'write network: {{proxy: "${{{names[0]}}}"}} at the top level, or set {PREFIX}PROXY'
        listed, verb = ", ".join([*names[:-2], " and ".join(names[-2:])]), "is" if len(names) == 1 else "are"
        warnings.append(f"{listed} {verb} set and not used: {remedy}")
    return LoadedConfig(config, document, tuple(warnings))


def _document(path: str | None, environment: Mapping[str, str]) -> ConfigDocument:
    own = own_variables(environment)
    if name := configuration_file(path, own):
        document = read_document(name)
        _resolve(document, environment)
        return document
    if "UPSTREAM_URL" in own:
        return read_environment(environment)
    text = (
        "not found: write ./gatepass.yaml with `gatepass init`, name a file with --config or"
        f" {PREFIX}CONFIG, or set {PREFIX}UPSTREAM_URL"
    )
    raise ConfigError([ConfigProblem((), text, ValueOrigin("configuration"))])


def _override(document: ConfigDocument, path: SettingPath, value: str | float | None, origin: str) -> None:
    # pydantic reports a block that is none
    if value is None or not isinstance(lookup(document.tree, path[:1]) or {}, dict):
        return
    if path == OF_NETWORK["PROXY"]:
        put_proxy(document, str(value), origin)
    else:
        document.put(path, value, origin)


def _resolve(document: ConfigDocument, environment: Mapping[str, str]) -> None:
    """Resolve each reference in the texts of `document`; one that fails stays unchanged and is reported."""
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
    """Validate a resolved document; raise ConfigError with all problems."""
    known = {problem.path for problem in document.problems}
    try:
        config = Config.model_validate(document.tree)
    except ValidationError as error:
        document.refuse_all(explained_errors(error, document.tree), known)
        # pydantic's error quotes values, which may be secrets
        raise ConfigError(document.problems, document.warnings) from None
    document.refuse_all(checks.problems(config), known)
    if document.problems:
        raise ConfigError(document.problems, document.warnings)
    return config


def check(config: Config) -> None:
    """Check a Config that was made in code with the checks that `load` applies to a file; raise ConfigError."""
    if found := list(checks.problems(config)):
        raise ConfigError([ConfigProblem(path, text, ValueOrigin("configuration")) for path, text in found])


def _unused_variables(document: ConfigDocument, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each variable that has no effect because there is a file that does not reference it."""
    if document.source == "environment":
        return
    values = [value for _, value in leaves(document.tree) if isinstance(value, Reference)]
    used = {source.name for value in values for source in value.sources if source.kind == "environment"}
    for name in own_variables(environment):
        if name not in (*OVERRIDES, "CONFIG") and f"{PREFIX}{name}" not in used:
            yield f"{PREFIX}{name} is set and has no effect: the file {document.source} is the configuration"


NEED_RESTART = ("server", "limits", "store", "log", "tracing")
"""Blocks that a reload keeps as they were at the start."""


def is_same(one: Any, other: Any) -> bool:
    """Return whether two values mean the same. A value from a file is compared by its reference, as it may rotate."""
    match one, other:
        case Secret(), Secret():
            return one.reference == other.reference and (one.changes or one.reveal() == other.reveal())
        case Reference(), Reference():
            return one.template == other.template and (one.changes or str(one) == str(other))
        case BaseModel(), BaseModel():
            names = type(one).model_fields
            return type(one) is type(other) and all(is_same(getattr(one, n), getattr(other, n)) for n in names)
        case Mapping(), Mapping():
            # the order decides the order of /v1/models
            return list(one) == list(other) and all(map(is_same, one.values(), other.values()))
        case list() | tuple(), list() | tuple():
            return len(one) == len(other) and all(map(is_same, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)  # `True == 1` in Python


def changed_blocks(one: Config, other: Config) -> tuple[str, ...]:
    return tuple(block for block in Config.model_fields if not is_same(getattr(one, block), getattr(other, block)))


MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")


def memory_limit_bytes() -> int | None:
    """Return the memory limit of this container, None without one."""
    try:
        text = MEMORY_LIMIT.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None  # and not `max`
