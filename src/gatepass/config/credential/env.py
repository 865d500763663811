"""`type: env`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from gatepass.call import Secret
from gatepass.config.credential.local import LocalCredential
from gatepass.config.references import Reference


class Variable(Secret):
    """An environment variable: its value is the secret, its name for people."""

    __slots__ = ("name",)

    def __init__(self, name: str, value: str | Callable[[], str]) -> None:
        super().__init__(value, changes=False)
        self.name = name


def _variable(value: Any) -> Variable:
    if isinstance(value, Variable):
        return value
    if isinstance(value, Reference) and len(value.places) == 1 and value:
        return Variable(value.places[0].name, value.read)
    raise ValueError("expects the name of an environment variable that is set and not empty")


class EnvCredential(LocalCredential):
    """A key or token in an environment variable, which cannot change while gatepass runs."""

    type: Literal["env"]
    """Where the token comes from."""
    variable: Annotated[
        Variable,
        BeforeValidator(_variable),
        PlainSerializer(lambda variable: variable.name, return_type=str),
        WithJsonSchema({"type": "string", "description": "the variable's name"}),
    ]
    """The variable's name, without `${…}`."""
