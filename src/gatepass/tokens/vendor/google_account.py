"""A credentials file of Google's, as the object of google-auth that mints from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from google.auth import identity_pool, impersonated_credentials
from google.auth.transport import Request
from google.oauth2 import credentials, service_account

from gatepass.tokens.failure import FetchFailure

_PAST_THE_NETWORK = {
    "certificate": "a client certificate: put that into network.client_cert, behind a source of type oauth2",
    "environment_id": "AWS keys of the machine",
    "executable": "a program: run it with a source of type exec",
}
"""Sources of federated credentials that google-auth would ask beside our transport, or run."""


class Account(Protocol):
    """What google-auth's credentials have in common; `expiry` is naive and means UTC."""

    token: Any
    expiry: Any

    def refresh(self, request: Request) -> None: ...


class Accounts:
    """Credentials objects, each for one fetch.

    A service account's key is parsed when its document has changed: that takes 30 ms in which no other
    thread runs.
    """

    def __init__(self) -> None:
        self._known: tuple[Mapping[str, Any], service_account.Credentials] | None = None

    def of(self, info: Mapping[str, Any], scopes: Sequence[str], path: str) -> Account:
        """As `account`."""
        if info.get("type") != "service_account":
            return account(info, scopes, path)
        known = self._known  # another thread may have a newer one in its place in the next moment
        if known is None or known[0] != info:
            known = self._known = (info, service_account.Credentials.from_service_account_info(info))
        found: Account = known[1].with_scopes(scopes)
        return found


def account(info: Mapping[str, Any], scopes: Sequence[str], path: str) -> Account:
    """The credentials object of `info`, the document in `path`, which is no service account's.

    A user's credentials keep the scopes that they were granted. Raises FetchFailure for a kind that
    is not taken, and what google-auth raises for a document with faults.
    """
    found: Account
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
