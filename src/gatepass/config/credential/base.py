"""What all kinds of credential share: their common settings, where a reply holds the token, and libraries of extras."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from gatepass.config.block import Block, Seconds
from gatepass.config.network import BEARER_PLACEMENT, FIELD_NAME, Network, TokenPlacement

SettingFault = tuple[str, str]
"""A setting of a credential, dotted, and what is wrong with it."""


def settings_error(title: str, faults: Iterable[SettingFault]) -> ValidationError:
    """The error that tells each fault at its own setting."""
    details = [
        InitErrorDetails(type="value_error", loc=tuple(name.split(".")), input=None, ctx={"error": ValueError(text)})
        for name, text in faults
    ]
    return ValidationError.from_exception_data(title, details)


class Credential(Block):
    """What all credentials share."""

    timeout_s: Seconds = 10.0
    """Seconds for one whole fetch, however slowly the issuer dribbles."""
    default_ttl_s: Seconds = 240.0
    """Seconds that a token lives where neither the reply nor the token itself tells it."""
    max_ttl_s: Seconds = 3600.0
    """The longest life, in seconds, to believe where only the reply's word stands for it."""
    network: Network = Network()
    """The way to the issuer, which may differ from the upstream's."""
    allow_plain_http: bool = False
    """Send this credential's secret over plain HTTP beyond loopback."""
    carry: TokenPlacement | None = None
    """How its token is shown to upstreams; None: as is usual for this kind, mostly `Authorization: Bearer …`."""

    @property
    def usual_carry(self) -> TokenPlacement:
        """How tokens of this kind are shown where `carry` says nothing; kinds with ways of their own override it."""
        return BEARER_PLACEMENT

    @property
    def placement(self) -> TokenPlacement:
        """How its token is shown where the upstream does not say otherwise."""
        return self.carry or self.usual_carry


def checked_extra(module: str, extra: str, kind: str) -> None:
    """Raises ValueError, which says what to install, where `module` of the extra is missing. Imports nothing."""
    try:  # find_spec imports the parents of a dotted name: `azure` and `google` are namespaces, which costs nothing
        is_there = find_spec(module) is not None
    except ModuleNotFoundError:
        is_there = False
    if not is_there:
        raise ValueError(f"{kind} needs a library that is not installed: {how_to_install(extra)}")


def how_to_install(extra: str) -> str:
    """What works: no index has a package called gatepass, and whoever registered one could say anything in it."""
    return f"{in_a_clone(extra)}, for the image docker build --build-arg EXTRAS={extra}"


def in_a_clone(extra: str) -> str:
    return f"in a clone pip install '.[{extra}]'"


Unit = Literal["s", "ms"]


class ReplyPaths(Block):
    """Where the token and its life stand in a JSON document, as dotted paths: `data.token`."""

    token: str | None = None
    """None looks for the usual names: access_token, accessToken, token, jwt, value."""
    expires_in: str | None = None
    """A life; exclusive with `expires_at`."""
    expires_at: str | None = None
    """A moment: epoch seconds or milliseconds, ISO 8601 or an HTTP date."""
    unit: Unit | None = None
    """The unit of the number; None infers it from its size."""

    @model_validator(mode="after")
    def _one_expiry(self) -> Self:
        if self.expires_in and self.expires_at:
            raise ValueError("expires_in and expires_at exclude each other")
        return self


class HttpReply(ReplyPaths):
    """As above, in a reply that comes by HTTP."""

    header: Annotated[str, Field(pattern=FIELD_NAME)] | None = None
    """A response header that holds the token, such as `X-Subject-Token`; exclusive with `token`."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.header and self.token:
            raise ValueError("header and token exclude each other")
        return self
