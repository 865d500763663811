import subprocess
import sys
from typing import ClassVar

from pydantic import Field

from gatepass.config.block import Block, field_docstrings

PROBE = """
import ast
ast.parse = None
import gatepass.config.model
print("imported")
"""


class Above(Block):
    """A block."""

    kept: int = 1
    """The unchanged docstring."""
    changed: str = "a"
    """The overridden docstring."""
    bare: int = 2


class Below(Above):
    note: ClassVar[str] = "x"
    """No field."""
    changed: str = "b"
    """In two lines,

    one of them empty.
    """
    json_body: list[int] = Field(default=[], alias="json")
    """Under another name."""

    def method(self) -> None:
        """No field either."""


def test_the_text_below_a_field_is_found_and_inherited():
    assert field_docstrings(Above) == {"kept": "The unchanged docstring.", "changed": "The overridden docstring."}
    assert field_docstrings(Below) == {
        "kept": "The unchanged docstring.",
        "changed": "In two lines,\n\none of them empty.",
        "json_body": "Under another name.",
    }


def test_a_block_without_its_source_has_no_texts():
    assert field_docstrings(type("Made", (Block,), {"__annotations__": {"a": int}, "a": 1, "__module__": "sys"})) == {}


def test_the_schema_describes_by_the_names_of_the_file():
    described = {name: member.get("description") for name, member in Below.model_json_schema()["properties"].items()}
    assert described == {
        "kept": "The unchanged docstring.",
        "changed": "In two lines,\n\none of them empty.",
        "bare": None,
        "json": "Under another name.",
    }


def test_the_model_of_the_configuration_is_imported_without_reading_its_source():
    ran = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, check=True, text=True, timeout=60)
    assert ran.stdout == "imported\n"
