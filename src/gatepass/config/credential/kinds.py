"""The kinds of credential, told apart by their `type`."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from gatepass.config.credential.api_key import ApiKeyCredential
from gatepass.config.credential.aws_bedrock import AwsBedrockCredential
from gatepass.config.credential.entra import EntraCredential
from gatepass.config.credential.env import EnvCredential
from gatepass.config.credential.exec import ExecCredential
from gatepass.config.credential.file import FileCredential
from gatepass.config.credential.google import GoogleCredential
from gatepass.config.credential.http_json import HttpJsonCredential
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.credential.static import StaticCredential

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
