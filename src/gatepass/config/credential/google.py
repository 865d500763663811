"""`type: google`."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from gatepass.config.credential.base import Credential
from gatepass.config.credential.extra import checked_extra


class GoogleCredential(Credential):
    """Google Cloud: a credentials file as Google gives it, or what the machine has. Extra `google`."""

    type: Literal["google"]
    """Where the token comes from."""
    credentials_file: str | None = None
    """A JSON file: service account key, user, federated or impersonated; None looks where Google's tools do."""
    scope: str = "https://www.googleapis.com/auth/cloud-platform"
    """Scopes, separated by spaces."""

    @field_validator("type")
    @classmethod
    def _installed(cls, kind: str) -> str:
        checked_extra("google.auth", "google", kind)
        return kind
