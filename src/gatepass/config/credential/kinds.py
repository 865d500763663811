"""The kinds of credential, told apart by their `type`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gatepass.config.credential.http_json import HttpJsonCredential
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.credential.static import StaticCredential

AnyCredential = Annotated[Oauth2Credential | HttpJsonCredential | StaticCredential, Field(discriminator="type")]
