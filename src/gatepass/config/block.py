"""What all blocks of the configuration are made of: strictness, field types, and the docs below each field.

What a URL of the configuration must be.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from itertools import pairwise
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from gatepass.config.references import Reference
from gatepass.types import Secret

ELSEWHERE = "put it under credentials"
BESIDE = "put it into proxy_auth"


def checked_url(text: str) -> str:
    """`text` itself; raises ValueError, which tells every fault, where it is no plain http(s) URL.

    A trailing slash stays: some issuers redirect without theirs, and no redirect is followed.
    """
    return _without(_faults(text), text)


def checked_proxy_url(text: str) -> str:
    """As `checked_url`; who finds no user name allowed here is told of `network.proxy_auth`."""
    return _without(_faults(text, BESIDE), text)


def checked_base_url(text: str) -> str:
    """A URL to put paths behind: as `checked_url`, without a query and without trailing slashes."""
    query = ["holds a query: a path is put behind this URL, so it ends before the ?"] if "?" in text else []
    return _without((*_faults(text), *query), text).rstrip("/")


def _without(faults: Iterable[str], text: str) -> str:
    if told := "; ".join(faults):
        raise ValueError(told)
    return text


def _faults(text: str, elsewhere: str = ELSEWHERE) -> Iterator[str]:
    """What is wrong with `text`, which is never quoted: it may have come from a secret."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        yield "is not a URL: its host or port is malformed"
        return
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        yield "expects http://host… or https://host…"
    if parts.username is not None or parts.password is not None:
        yield f"holds a user name or password: {elsewhere}"
    if parts.fragment or any(ord(c) <= 0x20 or ord(c) >= 0x7F for c in text):
        yield "holds a fragment, a space or a character beyond ASCII"


def is_loopback(host: str) -> bool:
    """Whether `host` (no port, brackets allowed) is this machine for certain."""
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def crosses_network_in_plain(url: str, proxy: str | None = None) -> bool:
    """Whether a secret sent to `url`, over `proxy` where one is set, could be read by another machine."""
    parts = urlsplit(url)
    hops = (parts,) if proxy is None else (parts, urlsplit(proxy))
    return parts.scheme == "http" and not all(is_loopback(hop.hostname or "") for hop in hops)


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
        return Secret(value.read, changes=value.changes)
    if isinstance(value, str) and value:
        return Secret(value)
    raise ValueError("expects a text that is not empty, best as a reference: ${NAME} or ${file:/path}")


SecretText = Annotated[
    Secret,
    BeforeValidator(_secret),
    PlainSerializer(lambda _: "(hidden)", return_type=str),
    WithJsonSchema({"type": "string", "description": "a secret, best as ${NAME} or ${file:/path}"}),
]

Url = Annotated[str, AfterValidator(checked_url)]
ProxyUrl = Annotated[str, AfterValidator(checked_proxy_url)]
BaseUrl = Annotated[str, AfterValidator(checked_base_url)]

Seconds = Annotated[float, Field(gt=0)]
Bytes = Annotated[int, Field(gt=0)]
Name = Annotated[str, Field(pattern=NAME)]


class Block(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        arbitrary_types_allowed=True,
        defer_build=True,  # a validator of its own for each block inside Config takes 40 ms and 1.2 MB
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """What is below a field is its description. pydantic's own `use_attribute_docstrings` parses the source of
        every block at each start (13 % of its instructions), which nobody reads there."""
        made = handler(schema)
        members = handler.resolve_ref_schema(made)["properties"]
        for name, text in field_docstrings(cls).items():
            members[cls.model_fields[name].alias or name]["description"] = text
        return made


def field_docstrings(block: type[BaseModel]) -> dict[str, str]:
    """The text below each field of `block`, its inherited ones too, by the field's name; nothing of a class
    whose source is not there."""
    found: dict[str, str] = {}
    for part in reversed(block.__mro__):
        if not issubclass(part, BaseModel) or part is BaseModel:
            continue
        try:
            [definition] = ast.parse(textwrap.dedent(inspect.getsource(part))).body
        except (OSError, TypeError):
            continue
        for above, below in pairwise(definition.body if isinstance(definition, ast.ClassDef) else ()):
            match above, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = inspect.cleandoc(text)
    return {name: text for name, text in found.items() if name in block.model_fields}
