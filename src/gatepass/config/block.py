"""Base of all configuration blocks: strict validation, common field types, URL checks and field descriptions."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from itertools import pairwise
from typing import Annotated, Any, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails

from gatepass.config.references import Reference
from gatepass.types import Secret

HOLDS_QUERY = (
    "holds a query: gatepass appends a path to this URL, so end it before the ? and write the parameters beside it, as"
    " `query: {name: value}`"
)
NO_FORM = "holds a query that gatepass cannot send: write each parameter once, with a value"


def checked_url(text: str) -> str:
    """Return `text`; raise ValueError with every fault if it is not a plain http(s) URL.

    A trailing slash is kept: some issuers redirect without it, and gatepass follows no redirect.
    """
    return _raise_for(_faults(text), text)


def checked_proxy_url(text: str) -> str:
    """Check like `checked_url`; the error for a user name refers to `network.proxy_auth`."""
    return _raise_for(_faults(text, "put it into proxy_auth"), text)


def checked_base_url(text: str) -> str:
    """Check like `checked_url`, reject a query, and remove trailing slashes, because a path is appended."""
    query = [NO_FORM if split_query(text)[0] == text else HOLDS_QUERY] if "?" in text else []
    return _raise_for((*_faults(text), *query), text).rstrip("/")


def split_query(url: str) -> tuple[str, dict[str, str]]:
    """Return `url` without its query, and the decoded parameters. A query that has no such form stays in the URL."""
    plain, _, query = url.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    found = dict(pairs)
    return (url, {}) if "#" in query or len(found) < len(pairs) or not all(found.values()) else (plain, found)


def _raise_for(faults: Iterable[str], text: str) -> str:
    if message := "; ".join(faults):
        raise ValueError(message)
    return text


def _faults(text: str, user_hint: str = "put it under credentials") -> Iterator[str]:
    """Yield the faults of a URL. They never quote `text`, because it may come from a secret."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        yield "is not a URL: its host or port is malformed"
        return
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        yield "expects http://host… or https://host…"
    if parts.username is not None or parts.password is not None:
        yield f"holds a user name or password: {user_hint}"
    if parts.fragment or any(ord(c) <= 0x20 or ord(c) >= 0x7F for c in text):
        yield "holds a fragment, a space or a character beyond ASCII"


def is_loopback(host: str) -> bool:
    """Whether `host` (without port, brackets allowed) is certainly this machine. Names are not resolved."""
    host = host.strip("[]").rstrip(".").lower()  # a dot ends a complete name (RFC 1034, section 3.1)
    # names that always mean this machine (RFC 6761, section 6.3)
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    # before 3.13, Python does not see that ::ffff:127.0.0.1 is a loopback address
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def crosses_network_in_plain(url: str, proxy: str | None = None) -> bool:
    """Whether another machine could read a secret that is sent to `url`, directly or through `proxy`."""
    parts = urlsplit(url)
    hops = (parts,) if proxy is None else (parts, urlsplit(proxy))
    return parts.scheme == "http" and not all(is_loopback(hop.hostname or "") for hop in hops)


_QUERY = re.compile(r"(?<=://)([^?]*)\?.*")


def without_query(value: Any) -> Any:
    """Return `value`; if it is a URL, without its query, which may contain a key."""
    return _QUERY.sub(r"\1?(hidden)", value) if isinstance(value, str) else value


MIB = 1024 * 1024

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
HASH = r"^sha256:[0-9a-f]{64}$"
HEADER_NAME = r"^[A-Za-z0-9-]+$"
BASE_PATH = r"^(/[^/?#\s]+)*$"


def _secret(value: Any) -> Secret:
    if isinstance(value, Secret):
        return value
    if isinstance(value, Reference):
        if not value:
            raise ValueError(f"{value.template} is empty")
        return Secret(value.read, changes=value.changes, reference=value.template)
    if isinstance(value, str) and value:
        return Secret(value)
    if isinstance(value, int | float):
        raise ValueError("expects a text: put quotes around it")  # noqa: TRY004 - pydantic raises TypeError
    raise ValueError("expects a text that is not empty, best as a reference: ${NAME} or ${file:/path}")


