"""`type: google`."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import field_validator

from gatepass.config.credential.base import Credential
from gatepass.config.credential.extra import checked_extra

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

    @field_validator("type")
    @classmethod
    def _installed(cls, kind: str) -> str:
        checked_extra("google.auth", "google", kind)
        return kind

    def surroundings(self) -> dict[str, str]:
        """What Google's tools would heed of gatepass's environment, as far as that is set."""
        return {name: os.environ[name] for name in VARIABLES if name in os.environ}
