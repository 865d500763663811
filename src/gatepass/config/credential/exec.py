"""`type: exec`."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema

from gatepass.call import Secret
from gatepass.config.block import SecretText
from gatepass.config.credential.local import LocalCredential
from gatepass.config.credential.reply import ReplyPaths
from gatepass.config.references import Reference

VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"


def _argument(value: Any) -> str | Secret:
    if isinstance(value, Reference):
        return Secret(value.read, changes=value.changes)
    if isinstance(value, str | Secret):
        return value
    raise ValueError("expects a text: put quotes around it")


Argument = Annotated[
    str | Secret,
    PlainValidator(_argument),
    PlainSerializer(lambda value: "(hidden)" if isinstance(value, Secret) else value, return_type=str),
    WithJsonSchema({"type": "string", "description": "one argument, handed over as it stands: no shell reads it"}),
]
"""A plain text is shown, one that holds a reference is hidden."""
Variable = Annotated[str, Field(pattern=VARIABLE)]


class ExecCredential(LocalCredential):
    """A program of your own that prints a token."""

    type: Literal["exec"]
    """Where the token comes from."""
    command: Annotated[list[Argument], Field(min_length=1)]
    """The program and its arguments; no shell is between."""
    env: dict[Variable, SecretText] = {}
    """Variables of its environment, by name."""
    inherit: list[Variable] = ["PATH", "HOME"]
    """Variables of gatepass's own environment that it gets too."""
    exec_credential: Literal["v1", "v1beta1"] | None = None
    """Speak with it as kubectl does: KUBERNETES_EXEC_INFO in this version, an ExecCredential back."""
    reply: ReplyPaths = ReplyPaths()
    """Where the token and its life stand in what it prints."""

    def inherited(self) -> dict[str, str]:
        """What it gets of gatepass's environment, as far as that is set."""
        return {name: os.environ[name] for name in self.inherit if name in os.environ}