SECRET_NAME = re.compile(r"secret|passw|pwd|token|key|credential|assertion|auth|sign|cookie|pin$", re.IGNORECASE)
"""Names of settings, headers and members that hold a secret."""
SecretText = Annotated[
    Secret,
    BeforeValidator(_secret),
    PlainSerializer(lambda _: "(hidden)", return_type=str),
    WithJsonSchema({"type": "string", "description": "a secret, best as ${NAME} or ${file:/path}"}),
]


def has_value(value: Any, remedy: str = "set it, or remove the line") -> Any:
    """Refuse a line that was left empty: read as null, it would mean what its absence means."""
    if value is None:
        raise ValueError(f"is empty: {remedy}")
    return value


def not_null(remedy: str = "set it, or delete the line for no limit") -> BeforeValidator:
    """Refuse a restriction whose line was left empty: it would allow everything."""
    return BeforeValidator(lambda value: has_value(value, remedy))


Url = Annotated[str, AfterValidator(checked_url)]
ProxyUrl = Annotated[str, AfterValidator(checked_proxy_url)]
BaseUrl = Annotated[str, AfterValidator(checked_base_url)]
ORIGIN = r"^(\*|[a-z][a-z0-9+.-]*://[a-z0-9.:\[\]-]+)$"
"""An origin as browsers send it, or `*`: https://fetch.spec.whatwg.org/#origin-header."""
CorsOrigin = Annotated[str, Field(pattern=ORIGIN)]

Seconds = Annotated[float, Field(gt=0)]
Bytes = Annotated[int, Field(gt=0)]
Name = Annotated[str, Field(pattern=NAME)]

SettingFault = tuple[str, str]
"""The dotted name of a setting, or an empty text for the whole block, and the problem."""


class Block(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        arbitrary_types_allowed=True,
        defer_build=True,  # a separate validator for each block inside Config takes 40 ms and 1.2 MB
    )

    def faults(self) -> Iterator[SettingFault]:
        """Yield the settings that are valid alone, but not together."""
        yield from ()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        details = []
        for name, text in self.faults():
            place = tuple(filter(None, name.split(".")))
            details.append(InitErrorDetails(type="value_error", loc=place, input=None, ctx={"error": ValueError(text)}))
        if details:
            raise ValidationError.from_exception_data(type(self).__name__, details)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Add the string below each field as its description."""
        # pydantic's use_attribute_docstrings would parse the source of every block at each start (13 % of its
        # instructions), but only `gatepass check --schema` needs descriptions
        json_schema = handler(schema)
        members = handler.resolve_ref_schema(json_schema)["properties"]
        for name, text in field_docstrings(cls).items():
            members[cls.model_fields[name].alias or name]["description"] = text
        return json_schema


def plain(value: Any) -> Any:
    """Return the tree that a file would hold, without defaults. Secrets stay Secrets."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {fields[name].alias or name: plain(getattr(value, name)) for name in value.model_fields_set}
    if isinstance(value, dict):
        return {key: plain(member) for key, member in value.items()}
    return [plain(member) for member in value] if isinstance(value, list | tuple) else value


def field_docstrings(block: type[BaseModel]) -> dict[str, str]:
    """Return the string below each field of `block` and its bases by field name; empty for a class without source."""
    found: dict[str, str] = {}
    for part in reversed(block.__mro__):
        if not issubclass(part, BaseModel) or part is BaseModel:
            continue
        try:
            [definition] = ast.parse(inspect.getsource(part)).body
        except (OSError, TypeError):
            continue
        for above, below in pairwise(definition.body if isinstance(definition, ast.ClassDef) else ()):
            match above, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = inspect.cleandoc(text)
    return {name: text for name, text in found.items() if name in block.model_fields}
