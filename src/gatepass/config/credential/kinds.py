"""Every kind of credential as one type, and where each gets its tokens."""

from __future__ import annotations

from typing import Annotated, get_args
from urllib.parse import urlsplit

from pydantic import Field

from gatepass.config.credential.base import Credential
from gatepass.config.credential.http_json import HttpJsonCredential
from gatepass.config.credential.local import (
    ApiKeyCredential,
    EnvCredential,
    ExecCredential,
    FileCredential,
    StaticCredential,
)
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.credential.vendor import AwsBedrockCredential, EntraCredential, GoogleCredential

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


def place_of(credential: Credential) -> str:
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
