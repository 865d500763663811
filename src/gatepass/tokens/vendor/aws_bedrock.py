"""Create short-term keys for Amazon Bedrock, signed with AWS keys.

botocore signs. AWS's own aws-bedrock-token-generator also looks for AWS keys at addresses that bypass gatepass's HTTP
client.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlencode

from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from gatepass.clock import Clock
from gatepass.config.credential.vendor import AwsBedrockCredential
from gatepass.http_client.fault_text import host_of
from gatepass.tokens.failure import FailureKind, FetchFailure
from gatepass.tokens.issuer_error import DEFINITE_STATUSES, REFUSED, TOO_MANY, TimedTokenResponse, one_line
from gatepass.tokens.lifetime import LifetimeSource, Token, TokenKind
from gatepass.tokens.secrets import in_file, revealed
from gatepass.tokens.token_endpoint import Connect, quiet_loggers
from gatepass.tokens.vendor.fetch import VendorEndpoints, VendorFetch
from gatepass.types import Secret

VERSION = "2011-06-15"
SHORTEST_S, LONGEST_S = 900, 3600
"""Session lengths that STS allows for any role. A longer one must be allowed at the role."""
TRANSIENT_CODES = frozenset(("Throttling", "ThrottlingException", "RequestLimitExceeded", "IDPCommunicationError"))
_NAMES = ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
HOST = "bedrock.amazonaws.com"
PREFIX = "bedrock-api-key-"
LIBRARY = "botocore"
FORM = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}


@dataclass(frozen=True, slots=True)
class AwsKeys:
    """Keys that sign AWS requests. `ends_s` is in seconds since the epoch; None if unknown."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    ends_s: float | None = None


def role_form(role_arn: str, lifetime_s: float, proof: str) -> bytes:
    """Return the body that requests a session of the role. `proof` is the token of the web identity."""
    fields = {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": VERSION,
        "RoleArn": role_arn,
        "RoleSessionName": "gatepass",
        # STS rejects a session shorter than SHORTEST_S, even for a shorter key.
        "DurationSeconds": str(int(min(max(lifetime_s, SHORTEST_S), LONGEST_S))),
        "WebIdentityToken": proof,
    }
    return urlencode(fields).encode()


def parse_sts_session(reply: TimedTokenResponse, host: str) -> AwsKeys:
    """Return the keys in a reply; raise FetchFailure with the text of STS."""
    if not reply.is_success:
        code, message = _element(reply.text, "Code"), _element(reply.text, "Message")
        text = ": ".join(filter(None, (code, message))) or reply.text
        definite = reply.status in DEFINITE_STATUSES and code not in TRANSIENT_CODES
        reason = f"{host} answered {reply.status}: {one_line(text, reply.mask)}".removesuffix(": ")
        kind = FailureKind.LIMITED if reply.status == TOO_MANY else FailureKind.OUTAGE
        if definite:
            kind, reason = FailureKind.REFUSED, f"{REFUSED}{reason}"
        raise FetchFailure(reason, kind)
    found = [_element(reply.text, name) for name in _NAMES]
    if None in found:
        raise FetchFailure(f"{host} answered {reply.status} without a session's keys")
    key, secret, token, end = (text or "" for text in found)
    try:
        ends_s = datetime.fromisoformat(end).timestamp()
    except ValueError:
        ends_s = None
    return AwsKeys(key, secret, token, ends_s)


def _element(text: str, name: str) -> str | None:
    """Return the text of an element without children. STS writes these without attributes and prefixes."""
    # Without an XML parser, which expands entities: the reply may come from a proxy.
    found = re.search(rf"<{name}>\s*([^<]+?)\s*</{name}>", text)
    return found[1] if found else None


def bedrock_key(keys: AwsKeys, region: str, lifetime_s: float) -> str:
    """Return a short-term key for `lifetime_s`: a presigned request, as aws-bedrock-token-generator 1.1.0 makes it."""
    request = AWSRequest("POST", f"https://{HOST}/", {"host": HOST}, params={"Action": "CallWithBearerToken"})
    credentials = Credentials(keys.access_key_id, keys.secret_access_key, keys.session_token)
    SigV4QueryAuth(credentials, "bedrock", region, expires=int(lifetime_s)).add_auth(request)
    # AWS's library appends this parameter after the signature.
    url = str(request.url).removeprefix("https://") + "&Version=1"
    return PREFIX + b64encode(url.encode()).decode()


class AwsBedrockSource:
    """Signs a key for each fetch with the current AWS keys. Without a role it sends no request."""

    def __init__(self, name: str, settings: AwsBedrockCredential, connect: Connect, clock: Clock) -> None:
        quiet_loggers("botocore", "urllib3")
        self._settings = settings
        self._endpoints = VendorEndpoints(name, settings, connect, clock)

    def secrets(self) -> tuple[Secret, ...]:
        """Return the secret parts of the AWS keys. A key's id is not a secret."""
        settings = self._settings
        if settings.web_identity_token_file is not None:
            return (in_file(settings.web_identity_token_file),)
        return tuple(filter(None, (settings.secret_access_key, settings.session_token)))

    async def fetch(self) -> Token:
        vendor_fetch = VendorFetch(self._endpoints, LIBRARY, self.secrets())
        keys = await vendor_fetch.run(self._keys(vendor_fetch))
        clock, lifetime_s = self._endpoints.clock, self._settings.key_ttl_s
        requested_s, left_s = clock.now(), lifetime_s if keys.ends_s is None else keys.ends_s - clock.wall()
        if left_s <= 0:
            raise FetchFailure("STS returned an expired session: check this machine's clock")
        text = bedrock_key(keys, self._settings.region, lifetime_s)
        # The key ends with the session that signed it.
        return Token(Secret(text), requested_s, min(lifetime_s, left_s), TokenKind.OPAQUE, LifetimeSource.REPLY)

    async def _keys(self, vendor_fetch: VendorFetch) -> AwsKeys:
        settings, url = self._settings, self._settings.sts
        if settings.web_identity_token_file is None:
            key, secret, token = settings.access_key_id, settings.secret_access_key, settings.session_token
            return AwsKeys(
                revealed(key or Secret(""), "access_key_id"),
                revealed(secret or Secret(""), "secret_access_key"),
                None if token is None else revealed(token, "session_token"),
            )
        proof = revealed(in_file(settings.web_identity_token_file), "web_identity_token_file")
        body = role_form(settings.role_arn or "", settings.key_ttl_s, proof)
        reply = await vendor_fetch.send("POST", url, FORM, body)
        return parse_sts_session(reply, host_of(url))
