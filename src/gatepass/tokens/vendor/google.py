"""Fetch tokens of Google Cloud through google-auth."""

from __future__ import annotations

import asyncio
import os.path
from calendar import timegm
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from google.auth import identity_pool, impersonated_credentials
from google.auth.credentials import Credentials
from google.auth.exceptions import GoogleAuthError
from google.auth.transport import Request, Response
from google.oauth2 import credentials, service_account

from gatepass.clock import Clock
from gatepass.config.credential.vendor import GoogleCredential
from gatepass.config.references import UnresolvedReference, read_file
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.issuer_error import NotJson, TokenResponse, parse_json_text
from gatepass.tokens.lifetime import Token
from gatepass.tokens.token_endpoint import Connect, quiet_loggers
from gatepass.tokens.vendor.fetch import LIBRARY_ERRORS, VendorEndpoints, VendorFetch
from gatepass.types import Secret

BOUND_S = 5.0
"""Added to the limit of the fetch. A thread waits no longer, even if the event loop is blocked."""
CANCELLED = "the fetch was cancelled"
_PAST_THE_NETWORK = {
    "certificate": "a client certificate: put that into network.client_cert, behind a source of type oauth2",
    "environment_id": "AWS keys of the machine",
    "executable": "a program: run it with a source of type exec",
}
"""Sources of federated credentials for which google-auth would bypass gatepass's HTTP client, or run a program."""
LIBRARY = "google-auth"
METADATA_HOST = "metadata.google.internal"
TOKEN_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"  # noqa: S105 - a path
METADATA_HEADERS = {"metadata-flavor": "Google"}
GCLOUD_FILE = "application_default_credentials.json"
_NO_CREDENTIALS = (
    "used because there is no credentials_file, no GOOGLE_APPLICATION_CREDENTIALS, and no file of "
    "`gcloud auth application-default login`"
)
_SECRET_MEMBERS = frozenset(("private_key", "client_secret", "refresh_token"))


class GoogleRequest(Request):
    """The transport that google-auth calls in a thread. It is created in the event loop that sends its requests.

    Raises FetchFailure for every status other than 2xx. google-auth would sleep and retry, but retries belong to the
    holder, and such a status fails the fetch in any case.
    """

    def __init__(self, vendor_fetch: VendorFetch) -> None:
        self._fetch = vendor_fetch
        self._loop = asyncio.get_running_loop()
        self._current: asyncio.Task[Any] | None = None
        self._is_closed = False

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ARG002 - google-auth's own limit; VendorFetch has one
        **_: Any,
    ) -> Response:
        future = asyncio.run_coroutine_threadsafe(self._send(method, url, headers or {}, body or b""), self._loop)
        return _Response(future.result(self._fetch.endpoints.settings.timeout_s + BOUND_S))

    def close(self) -> None:
        """Cancel the current request and reject further ones. Only in the event loop's thread."""
        self._is_closed = True
        if self._current is not None:
            self._current.cancel()

    async def _send(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> TokenResponse:
        if self._is_closed:
            raise FetchFailure(CANCELLED)
        self._current = asyncio.current_task()
        try:
            reply = await self._fetch.send(method, url, headers, body)
            if not reply.is_success:
                self._fetch.token_from_response()
            return reply
        finally:
            self._current = None


class _Response(Response):
    def __init__(self, reply: TokenResponse) -> None:
        self._reply = reply

    @property
    def status(self) -> int:
        return self._reply.status

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self._reply.headers}

    @property
    def data(self) -> bytes:
        return self._reply.body


