"""Credentials of cloud providers: Microsoft Entra ID, Google Cloud and Amazon Bedrock."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, field_validator

from gatepass.config.block import SecretText, SettingFault, Url
from gatepass.config.credential.base import Credential, checked_extra

LIBRARIES = {
    "entra": ("azure.identity", "entra"),
    "google": ("google.auth", "google"),
    "aws_bedrock": ("botocore", "aws"),
}
"""The library of each type, and the extra that installs it."""


def _check_library(kind: str) -> str:
    checked_extra(*LIBRARIES[kind], kind)
    return kind


_TENANT = re.compile(r"[A-Za-z0-9.-]+\Z")
PROOFS = ("client_secret", "certificate_file", "federated_token_file", "managed_identity")


class EntraCredential(Credential):
    """Microsoft Entra ID: a service principal, a workload identity or a managed identity, through Microsoft's
    azure-identity. It requires the extra `entra`. All its connections use `network`. Set exactly one of
    `client_secret`, `certificate_file`, `federated_token_file` and `managed_identity`."""

    type: Literal["entra"]
    tenant_id: str | None = None
    """The directory's id or domain; required without `managed_identity`.

    Example: corp.onmicrosoft.com
    """
    client_id: str | None = None
    """The application's id, required without `managed_identity`; with it the id of a user-assigned identity.

    Example: ${AZURE_CLIENT_ID}
    """
    client_secret: SecretText | None = None
    """Authenticate with a secret of the application.

    Example: ${AZURE_CLIENT_SECRET}
    """
    certificate_file: str | None = None
    """Authenticate with the application's certificate and RSA key, as PEM or PKCS #12. gatepass reads the file for
    each token.

    Example: /run/secrets/app.pem
    """
    certificate_password: SecretText | None = None
    """The pass phrase of `certificate_file`.

    Example: ${CERTIFICATE_PASSWORD}
    """
    federated_token_file: str | None = None
    """Authenticate with a projected service account token, `${AZURE_FEDERATED_TOKEN_FILE}` on AKS. gatepass reads the
    file for each token.

    Example: ${AZURE_FEDERATED_TOKEN_FILE}
    """
    managed_identity: bool = False
    """Authenticate with the identity of the machine: IMDS, App Service, Container Apps, Arc and other services that
    azure-identity finds. Plain HTTP to a link-local address is allowed for it. It is not used with `network.proxy`.

    Danger: Every program on the machine can get this token.
    """
    authority_host: Url = "https://login.microsoftonline.com"
    """The URL of Microsoft Entra ID; sovereign clouds have other hosts.

    Example: https://login.microsoftonline.us
    """
    scope: str = "https://cognitiveservices.azure.com/.default"
    """The scope of the token; `https://ai.azure.com/.default` for Azure AI Foundry.

    Example: https://ai.azure.com/.default
    """

    _is_installed = field_validator("type")(_check_library)

    def faults(self) -> Iterator[SettingFault]:
        # the tenant becomes a part of the URL of the token endpoint
        if self.tenant_id is not None and not _TENANT.match(self.tenant_id):
            yield "tenant_id", "expects a directory's id or domain: letters, digits, dots and hyphens"
        if not self.authority_host.startswith("https://"):
            yield "authority_host", "expects https://host…: Microsoft's library supports no other"
        given = [name for name in PROOFS if getattr(self, name)]
        if len(given) != 1:
            yield "", f"expects exactly one of {', '.join(PROOFS)}"
        elif not self.managed_identity and not (self.tenant_id and self.client_id):
            yield "", f"{given[0]} requires tenant_id and client_id"
        elif self.managed_identity and self.tenant_id:
            yield "", "managed_identity has a tenant of its own: remove tenant_id"
        elif self.certificate_password is not None and self.certificate_file is None:
            yield "", "certificate_password requires certificate_file"


VARIABLES = ("GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG", "HOME", "GCE_METADATA_HOST")
"""Environment variables that Google's library reads without a `credentials_file`."""


