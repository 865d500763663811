"""Base of all credentials: common settings, paths of the token in a reply, and the check for optional libraries."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field

from gatepass.config.block import Block, Seconds, SettingFault
from gatepass.config.network import BEARER_PLACEMENT, FIELD_NAME, Network, TokenPlacement


class Credential(Block):
    """Settings of all credentials."""

    type: str
    """The type of the token source."""
    timeout_s: Seconds = 10.0
    """Seconds for one whole fetch of a token, however slowly the issuer sends its reply.

    Danger: Without a valid token, requests wait for the fetch.
    """
    default_ttl_s: Seconds = 240.0
    """The lifetime of a token in seconds, if neither the reply nor the token contains one.

    Danger: If it is longer than the real lifetime, each token ends with a rejected request, which gatepass repeats
    with a new token.
    """
    network: Network = Network()
    """Proxy and TLS files for the token endpoint; they may differ from the upstream's.

    Example: {ca_file: /etc/ssl/corp.pem}
    """
    allow_plain_http: bool = False
    """Allow sending this credential's secret over plain HTTP beyond loopback, or through a proxy beyond loopback.

    Danger: Others on the network can read the secret.
    """
    token_placement: TokenPlacement | None = None
    """Where the token is in requests to upstreams. None: the default of this type, mostly `Authorization: Bearer …`.

    Example: {headers: {X-Auth-Token: "{token}"}}
    """

    @property
    def default_placement(self) -> TokenPlacement:
        return BEARER_PLACEMENT

    @property
    def placement(self) -> TokenPlacement:
        """Where the token is in a request, unless the upstream overrides it."""
        return self.token_placement or self.default_placement


def checked_extra(module: str, extra: str, kind: str) -> None:
    """Raise ValueError with the install command if `module` of the extra is missing. Does not import the module."""
    try:  # find_spec imports the parents of a dotted name, such as those of an exporter of OpenTelemetry
        is_installed = find_spec(module) is not None
    except ModuleNotFoundError:
        is_installed = False
    if not is_installed:
        raise ValueError(f"{kind} needs a library that is not installed: {how_to_install(extra)}")


def how_to_install(extra: str) -> str:
    # no package index has gatepass: a command with its bare name could install a stranger's package
    anywhere = f'pip install "gatepass[{extra}] @ git+https://HOST/PATH.git" (with SSH: git+ssh://git@HOST/PATH.git)'
    image = f"docker build --build-arg EXTRAS={extra}"
    return f"in a clone pip install '.[{extra}]', for the image {image}, else {anywhere}"


Unit = Literal["s", "ms"]


class ReplyPaths(Block):
    """Dotted paths of the token and its lifetime in a JSON document: `data.token`."""

    token: str | None = None
    """The dotted path of the token. None searches for access_token, accessToken, token.

    Example: data.token
    """
    expiry: str | None = None
    """The path of the lifetime, or of the time at which the token expires. The value decides: a small number is a
    lifetime. Epoch seconds or milliseconds, ISO 8601 and HTTP dates are times. None searches for expires_in, expiresIn,
    expires_on, expires_at, expiresAt, expireAt, expireTime.

    Example: data.expireAt
    """
    unit: Unit | None = None
    """The unit of the number. None: seconds, or milliseconds of a time with 13 digits.

    Example: ms

    Danger: A lifetime of `300000` can mean five minutes. Set the unit if the issuer uses milliseconds.
    """


class HttpReply(ReplyPaths):
    """Where the token and its lifetime are in a JSON document: dotted paths such as `data.token`, or a response
    header. The types `http_json`, `exec` and `file` have this block."""

    header: Annotated[str, Field(pattern=FIELD_NAME)] | None = None
    """Only for `http_json`: a response header that holds the token; exclusive with `token`. The paths of the expiry
    still apply to the body.

    Example: X-Subject-Token
    """

    def faults(self) -> Iterator[SettingFault]:
        if self.header and self.token:
            yield "", "header and token exclude each other"