class GoogleSource:
    """Reads the credentials for each fetch and creates a new object, so that no token is cached.

    Without `credentials_file` the credentials are searched in Google's own order (application default credentials) in
    `environment`. `google.auth.default` is not used. It sends requests that bypass gatepass's HTTP client
    (google-auth 2.62, `_get_explicit_environ_credentials` passes on no `request`), and it runs gcloud.
    """

    def __init__(
        self, name: str, settings: GoogleCredential, connect: Connect, clock: Clock, environment: Mapping[str, str]
    ) -> None:
        quiet_loggers("google")
        self._settings = settings
        self._environment = environment
        self._service_account: tuple[Mapping[str, Any], service_account.Credentials] | None = None
        self._endpoints = VendorEndpoints(name, settings, connect, clock, frozenset({METADATA_HOST}))

    def secrets(self) -> tuple[Secret, ...]:
        path = self._path()
        if path is None:
            return ()
        try:
            return tuple(Secret(text, changes=True) for text in _secret_members(_document(path)))
        except FetchFailure:
            return ()

    async def fetch(self) -> Token:
        vendor_fetch = VendorFetch(self._endpoints, LIBRARY, self.secrets())
        path = self._path()
        return await vendor_fetch.run(
            self._from_metadata(vendor_fetch) if path is None else self._from_file(path, vendor_fetch)
        )

    async def _from_file(self, path: str, vendor_fetch: VendorFetch) -> Token:
        request = GoogleRequest(vendor_fetch)
        try:
            # google-auth refreshes synchronously, so it runs in a thread.
            found = await asyncio.to_thread(self._refreshed, path, request)
        except (GoogleAuthError, *LIBRARY_ERRORS) as error:
            raise vendor_fetch.failure_for(str(error)) from error
        finally:
            # The thread cannot be cancelled. Its next request fails instead.
            request.close()
        # `expiry` has no time zone and means UTC.
        expires_s = timegm(found.expiry.utctimetuple()) if found.expiry else None
        return vendor_fetch.token_from_text(found.token, expires_s)

    def _refreshed(self, path: str, request: GoogleRequest) -> Credentials:
        found = self.credentials_of(_document(path), path)
        found.refresh(request)  # blocks: it waits for requests in the event loop
        return found

    def credentials_of(self, info: Mapping[str, Any], path: str) -> Credentials:
        """Return the credentials object of `info`, the document in `path`.

        A user's credentials keep their granted scopes. Raises FetchFailure for an unsupported type, and google-auth's
        errors for an invalid document.
        """
        found: Credentials
        scopes = self._settings.scope.split()
        match info.get("type"):
            case "service_account":
                known = self._service_account  # another thread may replace it at any moment
                if known is None or known[0] != info:  # parsing a key blocks all threads for 30 ms
                    known = self._service_account = (info, service_account.Credentials.from_service_account_info(info))
                found = known[1].with_scopes(scopes)
            case "authorized_user":
                found = credentials.Credentials.from_authorized_user_info(info)
            case "impersonated_service_account":
                found = impersonated_credentials.Credentials.from_impersonated_service_account_info(info, scopes=scopes)
            case "external_account":
                source = info.get("credential_source")
                for member in source if isinstance(source, Mapping) else ():
                    if (kind := _PAST_THE_NETWORK.get(member)) is not None:
                        supported = "gatepass supports a credential_source with file or url"
                        raise FetchFailure(f"{path} takes its proof from {kind}; {supported}")
                found = identity_pool.Credentials.from_info(info, scopes=scopes)
            case _:
                raise FetchFailure(
                    f"{path} contains no credentials of a supported type: service_account, authorized_user, "
                    "impersonated_service_account or external_account",
                )
        return found

    async def _from_metadata(self, vendor_fetch: VendorFetch) -> Token:
        """Return a token of the metadata server. google-auth would require `requests` and send repeated requests."""
        host = self._environment.get("GCE_METADATA_HOST") or METADATA_HOST
        scopes = quote(",".join(self._settings.scope.split()), safe="")
        try:
            await vendor_fetch.send("GET", f"http://{host}{TOKEN_PATH}?scopes={scopes}", METADATA_HEADERS)
            return vendor_fetch.token_from_response()
        except FetchFailure as failure:
            raise failure.with_reason(f"{failure.reason} ({_NO_CREDENTIALS})") from failure

    def _path(self) -> str | None:
        """Return the credentials file; None to use the machine's own identity."""
        if configured := self._settings.credentials_file or self._environment.get("GOOGLE_APPLICATION_CREDENTIALS"):
            return configured
        home = self._environment.get("HOME", "/")
        usual = os.path.join(self._environment.get("CLOUDSDK_CONFIG") or f"{home}/.config/gcloud", GCLOUD_FILE)
        return usual if os.path.isfile(usual) else None  # a file without access rights is treated as absent


def _document(path: str) -> dict[str, Any]:
    try:
        document = parse_json_text(read_file(path))
    except UnresolvedReference as error:
        raise FetchFailure(f"credentials_file: {error}") from None
    except NotJson:
        raise FetchFailure(f"the file {path} is not JSON") from None
    if not isinstance(document, dict):
        raise FetchFailure(f"the file {path} contains no JSON object")
    return document


def _secret_members(document: Mapping[str, Any]) -> Iterator[str]:
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _secret_members(value)
        elif name in _SECRET_MEMBERS and isinstance(value, str):
            yield value
