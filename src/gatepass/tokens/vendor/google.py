"""Google Cloud, through google-auth."""

from __future__ import annotations

import asyncio
import os.path
from calendar import timegm
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote

import httpx2
from google.auth import identity_pool, impersonated_credentials
from google.auth.exceptions import GoogleAuthError
from google.auth.transport import Request, Response
from google.oauth2 import credentials, service_account

from gatepass.clock import Clock
from gatepass.config.credential.vendor import GoogleCredential
from gatepass.config.references import UnresolvedReference, read_file
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.issuer_error import NotJson, TokenResponse, parse_json_object
from gatepass.tokens.lifetime import Token
from gatepass.tokens.token_endpoint import quiet_loggers
from gatepass.tokens.vendor.fetch import LIBRARY_ERRORS, VendorEndpoints, VendorFetch
from gatepass.types import Secret

BOUND_S = 5.0
"""Beyond the fetch's own limit: a thread waits no longer, even for a loop that stands still."""
CANCELLED = "nobody waits for this token any more"


class GoogleRequest(Request):
    """What google-auth calls, in a thread, for each of its requests. Made in the loop that answers them.

    Raises FetchFailure for every status beyond 2xx: google-auth would sleep and ask again, where retries
    are the holder's, and any that is no success fails its fetch in the end.
    """

    def __init__(self, vendor_fetch: VendorFetch) -> None:
        self._fetch = vendor_fetch
        self._loop = asyncio.get_running_loop()
        self._under_way: asyncio.Task[Any] | None = None
        self._is_closed = False

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ARG002 - google-auth's name for a limit that the errand has already
        **_: Any,
    ) -> Response:
        asked = asyncio.run_coroutine_threadsafe(self._ask(method, url, headers or {}, body or b""), self._loop)
        return _Response(asked.result(self._fetch.endpoints.settings.timeout_s + BOUND_S))

    def close(self) -> None:
        """End the request that is under way, and let no other begin. In the loop's thread only."""
        self._is_closed = True
        if self._under_way is not None:
            self._under_way.cancel()

    async def _ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> TokenResponse:
        if self._is_closed:
            raise FetchFailure(CANCELLED)
        self._under_way = asyncio.current_task()
        try:
            reply = await self._fetch.send(method, url, headers, body)
            if not 200 <= reply.status < 300:
                self._fetch.token_from_response()
            return reply
        finally:
            self._under_way = None


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


_PAST_THE_NETWORK = {
    "certificate": "a client certificate: put that into network.client_cert, behind a source of type oauth2",
    "environment_id": "AWS keys of the machine",
    "executable": "a program: run it with a source of type exec",
}
"""Sources of federated credentials that google-auth would ask beside our transport, or run."""


class GoogleCredentials(Protocol):
    """What google-auth's credentials have in common; `expiry` is naive and means UTC."""

    token: Any
    expiry: Any

    def refresh(self, request: Request) -> None: ...


class GoogleCredentialsFactory:
    """Credentials objects, each for one fetch.

    A service account's key is parsed when its document has changed: that takes 30 ms in which no other
    thread runs.
    """

    def __init__(self) -> None:
        self._known: tuple[Mapping[str, Any], service_account.Credentials] | None = None

    def of(self, info: Mapping[str, Any], scopes: Sequence[str], path: str) -> GoogleCredentials:
        """As `account`."""
        if info.get("type") != "service_account":
            return google_credentials(info, scopes, path)
        known = self._known  # another thread may have a newer one in its place in the next moment
        if known is None or known[0] != info:
            known = self._known = (info, service_account.Credentials.from_service_account_info(info))
        found: GoogleCredentials = known[1].with_scopes(scopes)
        return found


def google_credentials(info: Mapping[str, Any], scopes: Sequence[str], path: str) -> GoogleCredentials:
    """The credentials object of `info`, the document in `path`, which is no service account's.

    A user's credentials keep the scopes that they were granted. Raises FetchFailure for a kind that
    is not taken, and what google-auth raises for a document with faults.
    """
    found: GoogleCredentials
    match info.get("type"):
        case "authorized_user":
            found = credentials.Credentials.from_authorized_user_info(info)
        case "impersonated_service_account":
            found = impersonated_credentials.Credentials.from_impersonated_service_account_info(info, scopes=scopes)
        case "external_account":
            _check_source(info, path)
            found = identity_pool.Credentials.from_info(info, scopes=scopes)
        case _:
            raise FetchFailure(
                f"{path} holds no credentials of a type that is taken: service_account, authorized_user, "
                "impersonated_service_account or external_account",
                quick=False,
            )
    return found


def _check_source(info: Mapping[str, Any], path: str) -> None:
    source = info.get("credential_source")
    for member in source if isinstance(source, Mapping) else ():
        if (what := _PAST_THE_NETWORK.get(member)) is not None:
            raise FetchFailure(
                f"{path} takes its proof from {what}; credential_source is taken with file or url", quick=False
            )


LIBRARY = "google-auth"
METADATA_HOST = "metadata.google.internal"
TOKEN_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"  # noqa: S105 - a path
METADATA_HEADERS = {"metadata-flavor": "Google"}
GCLOUD_FILE = "application_default_credentials.json"
_NO_CREDENTIALS = (
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
        quiet_loggers("google")
        self._settings = settings
        self._environment = environment
        self._credentials_factory = GoogleCredentialsFactory()
        self._endpoints = VendorEndpoints(name, settings, client, clock, frozenset({METADATA_HOST}))

    def __repr__(self) -> str:
        return f"GoogleSource({self._endpoints.name})"

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
            text, expires_s = await asyncio.to_thread(self._refreshed, path, request)
        except (GoogleAuthError, *LIBRARY_ERRORS) as error:
            raise vendor_fetch.failure_for(str(error)) from error
        finally:
            request.close()
        return vendor_fetch.token_from_text(text, expires_s)

    def _refreshed(self, path: str, request: GoogleRequest) -> tuple[object, float | None]:
        """A new token and its end in seconds since the epoch. Runs in a thread of its own."""
        found = self._credentials_factory.of(_document(path), self._settings.scope.split(), path)
        found.refresh(request)
        return found.token, timegm(found.expiry.utctimetuple()) if found.expiry else None

    async def _from_metadata(self, vendor_fetch: VendorFetch) -> Token:
        """google-auth's own way there wants the `requests` library, and asks thrice and again before it."""
        host = self._environment.get("GCE_METADATA_HOST") or METADATA_HOST
        scopes = quote(",".join(self._settings.scope.split()), safe="")
        try:
            await vendor_fetch.send("GET", f"http://{host}{TOKEN_PATH}?scopes={scopes}", METADATA_HEADERS)
            return vendor_fetch.token_from_response()
        except FetchFailure as failure:
            raise failure.masked(lambda reason: f"{reason} ({_NO_CREDENTIALS})") from failure

    def _path(self) -> str | None:
        """The credentials file, or None where the machine's own identity is left."""
        if told := self._settings.credentials_file or self._environment.get("GOOGLE_APPLICATION_CREDENTIALS"):
            return told
        home = self._environment.get("HOME", "/")
        usual = os.path.join(self._environment.get("CLOUDSDK_CONFIG") or f"{home}/.config/gcloud", GCLOUD_FILE)
        return usual if os.path.isfile(usual) else None  # what may not be looked at is not there


def _document(path: str) -> dict[str, Any]:
    try:
        document = parse_json_object(read_file(path))
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
