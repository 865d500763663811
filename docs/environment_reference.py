"""Write the tables of the environment variables, from docs/texts/environment.yaml.

tests/docs/test_environment.py loads each example.
"""

from __future__ import annotations

from collections.abc import Mapping

from docs.entries import read, table

from gatepass.config.document import dotted, lookup
from gatepass.config.environment import LIMIT_VARIABLES
from gatepass.config.model import Limits
from gatepass.config.references import PREFIX

HEAD = ("variable", "what it does", "sets", "example")


def limit_variables() -> dict[str, dict[str, str]]:
    """Return the variable of each setting under `limits`."""
    found = {}
    for name, path in LIMIT_VARIABLES.items():
        setting, default = dotted(path), lookup(Limits().model_dump(), path[1:])
        purpose = f"The value of [`{setting}`](#{setting.replace('.', '')})."
        shown = f"{default:g}" if isinstance(default, float) else str(default)
        example, stated = ("500", "unset") if default is None else (shown, f"`{shown}`, unless the file sets it")
        found[name] = {"purpose": purpose, "sets": f"`{setting}`", "example": example, "with_file": stated}
    return found


VARIABLES: Mapping[str, Mapping[str, str]] = {**read("texts/environment.yaml"), **limit_variables()}
"""`with_file` is the default of a variable that a configuration file leaves in use."""


def variables() -> str:
    """Return the variables that only the environment as the configuration has."""
    return table(HEAD, (row(name, texts) for name, texts in VARIABLES.items() if "with_file" not in texts))


def file_variables() -> str:
    """Return the variables that also work with a file."""
    rows = ((*row(name, texts), texts["with_file"]) for name, texts in VARIABLES.items() if "with_file" in texts)
    return table((*HEAD, "default"), rows)


def row(name: str, texts: Mapping[str, str]) -> tuple[str, str, str, str]:
    quote = "'" if set(texts["example"]) & set(' "') else ""
    return f"`{PREFIX}{name}`", texts["purpose"], texts["sets"], f"`{PREFIX}{name}={quote}{texts['example']}{quote}`"
