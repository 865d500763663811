"""Blocks that upstreams and credentials share: `token_placement`, `network` and `timeouts`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, field_validator

from gatepass.config.block import Block, ProxyUrl, Seconds, SecretText, SettingFault, is_loopback
from gatepass.types import HOP_BY_HOP, SET_BY_GATEPASS, Timeouts

FIELD_NAME = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"
"""The name of a header field, a `token` of RFC 9110 5.6.2."""
PARAMETER = r"^[A-Za-z0-9._~-]+$"
"""A query parameter whose name needs no escape (RFC 3986 2.3)."""
TOKEN_PLACEHOLDER = "{token}"  # noqa: S105 - where the token goes
RESERVED_FIELDS = frozenset(name.decode() for name in HOP_BY_HOP | SET_BY_GATEPASS)
"""Request headers that belong to one connection, or that gatepass sets. A configuration cannot set them."""

# any word in braces, so that a misspelled {token} is found
_PLACEHOLDER = re.compile(r"\{[A-Za-z_ ]*\}")


def header_value_error(text: str) -> str | None:
    if text == text.strip(" ") and all(" " <= c <= "~" for c in text):
        return None
    return "begins or ends with a space, or holds a line break or a character beyond ASCII"


def header_template(text: str) -> str:
    """Return `text`; raise ValueError if it is not a header value with the placeholder of the token."""
    if TOKEN_PLACEHOLDER not in text:
        raise ValueError(
            f"holds no {TOKEN_PLACEHOLDER}, which gatepass replaces by the token; a fixed value belongs under upstreams"
        )
    if any(found != TOKEN_PLACEHOLDER for found in _PLACEHOLDER.findall(text)):
        raise ValueError(f"supports no placeholder but {TOKEN_PLACEHOLDER}")
    if fault := header_value_error(text):
        raise ValueError(fault)
    return text


FieldName = Annotated[str, Field(pattern=FIELD_NAME)]
HeaderTemplate = Annotated[str, AfterValidator(header_template)]


def checked_fields(names: Iterable[str]) -> None:
    """Raise ValueError if one of `names` is a reserved header, or is in `names` twice."""
    seen: set[str] = set()
    for name in map(str.lower, names):
        # clients and operators rely on x-gatepass- as the words of gatepass alone
        if name in RESERVED_FIELDS or name.startswith("x-gatepass-"):
            raise ValueError(f"{name} is set by gatepass or belongs to one connection: it cannot be set")
        if name in seen:
            raise ValueError(f"{name} is set twice: header names are case-insensitive")
        seen.add(name)


class TokenPlacement(Block):
    """The place of the token in requests to upstreams: headers, a query parameter, or both. The setting of a
    credential applies to all its upstreams; the setting of an upstream overrides it. The default is `Authorization:
    Bearer …`."""

    headers: dict[FieldName, HeaderTemplate] | None = None
    """Headers for the token. gatepass replaces `{token}` in their values. Without `headers` and `query`, the token is
    in `Authorization: Bearer {token}`.

    Example: {X-Auth-Token: "{token}"}
    """
    query: Annotated[str, Field(pattern=PARAMETER)] | None = None
    """A query parameter for the token, percent-encoded. If only this is set, no header contains the token.

    Example: access_token

    Danger: The upstream's own log may contain the token. gatepass never shows it.
    """

    def faults(self) -> Iterator[SettingFault]:
        if not self.templates and self.query is None:
            yield "", "has no place for the token: name a header or a query parameter"
        checked_fields(self.headers or ())

    @property
    def templates(self) -> dict[str, str]:
        """The effective headers and their templates, with the default filled in."""
        if self.headers is None and self.query is None:
            return {"Authorization": f"Bearer {TOKEN_PLACEHOLDER}"}
        return dict(self.headers or {})


BEARER_PLACEMENT = TokenPlacement()
"""`Authorization: Bearer …` (RFC 6750 2.1)."""


class TlsFiles(Block):
    ca_file: str | None = None
    """A file with PEM certificates to trust in addition to the system's.

    Example: /etc/ssl/corp.pem
    """
    client_cert: str | None = None
    """A file with the PEM client certificate (chain) for mutual TLS. If the file or its key changes, the next
    connection uses the new pair.

    Example: /run/secrets/client.pem
    """
    client_key: str | None = None
    """A file with its PEM private key, unless `client_cert` contains the key. Pass phrases are not supported.

    Example: /run/secrets/client.key
    """

    def faults(self) -> Iterator[SettingFault]:
        if self.client_key and not self.client_cert:
            yield "", "client_key requires client_cert"


class Network(TlsFiles):
    proxy: ProxyUrl | None = None
    """An HTTP proxy. `none` in a hop: no proxy, although the top-level `network` has one. HTTP_PROXY and HTTPS_PROXY
    have no effect, except by reference: `${HTTPS_PROXY}`.

    Example: http://proxy.corp.example:3128

    Danger: For an `http://` target, the proxy sees everything. With a credential, such a target requires
    `allow_plain_http`, unless its host and the proxy are both on this machine.
    """
    proxy_auth: SecretText | None = None
    """`user:password` for the proxy, as a reference. gatepass reads it at the start.

    Example: ${PROXY_AUTH}
    """

    _inherited: frozenset[str] = PrivateAttr(frozenset())
    """The members that the top-level `network` decides."""

    def __eq__(self, other: object) -> bool:
        # without `_inherited`: a reload that moves a value to the top level changes no hop
        return isinstance(other, Network) and self.__dict__ == other.__dict__

    def inherit(self, default: Network) -> None:
        """Note which members have the value of `default`, the top-level `network`."""
        self._inherited = frozenset(
            name for name in Network.model_fields if getattr(self, name) == getattr(default, name)
        )

    def setting(self, owner: str, member: str) -> str:
        """Return the full name of the setting that decides `member` for `owner`, such as `upstreams.chat`.

        A CA or a proxy that nothing sets belongs at the top level: a company has one for all servers.
        """
        is_company = member in ("ca_file", "proxy") and member not in self.model_fields_set
        return f"{'' if is_company or member in self._inherited else f'{owner}.'}network.{member}"

    @field_validator("proxy", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return None if value == "none" else value

    def faults(self) -> Iterator[SettingFault]:
        yield from super().faults()
        if self.proxy_auth is not None and self.proxy is None:
            yield "", "proxy_auth requires proxy"


NO_NETWORK = Network()
"""No proxy and no own TLS files."""
_HOSTS = re.compile(r"(\*\.|\.)?[A-Za-z0-9_-][A-Za-z0-9._-]*|\*")


def _host_without_proxy(text: str) -> str:
    if _HOSTS.fullmatch(text) is None:
        try:
            ip_network(text)
        except ValueError:
            raise ValueError(
                "expects hosts without a port: llm.corp.example, .corp.example, an address, 10.0.0.0/8 or *"
            ) from None
    return text.lower()


class DefaultNetwork(Network):
    no_proxy: Annotated[
        list[Annotated[str, AfterValidator(_host_without_proxy)]],
        BeforeValidator(
            lambda value: re.findall(r"[^\s,]+", value) if isinstance(value, str) else value,
            json_schema_input_type=str | list[str],
        ),
    ] = []
    """Hosts that use no proxy unless their own `network` names one: a name with all names below it, an address, a
    network or `*`. A text separates them by commas, as `${NO_PROXY}` does. This machine needs no entry. For a
    credential, all URLs that its settings contain must match.

    Example: [.corp.example, 10.0.0.0/8]
    """

    def avoids_proxy(self, host: str) -> bool:
        """Whether `host`, without a port, uses no proxy by default."""
        host = host.strip("[]").rstrip(".").lower()
        for entry in self.no_proxy:
            try:
                is_included = ip_address(host) in ip_network(entry)
            except ValueError:
                name = entry.removeprefix("*").removeprefix(".")
                is_included = not name or host == name or host.endswith(f".{name}")
            if is_included:
                return True
        return is_loopback(host)


class TimeoutSettings(Block):
    """Timeouts of requests, under an upstream, a model or an operation. Those of a model or an operation replace the
    upstream's one by one."""

    connect_s: Seconds = 5.0
    """Seconds to establish a connection, TLS included.

    Example: 1
    """
    first_byte_s: Seconds = 600.0
    """Seconds from the last byte of the request to the head of the reply. While a large body is sent, seconds for
    which the upstream may read nothing of it. The time in which the client sends the body is not included.

    Example: 900

    Danger: Reasoning models send nothing for minutes. A short timeout fails their requests.
    """
    idle_s: Seconds = 300.0
    """Seconds between two reads of the reply. A stream that sends nothing after its head ends by it too.

    Danger: Reasoning models pause for minutes. A short timeout fails their requests.
    """
    total_s: Seconds | None = None
    """Seconds for all attempts of a request together; None: no limit. With several targets, the first one's applies.

    Example: 1800

    Danger: It cuts long answers in the middle.
    """

    def value(self, owner: str, model: str = "", of_model: TimeoutSettings | None = None) -> Timeouts:
        """Return the timeouts of the upstream `owner`, such as `upstreams.chat`, with the setting of each.

        Those that the block of `model` sets replace them.
        """
        values: dict[str, Any] = self.model_dump()
        settings = {name: f"{owner}.timeouts.{name}" for name in values}
        # not all fields: a default that is not in the file must not override
        own = {} if of_model is None else of_model.model_dump(exclude_unset=True)
        settings |= {name: f"models.{model}.timeouts.{name}" for name in own}
        return Timeouts(**values | own, settings=settings)
