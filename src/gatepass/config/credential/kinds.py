"""Credentials without a token endpoint, the union of all credentials, and where each gets its tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema

from gatepass.config.block import SecretText, SettingFault
from gatepass.config.credential.base import Credential, ReplyPaths
from gatepass.config.credential.http_json import HttpJsonCredential
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.network import PARAMETER, TOKEN_PLACEHOLDER, FieldName, Network, TokenPlacement
from gatepass.config.references import Reference
from gatepass.types import Secret


class LocalCredential(Credential):
    """Base of credentials for which gatepass opens no connection."""

    def faults(self) -> Iterator[SettingFault]:
        if self.network != Network():
            fault = "has no effect here: gatepass opens no connection for this type"
            yield "network", f"{fault} (a program takes its proxy from env)"


class StaticCredential(LocalCredential):
    """A key that does not expire, sent as `Authorization: Bearer …`."""

    type: Literal["static"]
    token: SecretText
    """The key.

    Example: ${API_KEY}
    """


class FileCredential(LocalCredential):
    """A token in a file that another program keeps fresh, such as a projected token of Kubernetes or the token of a
    sidecar.

    gatepass reads the file when it needs the token, if the file has changed. A JWT is valid until its `exp`. A
    token without an expiry is valid until the file changes, which gatepass notices within 2 s. An expired token is
    a failure until the file changes.
    """

    type: Literal["file"]
    path: Annotated[str, Field(min_length=1)]
    """The file: the token as plain text, or JSON that holds it, at most 64 KiB.

    Example: /var/run/secrets/tokens/llm

    Danger: Write a new file and rename it. Otherwise gatepass may read a part of a token.
    """
    reply: ReplyPaths = ReplyPaths()
    """Where the token and its lifetime are in a JSON file.

    Example: {token: access_token}
    """


VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"


def _argument(value: Any) -> str | Secret:
    if isinstance(value, Reference):
        return Secret(value.read, changes=value.changes, reference=value.template)
    if isinstance(value, str | Secret):
        return value
    raise ValueError("expects a text: put quotes around it")


Argument = Annotated[
    str | Secret,
    PlainValidator(_argument),
    PlainSerializer(lambda value: "(hidden)" if isinstance(value, Secret) else value, return_type=str),
    WithJsonSchema({"type": "string", "description": "one argument, passed unchanged and without a shell"}),
]
"""One argument of a command. A plain text is shown; an argument with a reference is hidden."""
VariableName = Annotated[str, Field(pattern=VARIABLE)]


class ExecCredential(LocalCredential):
    """Your own program that prints a token: JSON, the bare token, or kubectl's ExecCredential. gatepass runs it
    without a shell and without input. After `timeout_s`, or 64 KiB of output, gatepass kills it and its child
    processes.

    An exit code other than 0 is a failure, which gatepass logs with the last line of stderr, secrets masked. It
    runs the program again every half minute. With a code of RFC 6749 in the text (`invalid_client`) or with exit
    code 77, it does so ever more rarely, so that no account is locked. With exit code 75, it runs the program three
    times within 2 s, then every 2 to 3 s. The program may print a token from its own cache: the rest of a JWT's
    lifetime is used.
    """

    type: Literal["exec"]
    command: Annotated[list[Argument], Field(min_length=1)]
    """The program and its arguments; gatepass runs it without a shell.

    Example: [az, account, get-access-token, --resource, "https://ai.azure.com"]

    Danger: Every user of the machine can see the arguments. Pass secrets in `env`.
    """
    env: dict[VariableName, SecretText] = {}
    """Environment variables of the program, by name. It inherits `PATH` and `HOME` of gatepass, and no others.

    Example: {CLIENT_SECRET: "${CLIENT_SECRET}"}
    """
    reply: ReplyPaths = ReplyPaths()
    """Where the token and its lifetime are in the output.

    Example: {token: accessToken, expiry: expiresOn}
    """


USUAL_HEADER = "api-key"


class ApiKeyCredential(LocalCredential):
    """A key that does not expire, in a header or query parameter that you name."""

    type: Literal["api_key"]
    key: SecretText
    """The key.

    Example: ${API_KEY}
    """
    header: FieldName | None = None
    """The header that holds the key; None: `api-key` if `query` is not set.

    Example: x-api-key
    """
    query: Annotated[str, Field(pattern=PARAMETER)] | None = None
    """The query parameter that holds the key.

    Example: key

    Danger: The upstream's own log may contain the key.
    """

    def faults(self) -> Iterator[SettingFault]:
        yield from super().faults()
        if self.token_placement is not None and (self.header or self.query):
            yield "", "token_placement already sets the place of the key: remove header and query"
        _ = self.default_placement  # raises ValueError for a reserved header

    @property
    def default_placement(self) -> TokenPlacement:
        header = self.header or (USUAL_HEADER if self.query is None else None)
        return TokenPlacement(headers={header: TOKEN_PLACEHOLDER} if header else None, query=self.query)


AnyCredential = Annotated[
    Oauth2Credential  # one a line: docs/extending.md adds some
    | HttpJsonCredential
    | StaticCredential
    | ExecCredential
    | FileCredential
    | ApiKeyCredential,
    Field(discriminator="type"),
]

BLOCKS: dict[str, type[Credential]] = {
    get_args(block.model_fields["type"].annotation)[0]: block for block in get_args(get_args(AnyCredential)[0])
}
"""The settings of each `type` of credential."""
KINDS: tuple[str, ...] = tuple(BLOCKS)
"""Every `type` of credential."""
LOCAL_KINDS = frozenset(kind for kind, block in BLOCKS.items() if issubclass(block, LocalCredential))
"""The types for which gatepass opens no connection."""


def token_location(credential: Credential) -> str:
    """Return where tokens come from: a host, program or file. Never contains a secret."""
    match credential:  # a URL is cut to its host, because its path or query may hold a secret
        case Oauth2Credential():
            return urlsplit(credential.token_url).netloc
        case HttpJsonCredential():
            return urlsplit(credential.url).netloc
        case ExecCredential():
            program = credential.command[0]
            return f"the program {program}" if isinstance(program, str) else "a program"
        case FileCredential():
            return f"the file {credential.path}"
        case _:
            return "the configuration"