class GoogleCredential(Credential):
    """Google Cloud: a credentials file of Google, or the credentials of the machine, through google-auth. It requires
    the extra `google`. All its connections use `network` and https."""

    type: Literal["google"]
    credentials_file: str | None = None
    """A credentials file of Google: a service account key, a user, an impersonated account, or federated credentials
    with a `file` or `url`. gatepass reads it for each token. None: the file of `GOOGLE_APPLICATION_CREDENTIALS`,
    else the file of `gcloud auth application-default login` in `CLOUDSDK_CONFIG` or `HOME`, else the metadata
    server.

    Example: /run/secrets/google.json

    Danger: gatepass calls the URLs in the file. Use only files from a source that you trust.
    """
    scope: str = "https://www.googleapis.com/auth/cloud-platform"
    """Scopes, separated by spaces. A user's credentials keep the scopes that were granted.

    Example: https://www.googleapis.com/auth/cloud-platform
    """

    _is_installed = field_validator("type")(_check_library)

    def environment(self) -> dict[str, str]:
        return {name: os.environ[name] for name in VARIABLES if name in os.environ}


# it becomes a part of a host name, so it must not hold a dot or a slash
_REGION = re.compile(r"[a-z0-9-]{1,40}\Z")
LONGEST_KEY_S = 12 * 3600.0
"""The longest lifetime of a short-term key that AWS accepts."""
NO_KEYS = (
    "expects access_key_id with secret_access_key (${AWS_ACCESS_KEY_ID} …), or web_identity_token_file;"
    " profiles, roles of an instance or container, SSO and credential_process are not supported,"
    " because AWS's library would ignore `network` for them"
)


class AwsBedrockCredential(Credential):
    """A short-term key for Amazon Bedrock, which botocore signs on this machine with AWS keys. It requires the extra
    `aws`. The AWS keys are `access_key_id` with `secret_access_key`, or those that STS returns for
    `web_identity_token_file`. Profiles, roles of an instance or a container, SSO and `credential_process` are not
    supported, because botocore would ignore `network` for them."""

    type: Literal["aws_bedrock"]
    region: str
    """The AWS region of the Bedrock endpoint.

    Example: us-east-1
    """
    access_key_id: SecretText | None = None
    """The AWS access key id.

    Example: ${AWS_ACCESS_KEY_ID}
    """
    secret_access_key: SecretText | None = None
    """The AWS secret access key.

    Example: ${AWS_SECRET_ACCESS_KEY}
    """
    session_token: SecretText | None = None
    """The session token of temporary keys.

    Example: ${AWS_SESSION_TOKEN}

    Danger: gatepass does not know when temporary keys expire. A key may end before `key_ttl_s`; gatepass then
    repeats the rejected request.
    """
    web_identity_token_file: str | None = None
    """Get the AWS keys from STS with the token in this file, for `role_arn`; `${AWS_WEB_IDENTITY_TOKEN_FILE}` on EKS.

    Example: ${AWS_WEB_IDENTITY_TOKEN_FILE}
    """
    role_arn: str | None = None
    """The role of `web_identity_token_file`.

    Example: arn:aws:iam::123456789012:role/llm
    """
    key_ttl_s: Annotated[float, Field(ge=60, le=LONGEST_KEY_S)] = 3600.0
    """The lifetime of a short-term key in seconds. It ends earlier if the session that signed it expires earlier; the
    session of a role lasts at most one hour.

    Danger: A key cannot be revoked before its end.
    """

    _is_installed = field_validator("type")(_check_library)

    def faults(self) -> Iterator[SettingFault]:
        if not _REGION.match(self.region):
            yield "region", "expects the name of a region, such as us-east-1"
        if (self.access_key_id is None) != (self.secret_access_key is None):
            yield "", "access_key_id and secret_access_key need each other"
        elif self.access_key_id is None and self.web_identity_token_file is None:
            yield "", NO_KEYS
        elif self.access_key_id is not None and self.web_identity_token_file is not None:
            yield "", "access_key_id and web_identity_token_file exclude each other"
        elif self.session_token is not None and self.access_key_id is None:
            yield "", "session_token requires access_key_id"
        elif (self.web_identity_token_file is None) != (self.role_arn is None):
            yield "", "web_identity_token_file and role_arn need each other"

    @property
    def sts(self) -> str:
        # AWS in China is a partition with its own domain.
        domain = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
        return f"https://sts.{self.region}.{domain}/"
