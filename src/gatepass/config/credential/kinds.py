"""Credentials that ask no token endpoint, every kind of credential as one type, and where each gets its tokens."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from gatepass.config.block import SecretText
from gatepass.config.credential.base import Credential, ReplyPaths
from gatepass.config.credential.http_json import HttpJsonCredential
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.credential.vendor import AwsBedrockCredential, EntraCredential, GoogleCredential
from gatepass.config.network import PARAMETER, TOKEN_PLACEHOLDER, FieldName, Network, TokenPlacement
from gatepass.config.references import Reference
from gatepass.types import Secret


class LocalCredential(Credential):
    @field_validator("network")
    @classmethod
    def _goes_nowhere(cls, network: Network) -> Network:
        if network != Network():
            raise ValueError("says nothing here: gatepass asks nobody (a program finds its own way, by its env)")
        return network


class StaticCredential(Credential):
    """A key that does not expire."""

    type: Literal["static"]
    """Where the token comes from."""
    token: SecretText
    """The key, best by reference."""


class Variable(Secret):
    """An environment variable: its value is the secret, its name for people."""

    __slots__ = ("name",)

    def __init__(self, name: str, value: str | Callable[[], str]) -> None:
        super().__init__(value, changes=False)
        self.name = name


def _variable(value: Any) -> Variable:
    if isinstance(value, Variable):
        return value
    if isinstance(value, Reference) and len(value.sources) == 1 and value:
        return Variable(value.sources[0].name, value.read)
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


class FileCredential(LocalCredential):
    """A token that somebody else keeps fresh in a file, such as Kubernetes a projected one."""

    type: Literal["file"]
    """Where the token comes from."""
    path: Annotated[str, Field(min_length=1)]
    """The file: the token as plain text, or JSON that holds it."""
    reply: ReplyPaths = ReplyPaths()
    """Where the token and its life stand in a JSON file."""


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
VariableName = Annotated[str, Field(pattern=VARIABLE)]


class ExecCredential(LocalCredential):
    """A program of your own that prints a token."""

    type: Literal["exec"]
    """Where the token comes from."""
    command: Annotated[list[Argument], Field(min_length=1)]
    """The program and its arguments; no shell is between."""
    env: dict[VariableName, SecretText] = {}
    """Variables of its environment, by name."""
    inherit: list[VariableName] = ["PATH", "HOME"]
    """Variables of gatepass's own environment that it gets too."""
    exec_credential: Literal["v1", "v1beta1"] | None = None
    """Speak with it as kubectl does: KUBERNETES_EXEC_INFO in this version, an ExecCredential back."""
    reply: ReplyPaths = ReplyPaths()
    """Where the token and its life stand in what it prints."""

    def inherited(self) -> dict[str, str]:
        """What it gets of gatepass's environment, as far as that is set."""
        return {name: os.environ[name] for name in self.inherit if name in os.environ}


USUAL_HEADER = "api-key"


class ApiKeyCredential(LocalCredential):
    """A key that does not expire, in a header or query parameter of its own."""

    type: Literal["api_key"]
    """Where the token comes from."""
    key: SecretText
    """The key, best by reference."""
    header: FieldName | None = None
    """The header that holds it; None is `api-key` where there is no `query`."""
    query: Annotated[str, Field(pattern=PARAMETER)] | None = None
    """A query parameter that holds it."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.carry is not None and (self.header or self.query):
            raise ValueError("carry says where the key goes: remove header and query")
        _ = self.usual_carry  # refuses a header that nobody may set
        return self

    @property
    def usual_carry(self) -> TokenPlacement:
        header = self.header or (USUAL_HEADER if self.query is None else None)
        return TokenPlacement(headers={header: TOKEN_PLACEHOLDER} if header else None, query=self.query)


AnyCredential = Annotated[
    Oauth2Credential
    | HttpJsonCredential
    | StaticCredential
    | EntraCredential
    | GoogleCredential
    | AwsBedrockCredential
    | ExecCredential
    | FileCredential
    | EnvCredential
    | ApiKeyCredential,
    Field(discriminator="type"),
]

KINDS: tuple[str, ...] = tuple(
    get_args(block.model_fields["type"].annotation)[0] for block in get_args(get_args(AnyCredential)[0])
)
"""Every `type` there is."""


HERE = "the configuration"


def token_location(credential: Credential) -> str:
    """A host, a program, a file, a variable: never a secret, and no path or query of a URL."""
    match credential:
        case Oauth2Credential():
            return _host(credential.endpoint)
        case HttpJsonCredential():
            return _host(credential.url)
        case ExecCredential():
            program = credential.command[0]
            return f"the program {program}" if isinstance(program, str) else "a program"
        case FileCredential():
            return f"the file {credential.path}"
        case EnvCredential():
            return f"the environment variable {credential.variable.name}"
        case EntraCredential():
            return "the machine's identity" if credential.managed_identity else _host(credential.authority_host)
        case GoogleCredential():
            return f"Google, by {credential.credentials_file or 'what the machine has'}"
        case AwsBedrockCredential():
            return f"this machine, signed for {credential.region}"
        case _:
            return HERE


def _host(url: str) -> str:
    return urlsplit(url).netloc
