"""The GATEPASS_ variables: their names, what each belongs to, and how a value is had from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gatepass.config.document import Path
from gatepass.config.references import Reference, UnresolvedReference

PREFIX = "GATEPASS_"

SHARED = (
    "UPSTREAM_URL",
    "EMBEDDINGS_URL",
    "TOKEN_TYPE",
    "KEYS",
    "KEY_HASHES",
    "PROFILE",
    "CA_FILE",
    "PROXY",
    "HOST",
    "PORT",
)
OF_TYPE: Mapping[str, Mapping[str, Path]] = {
    "oauth2": {
        "TOKEN_URL": ("token_url",),
        "ISSUER": ("issuer",),
        "CLIENT_ID": ("client_id",),
        "CLIENT_SECRET": ("client_secret",),
        "SCOPE": ("scope",),
    },
    "http_json": {
        "TOKEN_URL": ("url",),
        "TOKEN_JSON": ("json",),
        "TOKEN_PATH": ("reply", "token"),
        "EXPIRES_PATH": ("reply", "expires_in"),
        "EXPIRES_UNIT": ("reply", "unit"),
    },
    "static": {"TOKEN": ("token",)},
}
"""The variables of each type of credential, and where they go in its block."""
REQUIRED = frozenset(("TOKEN_URL", "CLIENT_ID", "CLIENT_SECRET", "TOKEN"))
SECRETS = ("CLIENT_SECRET", "TOKEN", "TOKEN_JSON", "KEYS")
"""Each also as …_FILE."""
TELLING = {"TOKEN": "static", "TOKEN_JSON": "http_json", "CLIENT_ID": "oauth2"}
"""Variables that only one type has: they tell which it is."""

OF_TOKENS = tuple(dict.fromkeys(name for names in OF_TYPE.values() for name in names))
NAMES = frozenset((*SHARED, *OF_TOKENS, *(f"{name}_FILE" for name in SECRETS)))
"""Every variable of a configuration without a file, without its prefix; GATEPASS_CONFIG stands beside them."""
ASKING = "KEY"
"""What `gatepass learned` shows a running gatepass: a shell may hold it for all commands."""

_SERVICE_LINK = re.compile(r"SERVICE_(HOST|PORT).*|PORT_[0-9]+_(TCP|UDP|SCTP).*|NAME|ENV_.*")
_MOMENT = re.compile(r"(^exp|expires?(at|on|time|date)|expir(ation|y)(at|on|time|date)?|until)$")


def own_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The GATEPASS_ variables that are set and not empty, without their prefix.

    A service called `gatepass` makes Kubernetes (and Docker's old links) put GATEPASS_PORT=tcp://… and
    its kin into every container beside it: they say nothing to us, and must stop nobody's start.
    """
    found = {name.removeprefix(PREFIX): value for name, value in environment.items() if name.startswith(PREFIX)}
    return {
        name: value
        for name, value in found.items()
        if value and not _SERVICE_LINK.fullmatch(name) and not (name == "PORT" and "://" in value)
    }


def is_moment(path: str) -> bool:
    """Whether the last name of a dotted path tells a moment (`data.expireAt`) rather than a life (`expires_in`).

    Moments: `exp`, and names that end in expires_on, expires_at, expiration, expire_time, expiry, until
    and the like, whatever their case and underscores: the absolute ones among the names that issuers use.
    """
    last = path.rpartition(".")[2]
    return bool(_MOMENT.search(re.sub(r"[_-]", "", last).lower()))


@dataclass(frozen=True, slots=True)
class Given:
    """A value and the variable that gave it. A secret's value is a Reference; `fault` says why it has none."""

    name: str
    value: str
    file: str | None = None
    fault: str | None = None


def given(values: Mapping[str, str], name: str) -> Given | None:
    """The value of the variable `name`, or of the file that `…_FILE` names in its place."""
    if name in SECRETS and (file := values.get(f"{name}_FILE")):
        try:
            return Given(f"{name}_FILE", Reference.to_file(file), file)
        except UnresolvedReference as error:
            return Given(f"{name}_FILE", "", file, str(error))
    value = values.get(name)
    if value is None:
        return None
    return Given(name, Reference.to_variable(f"{PREFIX}{name}", value) if name in SECRETS else value)
