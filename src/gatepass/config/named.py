"""Environment variables that a credential of type `env` names: their values, found at load."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from gatepass.config.document import Document
from gatepass.config.problem import Problem
from gatepass.config.references import Reference
from gatepass.config.tree import lookup, matches, replaced

PLACE = ("credentials", "*", "variable")
_NAME = re.compile(r"[A-Z_][A-Z0-9_]*\Z")
"""As most are called. What looks otherwise may be the token itself, by mistake, and is not repeated."""


def with_variables(document: Document, environment: Mapping[str, str]) -> Document:
    """`document` with the value behind each variable's name that a credential of type `env` gives."""
    for path, name in list(matches(document.tree, PLACE)):
        if lookup(document.tree, (*path[:-1], "type")) == "env" and isinstance(name, str):
            if (fault := _fault(name, environment)) is not None:
                problem = Problem(path, fault, document.origin(path))
                document = replace(document, problems=(*document.problems, problem))
            else:
                reference = Reference.to_variable(name, environment[name])
                document = replace(document, tree=replaced(document.tree, path, reference))
    return document


def _fault(name: str, environment: Mapping[str, str]) -> str | None:
    """Why `name` gives no token; a reference's value is nobody's to read."""
    if isinstance(name, Reference):
        return "expects a variable's name alone, without ${…}"
    if environment.get(name):
        return None
    return f"the environment variable{f' {name}' if _NAME.match(name) else ''} is not set, or is empty"
