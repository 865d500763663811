"""Credentials of three vendors, made up, and the settings that name them."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gatepass.config.credential.vendor import AwsBedrockCredential, EntraCredential, GoogleCredential
from tests.unit.clock import DrivenClock
from tests.unit.tokens.keys import private_pem

SECRET = "s3cr3t-of~the.application"
AWS_KEYS = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}


def present() -> DrivenClock:
    """A clock that shows the machine's own date, by which the libraries count."""
    return DrivenClock(wall=time.time())


def entra(**settings: Any) -> EntraCredential:
    principal = {} if settings.get("managed_identity") else {"tenant_id": "corp.example", "client_id": "app-1"}
    return EntraCredential.model_validate({"type": "entra", **principal, **settings})


def google(**settings: Any) -> GoogleCredential:
    return GoogleCredential.model_validate({"type": "google", **settings})


def bedrock(**settings: Any) -> AwsBedrockCredential:
    return AwsBedrockCredential.model_validate({"type": "aws_bedrock", "region": "us-east-1", **settings})


def service_account(**members: Any) -> dict[str, Any]:
    return {
        "type": "service_account",
        "client_email": "bot@project.iam.gserviceaccount.com",
        "private_key_id": "key-1",
        "private_key": private_pem("rsa"),
        "token_uri": "https://oauth2.googleapis.com/token",
        **members,
    }


def user() -> dict[str, Any]:
    return {
        "type": "authorized_user",
        "client_id": "client-1",
        "client_secret": SECRET,
        "refresh_token": "1//refresh-token-of-the-user",
    }


@contextmanager
def logs_nothing_of(caplog: pytest.LogCaptureFixture, libraries: tuple[str, ...], *secrets: str) -> Iterator[None]:
    """Assert that the block logs no line of the `libraries` and none of `secrets`, at any level."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("elsewhere").debug("the capture works")
    yield
    assert "the capture works" in caplog.text
    assert [record.name for record in caplog.records if record.name.startswith(libraries)] == []
    assert not [secret for secret in secrets if secret in caplog.text]


def file_of(folder: Path, document: Any) -> str:
    path = folder / "credentials.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(path)
