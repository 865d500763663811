"""What all blocks of the configuration are made of: strictness, field types, and the docs below each field."""

from __future__ import annotations

import ast
import inspect
import textwrap
from itertools import pairwise
from typing import Annotated, Any

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
from gatepass.config.url import checked_base_url, checked_proxy_url, checked_url
from gatepass.types import Secret

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
