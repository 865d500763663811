"""Where a credential's tokens come from, as people know it."""

from __future__ import annotations

from urllib.parse import urlsplit

from gatepass.config.credential.aws_bedrock import AwsBedrockCredential
from gatepass.config.credential.base import Credential
from gatepass.config.credential.entra import EntraCredential
from gatepass.config.credential.env import EnvCredential
from gatepass.config.credential.exec import ExecCredential
from gatepass.config.credential.file import FileCredential
from gatepass.config.credential.google import GoogleCredential
from gatepass.config.credential.http_json import HttpJsonCredential
from gatepass.config.credential.oauth2 import Oauth2Credential

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
