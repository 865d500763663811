"""The refresh token of one credential: each use may end it and give a new one, which is kept before anything else."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gatepass.clock import Clock
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.recipe import account_of, recipe_of
from gatepass.tokens.reply import NotJson, Reply, document_of
from gatepass.tokens.secrets import revealed
from gatepass.tokens.sources.grant import DEAD_GRANT, Fields, code_of, sign_in_anew
from gatepass.tokens.sources.refresh_token import Keepsake
from gatepass.tokens.token_endpoint import Heard
from gatepass.tokens.token_reply import ENVELOPES

T = TypeVar("T")

NAMES = ("refresh_token", "refreshToken")
LAST_WORDS_S = 2.0
"""How long a cancelled use may still take: its reply holds the only refresh token that lives from then on."""
UNTIL_A_RESTART = "it ends with this gatepass: set refresh_token_file, or a restart begins with the first one again"
ANOTHERS = "what was kept is the refresh token of another client or issuer, and there is none to begin with"
logger = logging.getLogger("gatepass.tokens")

Exchange = Callable[[Fields], Awaitable[Heard]]
"""Sends the form of a grant to the token endpoint, with the proof of the client and the wishes."""


def refresh_token_in(reply: Reply) -> str | None:
    """The refresh token that a good reply gives, None where it gives none."""
    try:
        document = document_of(reply.text) if 200 <= reply.status < 300 else None
    except NotJson:
        return None
    root = document if isinstance(document, dict) else {}
    boxes = [root, *(box for name in ENVELOPES if isinstance(box := root.get(name), dict))]
    found = (box[name] for box in boxes for name in NAMES if isinstance(box.get(name), str) and box[name])
    return next(found, None)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a Keepsake holds: a token, and whose it is. `recipe` None is a bare token that a person put there.

    `account` is the recipe without the token that the chain began with.
    """

    token: str = field(repr=False)
    recipe: str | None = None
    account: str | None = None

    def written(self) -> str:
        return json.dumps({"refresh_token": self.token, "recipe": self.recipe, "account": self.account})


def kept_in(text: str | None) -> Kept | None:
    """What `text` says; None where it says nothing."""
    if text is None or not (text := text.strip()):
        return None
    if not text.startswith("{"):
        return Kept(text)
    try:
        document = document_of(text)
    except NotJson:
        raise FetchFailure("refresh_token_file holds neither a refresh token nor JSON", quick=False) from None
    token, marks = document.get("refresh_token"), (document.get("recipe"), document.get("account"))
    whose = (mark if isinstance(mark, str) else None for mark in marks)
    return Kept(token, *whose) if isinstance(token, str) and token else None


class Rotation:
    """Uses the newest refresh token there is. `is_last` says that nothing else signs in where it is dead."""

    def __init__(self, name: str, settings: Oauth2Credential, keepsake: Keepsake, clock: Clock) -> None:
        self._name = name
        self._settings = settings
        self._keepsake = keepsake
        self._clock = clock
        self._unkept: Kept | None = None
        self._dead: str | None = None
        self._is_told = False
        self.is_last = settings.grant_type == "refresh_token"

    async def renewed(self, exchange: Exchange, by_s: float) -> Heard | None:
        """The reply to a use of the refresh token; None where there is none that is worth a try.

        A refused one is tried once more where another process has put a newer one in its place meanwhile.
        The reply may still refuse where `is_last`: then its words are what people need. Else where nobody can
        say which token is the newest, none is used.
        """
        async with AsyncExitStack() as turn:
            try:
                await turn.enter_async_context(self._keepsake.turn(by_s - self._clock.now()))
                token = await self._newest()
            except FetchFailure as failure:
                if self.is_last or self._clock.now() >= by_s:
                    raise
                self._warn("refresh_token_not_read", failure.reason)
                return None
            return None if token is None else await self._tried(token, exchange)

    async def _tried(self, token: str, exchange: Exchange) -> Heard | None:
        heard = None
        while token != self._dead:
            heard = await to_its_end(self._use(token, exchange), self._clock)
            if code_of(heard.reply) not in DEAD_GRANT:
                self._dead = None
                return heard
            self._dead, token = token, await self._newest() or token
        if not self.is_last:
            return None
        self._dead = None
        return heard

    async def heed(self, heard: Heard) -> None:
        """Keep the refresh token that the reply to another grant gives."""
        if (token := refresh_token_in(heard.reply)) is not None:
            await to_its_end(self._keep(token), self._clock)

    async def _newest(self) -> str | None:
        own = recipe_of(self._settings)
        if self._unkept is not None and self._unkept.recipe == own:
            return self._unkept.token
        kept = kept_in(await self._keepsake.get())
        first = self._settings.refresh_token
        # the chain goes on where its first token has left the configuration
        goes_on = self.is_last and first is None
        if kept is not None and (
            kept.recipe in (own, None) or (goes_on and kept.account == account_of(self._settings))
        ):
            self._is_told = True
            return kept.token
        if first is None and kept is not None and self.is_last:
            raise FetchFailure(f"{ANOTHERS}: {sign_in_anew(self._settings)}", definite=True)
        return None if first is None else revealed(first, "refresh_token")

    async def _use(self, token: str, exchange: Exchange) -> Heard:
        heard = await exchange({"grant_type": "refresh_token", "refresh_token": token})
        newest = refresh_token_in(heard.reply) or token
        if newest != token or self._unkept is not None:
            await self._keep(newest)
        return heard

    async def _keep(self, token: str) -> None:
        """Where it cannot be kept it is still used: to drop the only token that lives would help nobody."""
        kept = Kept(token, recipe_of(self._settings), account_of(self._settings))
        self._unkept = kept
        try:
            await self._keepsake.put(kept.written())
        except FetchFailure as failure:
            self._warn("refresh_token_not_kept", failure.reason)
            return
        self._unkept = None
        if self.is_last and not self._keepsake.lasts and not self._is_told:
            self._is_told = True
            self._warn("refresh_token_not_kept", UNTIL_A_RESTART)

    def _warn(self, event: str, reason: str) -> None:
        logger.warning(event, extra={"fields": {"credential": self._name, "reason": reason}})


async def to_its_end(work: Coroutine[Any, Any, T], clock: Clock) -> T:
    """Await `work`, which a cancellation ends only after LAST_WORDS_S."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        timer = clock.call_later(LAST_WORDS_S, task.cancel)
        try:
            await asyncio.wait({task})
        finally:
            timer.cancel()
            task.cancel()
        raise
