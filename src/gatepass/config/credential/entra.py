"""`type: entra`."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator, model_validator

from gatepass.config.block import SecretText, Url
from gatepass.config.credential.base import Credential
from gatepass.config.credential.extra import checked_extra

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

    @field_validator("type")
    @classmethod
    def _installed(cls, kind: str) -> str:
        checked_extra("azure.identity", "entra", kind)
        return kind

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
