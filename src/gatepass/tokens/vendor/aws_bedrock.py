"""Short-term keys for Amazon Bedrock, signed here with AWS keys.

botocore signs. Of the two libraries that could, it is the smaller set: aws-bedrock-token-generator is sixty
lines on top of it, and would look for AWS keys at addresses that it asks past our transport.
"""

from __future__ import annotations

import os

import httpx2

from gatepass.call import Secret
from gatepass.config.credential.aws_bedrock import AwsBedrockCredential
from gatepass.config.references import UnresolvedReference, read_file
from gatepass.runtime import Clock
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.issuer import host_of, hush
from gatepass.tokens.life import Kind, Token, ToldBy
from gatepass.tokens.secret import revealed
from gatepass.tokens.vendor.aws_profile import profile_keys
from gatepass.tokens.vendor.aws_signing import bedrock_key, signed_headers
from gatepass.tokens.vendor.errand import Errand, Hop
from gatepass.tokens.vendor.sts import Keys, role_form, session

LIBRARY = "botocore"
FORM = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}


class AwsBedrockSource:
    """Signs anew for each fetch, with keys as they stand then. Without a role nothing is asked anywhere."""

    def __init__(self, name: str, settings: AwsBedrockCredential, client: httpx2.AsyncClient, clock: Clock) -> None:
        hush("botocore", "urllib3")
        self._settings = settings
        self._hop = Hop(name, settings, client, clock)
        self._path = os.path.expanduser(settings.profiles_file or "")  # which a process without a home survives

    def __repr__(self) -> str:
        return f"AwsBedrockSource({self._hop.name})"

    def secrets(self) -> tuple[Secret, ...]:
        """The secret halves of what signs; a key's id is no secret."""
        settings = self._settings
        if settings.profile is not None:
            return (
                Secret(lambda: self._profile().secret_access_key),
                Secret(lambda: self._profile().session_token or ""),
            )
        if settings.web_identity_token_file is not None:
            return (_text(settings.web_identity_token_file),)
        return tuple(filter(None, (settings.secret_access_key, settings.session_token)))

    async def fetch(self) -> Token:
        errand = Errand(self._hop, LIBRARY, self.secrets())
        keys = await errand.run(self._keys(errand))
        return self._key(keys)

    def _key(self, keys: Keys) -> Token:
        clock, life_s = self._hop.clock, self._settings.key_life_s
        born_s, left_s = clock.now(), life_s if keys.ends_s is None else keys.ends_s - clock.wall()
        if left_s <= 0:
            raise FetchFailure("STS gave a session that has ended already: is this machine's clock right?", quick=False)
        text = bedrock_key(keys, self._settings.region, life_s)
        return Token(Secret(text), born_s, min(life_s, left_s), Kind.OPAQUE, ToldBy.REPLY)

    async def _keys(self, errand: Errand) -> Keys:
        settings = self._settings
        if settings.web_identity_token_file is not None:
            proof = revealed(_text(settings.web_identity_token_file), "web_identity_token_file")
            return await self._session(errand, None, {"WebIdentityToken": proof})
        keys = self._own() if settings.profile is None else self._profile_now()
        if settings.role_arn is None:
            return keys
        return await self._session(errand, keys, {"ExternalId": settings.external_id} if settings.external_id else {})

    async def _session(self, errand: Errand, keys: Keys | None, more: dict[str, str]) -> Keys:
        settings, url = self._settings, self._settings.sts
        body = role_form(settings.role_arn or "", settings.role_session_name, settings.key_life_s, more)
        headers = FORM if keys is None else signed_headers(keys, settings.region, url, body, FORM)
        return session(await errand.ask("POST", url, headers, body), host_of(url), errand.mask)

    def _own(self) -> Keys:
        settings = self._settings
        key, secret, token = settings.access_key_id, settings.secret_access_key, settings.session_token
        return Keys(
            revealed(key or Secret(""), "access_key_id"),
            revealed(secret or Secret(""), "secret_access_key"),
            None if token is None else revealed(token, "session_token"),
        )

    def _profile(self) -> Keys:
        """Raises ValueError."""
        return profile_keys(read_file(self._path), self._settings.profile or "")

    def _profile_now(self) -> Keys:
        try:
            return self._profile()
        except UnresolvedReference as error:
            raise FetchFailure(f"profiles_file: {error}", quick=False) from None
        except ValueError as error:
            raise FetchFailure(f"profiles_file: {self._path} {error}", quick=False) from None


def _text(path: str) -> Secret:
    return Secret(lambda: read_file(path).strip())
