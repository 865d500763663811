"""What stands below the fields of a block, read from its source where somebody asks: a start never does."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise

from pydantic import BaseModel


def field_docstrings(block: type[BaseModel]) -> dict[str, str]:
    """The text below each field of `block`, its inherited ones too, by the field's name; nothing of a class
    whose source is not there."""
    found: dict[str, str] = {}
    for part in reversed(block.__mro__):
        if issubclass(part, BaseModel) and part is not BaseModel:
            found |= _below_fields(part)
    return {name: text for name, text in found.items() if name in block.model_fields}


def _below_fields(part: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(part))
    except (OSError, TypeError):
        return {}
    return {name: text for block in ast.parse(source).body for name, text in _pairs(block)}


def _pairs(block: ast.stmt) -> Iterator[tuple[str, str]]:
    for above, below in pairwise(block.body if isinstance(block, ast.ClassDef) else ()):
        match above, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, inspect.cleandoc(text)
