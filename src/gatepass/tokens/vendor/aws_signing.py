"""AWS Signature Version 4, by botocore, which is asked to sign and for nothing else."""

from __future__ import annotations

from base64 import b64encode

from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from gatepass.tokens.vendor.sts import Keys

HOST = "bedrock.amazonaws.com"
PREFIX = "bedrock-api-key-"


def bedrock_key(keys: Keys, region: str, life_s: float) -> str:
    """A short-term key: a presigned request that nobody sends, in base64, as AWS's own
    aws-bedrock-token-generator 1.1.0 builds it. It holds from the current second on for `life_s`.
    """
    request = AWSRequest("POST", f"https://{HOST}/", {"host": HOST}, params={"Action": "CallWithBearerToken"})
    SigV4QueryAuth(_credentials(keys), "bedrock", region, expires=int(life_s)).add_auth(request)
    url = str(request.url).removeprefix("https://") + "&Version=1"
    return PREFIX + b64encode(url.encode()).decode()


def signed_headers(keys: Keys, region: str, url: str, body: bytes, headers: dict[str, str]) -> dict[str, str]:
    """`headers` of a POST to STS, and those that prove who sends it."""
    request = AWSRequest("POST", url, headers, body)
    SigV4Auth(_credentials(keys), "sts", region).add_auth(request)
    return dict(request.headers.items())


def _credentials(keys: Keys) -> Credentials:
    return Credentials(keys.access_key_id, keys.secret_access_key, keys.session_token)
