"""An issuer as strict as they come, to be played by Scripted: each refresh token is good once, and a second use of
one ends all of its family (RFC 9700 4.14.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from tests.integration.scripted import Dialogue, Received, Send, reply

Check = Callable[[Received, dict[str, str]], bool]


def form_of(request: Received) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(request.body.decode()).items()}


class StrictIssuer:
    """`check` authenticates clients. `first` is the refresh token that a person got; access tokens live `lifetime_s`.

    `reused` is the number of second uses of a refresh token; `minted` holds the access tokens in order.
    """

    def __init__(self, check: Check = lambda *_: True, *, first: str | None = None, life_s: float = 300) -> None:
        self._check = check
        self._live = first
        self._used: set[str] = set()
        self._life_s = life_s
        self._documents: dict[str, Any] = {}
        self.reused = 0
        self.minted: list[str] = []
        self.shown: list[str] = []

    def publish(self, path: str, document: dict[str, Any]) -> None:
        """Answer GET `path` with `document`."""
        self._documents[path] = document

    def __call__(self, request: Received) -> Dialogue:
        if request.method == "GET":
            found = self._documents.get(request.target)
            return [Send(reply(found) if found is not None else reply({"error": "not_found"}, 404))]
        form = form_of(request)
        if not self._check(request, form):
            return _no("invalid_client", 401)
        self.shown.append(form.get("refresh_token", form["grant_type"]))
        if form["grant_type"] == "refresh_token":
            return self._refreshed(form["refresh_token"])
        return self._minted()

    def _refreshed(self, token: str) -> Dialogue:
        if token != self._live:
            self.reused += token in self._used
            self._live = None
            return _no("invalid_grant", 400)
        self._used.add(token)
        return self._minted()

    def _minted(self) -> Dialogue:
        number = len(self.minted) + 1
        self.minted.append(f"access-token-{number}")
        self._live = f"refresh-token-{number}"
        reported = {"access_token": self.minted[-1], "token_type": "Bearer", "expires_in": self._life_s}
        return [Send(reply({**reported, "refresh_token": self._live}))]


def _no(error: str, status: int) -> Dialogue:
    return [Send(reply({"error": error, "error_description": "refused"}, status))]
