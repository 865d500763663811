"""Google Cloud, through google-auth."""

from __future__ import annotations

import asyncio
import os.path
from calendar import timegm
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx2
from google.auth.exceptions import GoogleAuthError

from gatepass.call import Secret
from gatepass.config.credential.google import GoogleCredential
from gatepass.config.references import UnresolvedReference, read_file
from gatepass.runtime import Clock
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.issuer import hush
from gatepass.tokens.life import Token
from gatepass.tokens.reply import NotJson, document_of
from gatepass.tokens.vendor.errand import MISHAPS, Errand, Hop
from gatepass.tokens.vendor.google_account import Accounts
from gatepass.tokens.vendor.google_request import GoogleRequest

LIBRARY = "google-auth"
METADATA_HOST = "metadata.google.internal"
TOKEN_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"  # noqa: S105 - a path
FLAVOR = {"metadata-flavor": "Google"}
GCLOUD_FILE = "application_default_credentials.json"
_NOWHERE = (
    "asked because there is no credentials_file, no GOOGLE_APPLICATION_CREDENTIALS, and no file of "
    "`gcloud auth application-default login`"
)
_SECRET_MEMBERS = frozenset(("private_key", "client_secret", "refresh_token"))


class GoogleSource:
    """Each fetch reads the credentials anew and makes an object of its own: none caches a token.

    Where the credentials are looked for without `credentials_file` is Google's own order (application
    default credentials) in `environment`. `google.auth.default` is not asked: it makes requests of its own, past ours
    (google-auth 2.62, `_get_explicit_environ_credentials` hands on no `request`), and runs gcloud.
    """

    def __init__(
        self,
        name: str,
        settings: GoogleCredential,
        client: httpx2.AsyncClient,
        clock: Clock,
        environment: Mapping[str, str],
    ) -> None:
        hush("google")
        self._settings = settings
        self._environment = environment
        self._accounts = Accounts()
        self._hop = Hop(name, settings, client, clock, frozenset({METADATA_HOST}))

    def __repr__(self) -> str:
        return f"GoogleSource({self._hop.name})"

    def secrets(self) -> tuple[Secret, ...]:
        path = self._path()
        if path is None:
            return ()
        try:
            return tuple(Secret(text, changes=True) for text in _secret_members(_document(path)))
        except FetchFailure:
            return ()

    async def fetch(self) -> Token:
        errand = Errand(self._hop, LIBRARY, self.secrets())
        path = self._path()
        return await errand.run(self._from_metadata(errand) if path is None else self._from_file(path, errand))

    async def _from_file(self, path: str, errand: Errand) -> Token:
        request = GoogleRequest(errand)
        try:
            text, expires_s = await asyncio.to_thread(self._refreshed, path, request)
        except (GoogleAuthError, *MISHAPS) as error:
            raise errand.failed(str(error)) from error
        finally:
            request.close()
        return errand.made(text, expires_s)

    def _refreshed(self, path: str, request: GoogleRequest) -> tuple[object, float | None]:
        """A new token and its end in seconds since the epoch. Runs in a thread of its own."""
        found = self._accounts.of(_document(path), self._settings.scope.split(), path)
        found.refresh(request)
        return found.token, timegm(found.expiry.utctimetuple()) if found.expiry else None

    async def _from_metadata(self, errand: Errand) -> Token:
        """google-auth's own way there wants the `requests` library, and asks thrice and again before it."""
        host = self._environment.get("GCE_METADATA_HOST") or METADATA_HOST
        scopes = quote(",".join(self._settings.scope.split()), safe="")
        try:
            await errand.ask("GET", f"http://{host}{TOKEN_PATH}?scopes={scopes}", FLAVOR)
            return errand.answered()
        except FetchFailure as failure:
            raise failure.masked(lambda reason: f"{reason} ({_NOWHERE})") from failure

    def _path(self) -> str | None:
        """The credentials file, or None where the machine's own identity is left."""
        if told := self._settings.credentials_file or self._environment.get("GOOGLE_APPLICATION_CREDENTIALS"):
            return told
        home = self._environment.get("HOME", "/")
        usual = os.path.join(self._environment.get("CLOUDSDK_CONFIG") or f"{home}/.config/gcloud", GCLOUD_FILE)
        return usual if os.path.isfile(usual) else None  # what may not be looked at is not there


def _document(path: str) -> dict[str, Any]:
    try:
        document = document_of(read_file(path))
    except UnresolvedReference as error:
        raise FetchFailure(f"credentials_file: {error}", quick=False) from None
    except NotJson:
        raise FetchFailure(f"the file {path} is not JSON", quick=False) from None
    if not isinstance(document, dict):
        raise FetchFailure(f"the file {path} holds no JSON object", quick=False)
    return document


def _secret_members(document: Mapping[str, Any]) -> Iterator[str]:
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _secret_members(value)
        elif name in _SECRET_MEMBERS and isinstance(value, str):
            yield value
