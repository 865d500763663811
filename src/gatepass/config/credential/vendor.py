"""Credentials of the clouds: Microsoft Entra ID, Google Cloud and Amazon Bedrock."""

from __future__ import annotations

import os
import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from gatepass.config.block import SecretText, Url
from gatepass.config.credential.base import Credential, checked_extra

LIBRARIES = {
    "entra": ("azure.identity", "entra"),
    "google": ("google.auth", "google"),
    "aws_bedrock": ("botocore", "aws"),
}
"""The library of each type, and the extra that brings it."""


def _installed(kind: str) -> str:
    checked_extra(*LIBRARIES[kind], kind)
    return kind


_TENANT = re.compile(r"[A-Za-z0-9.-]+\Z")
PROOFS = ("client_secret", "certificate_file", "federated_token_file", "managed_identity")


class EntraCredential(Credential):
    """Microsoft Entra ID: a service principal, a workload identity or a managed identity. Extra `entra`."""

    type: Literal["entra"]
    """Where the token comes from."""
    tenant_id: str | None = None
    """The directory's id or domain; everywhere but with `managed_identity`."""
    client_id: str | None = None
    """The application's id; with `managed_identity` the id of a user-assigned one."""
    client_secret: SecretText | None = None
    """A proof: one of the application's secrets."""
    certificate_file: str | None = None
    """A proof: its certificate with the RSA key, PEM or PKCS #12."""
    certificate_password: SecretText | None = None
    """The pass phrase of that file."""
    federated_token_file: str | None = None
    """A proof: a projected service account token, `${AZURE_FEDERATED_TOKEN_FILE}` on AKS."""
    managed_identity: bool = False
    """The proof is the machine itself (IMDS, App Service, Arc …)."""
    authority_host: Url = "https://login.microsoftonline.com"
    """Where the directory is asked; other clouds have other hosts."""
    scope: str = "https://cognitiveservices.azure.com/.default"
    """What the token is for."""

    _is_installed = field_validator("type")(_installed)

    @field_validator("tenant_id")
    @classmethod
    def _tenant(cls, tenant: str | None) -> str | None:
        if tenant is not None and not _TENANT.match(tenant):
            raise ValueError("expects a directory's id or domain: letters, digits, dots and hyphens")
        return tenant

    @field_validator("authority_host")
    @classmethod
    def _secure(cls, url: str) -> str:
        if not url.startswith("https://"):
            raise ValueError("expects https://host…: Microsoft's library asks no other")
        return url

    @model_validator(mode="after")
    def _one_proof(self) -> EntraCredential:
        given = [name for name in PROOFS if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"expects exactly one of {', '.join(PROOFS)}")
        if not self.managed_identity and not (self.tenant_id and self.client_id):
            raise ValueError(f"{given[0]} needs tenant_id and client_id beside it")
        if self.managed_identity and self.tenant_id:
            raise ValueError("managed_identity has a tenant of its own: remove tenant_id")
        if self.certificate_password is not None and self.certificate_file is None:
            raise ValueError("certificate_password needs certificate_file beside it")
        return self


VARIABLES = ("GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG", "HOME", "GCE_METADATA_HOST")
"""Where Google's own tools look without a `credentials_file`."""


class GoogleCredential(Credential):
    """Google Cloud: a credentials file as Google gives it, or what the machine has. Extra `google`."""

    type: Literal["google"]
    """Where the token comes from."""
    credentials_file: str | None = None
    """A JSON file: service account key, user, federated or impersonated; None looks where Google's tools do."""
    scope: str = "https://www.googleapis.com/auth/cloud-platform"
    """Scopes, separated by spaces."""

    _is_installed = field_validator("type")(_installed)

    def surroundings(self) -> dict[str, str]:
        """What Google's tools would heed of gatepass's environment, as far as that is set."""
        return {name: os.environ[name] for name in VARIABLES if name in os.environ}


_REGION = re.compile(r"[a-z0-9-]{1,40}\Z")
LONGEST_KEY_S = 12 * 3600.0
"""AWS honours a short-term key no longer."""
NO_KEYS = (
    "expects access_key_id with secret_access_key (${AWS_ACCESS_KEY_ID} …), or profile, or web_identity_token_file;"
    " roles of an instance or container, SSO and credential_process are not used:"
    " AWS's library would ask for them past `network`"
)


class AwsBedrockCredential(Credential):
    """A short-term key for Amazon Bedrock, signed on this machine with AWS keys. Extra `aws`."""

    type: Literal["aws_bedrock"]
    """Where the token comes from."""
    region: str
    """The region whose Bedrock the key is for."""
    access_key_id: SecretText | None = None
    """AWS keys, best by reference: `${AWS_ACCESS_KEY_ID}`."""
    secret_access_key: SecretText | None = None
    """The other half."""
    session_token: SecretText | None = None
    """The third part of keys that are temporary."""
    profile: str | None = None
    """Take the keys from this profile of `profiles_file`, read anew for each key."""
    profiles_file: str | None = None
    """The file of the profiles, mostly `~/.aws/credentials`."""
    web_identity_token_file: str | None = None
    """Take keys from STS for `role_arn` and the token in this file, `${AWS_WEB_IDENTITY_TOKEN_FILE}` on EKS."""
    role_arn: str | None = None
    """A role to assume first, at STS."""
    role_session_name: str = "gatepass"
    """What STS calls the session."""
    external_id: str | None = None
    """What the role's owner wants told, where the role is another account's."""
    sts_url: Url | None = None
    """STS; None is `https://sts.REGION.amazonaws.com/`."""
    key_life_s: Annotated[float, Field(ge=60, le=LONGEST_KEY_S)] = 3600.0
    """Seconds that a key lives; it ends with the keys that signed it, where they end sooner."""

    _is_installed = field_validator("type")(_installed)

    @field_validator("region")
    @classmethod
    def _region_name(cls, region: str) -> str:
        if not _REGION.match(region):
            raise ValueError("expects the name of a region, such as us-east-1")
        return region

    @model_validator(mode="after")
    def _one_source(self) -> AwsBedrockCredential:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key need each other")
        sources = (self.access_key_id, self.profile, self.web_identity_token_file)
        given = sum(source is not None for source in sources)
        if given != 1:
            raise ValueError(
                NO_KEYS if not given else "access_key_id, profile and web_identity_token_file exclude each other"
            )
        if (self.profile is None) != (self.profiles_file is None):
            raise ValueError("profile and profiles_file need each other: the file is mostly ~/.aws/credentials")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("session_token needs access_key_id beside it")
        if self.web_identity_token_file is not None and self.role_arn is None:
            raise ValueError("web_identity_token_file needs role_arn beside it")
        if self.external_id is not None and (self.role_arn is None or self.web_identity_token_file is not None):
            raise ValueError("external_id needs role_arn beside it, and keys or a profile")
        return self

    @property
    def sts(self) -> str:
        """Where STS is asked."""
        domain = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
        return self.sts_url or f"https://sts.{self.region}.{domain}/"
