"""Callers by tokens: each token is verified once, in turn, and its verdict remembered until the token ends."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from gatepass.auth.caller import Caller
from gatepass.auth.jwt_verdict import KeySet, Token, caller_of, check_claims, entry_of, unknown, verify
from gatepass.auth.key_sets import KeySetHolder
from gatepass.clock import Clock, sleep
from gatepass.config.access import JwtIssuer
from gatepass.errors import InvalidToken, Overloaded

SIGNATURES_PER_S = 200
"""How many signatures are checked in a second: each takes 0.1 ms of the loop, and any client can send a wrong one."""
LONGEST_TURN_S = 2.0
REMEMBERED_BYTES = 4 * 1024 * 1024
"""The tokens that are remembered, together. A token of 2 KB with its verdict is 3 KB."""
_VERDICT_BYTES = 1024


class JwtCallers:
    """The callers that the tokens of `access.jwt` name. `holders` has the key set of each entry."""

    def __init__(self, entries: Sequence[JwtIssuer], holders: Sequence[KeySetHolder], clock: Clock) -> None:
        self.entries, self.holders = entries, holders
        self._clock = clock
        self._seen: OrderedDict[str, tuple[Caller | None, float, int, KeySet]] = OrderedDict()
        """By the text of the token: its caller (None: no row), its end, its entry, and the keys that verified it."""
        self._seen_bytes = 0
        self._free_s = 0.0
        """When the next signature may be checked."""

    def remembered(self, text: str, wall_s: float) -> Caller | None:
        """Return the caller of a token that was verified before, by keys that still are those of its issuer."""
        if (found := self._seen.get(text)) is None:
            return None
        caller, ends_s, at, keys = found
        if wall_s >= ends_s or self.holders[at].keys is not keys:
            self._forget(text)
            return None
        self._seen.move_to_end(text)
        return caller

    def read(self, text: str) -> Token | None:
        """Return the token `text` of a configured issuer, also an expired one. None for any other text."""
        token = Token.read(text)
        return token if token is not None and entry_of(token, self.entries) is not None else None

    def refusal(self, presented: Sequence[str]) -> InvalidToken:
        """Return the error for texts of which none is a key or a token that `verdict` accepts."""
        return unknown(presented, self.entries)

    async def verdict(self, token: Token) -> Caller:
        """Return the caller of a token of a configured issuer, and remember it.

        Raises InvalidToken, NotAllowed, KeySetUnavailable, and Overloaded if its turn is too late.
        """
        at = entry_of(token, self.entries) or 0
        entry, holder = self.entries[at], self.holders[at]
        check_claims(token, entry, self._clock.wall())
        keys = await self._keys_in_turn(token, entry, holder)
        # by another request of its sender
        if (since := self.remembered(token.text, self._clock.wall())) is not None:
            return since
        if token.text not in self._seen:
            try:
                verify(token, keys, holder.age_text())
            except InvalidToken as error:
                # Some issuers replace a key under its old `kid`. A forged signature so costs a fetch as well, at most
                # one in AGAIN_S like an invented `kid`; tokens that are remembered or whose key is right do not wait.
                newer = await holder.fetched() if error.case == "jwt_signature" else keys
                if newer is keys or newer is None:
                    raise
                keys = await self._keys_in_turn(token, entry, holder)
                verify(token, keys, holder.age_text())
            self._remember(token, None, at, keys)
        caller = caller_of(token, entry)
        self._remember(token, caller, at, keys)
        return caller

    async def _keys_in_turn(self, token: Token, entry: JwtIssuer, holder: KeySetHolder) -> KeySet:
        """Return the keys for `token`, when its signature may be checked: at once if that has been done."""
        keys = await holder.keys_for(token)
        if token.text not in self._seen and keys.find(token.kid, str(token.header["alg"])) is not None:
            await self._turn()
            keys = await holder.keys_for(token)  # they may have changed since
            check_claims(token, entry, self._clock.wall())  # and the token may have ended
        return keys

    async def _turn(self) -> None:
        """Wait until a signature may be checked."""
        now_s = self._clock.now()
        begin_s = max(now_s, self._free_s)
        if (wait_s := begin_s - now_s) > LONGEST_TURN_S:
            raise Overloaded("Too many new tokens arrive to check their signatures.", retry_after_s=wait_s)
        self._free_s = begin_s + 1 / SIGNATURES_PER_S
        if wait_s:
            await sleep(self._clock, wait_s)

    def _remember(self, token: Token, caller: Caller | None, at: int, keys: KeySet) -> None:
        if token.text in self._seen:
            self._forget(token.text)
        self._seen[token.text] = caller, token.ends_s, at, keys
        self._seen_bytes += len(token.text) + _VERDICT_BYTES
        while self._seen_bytes > REMEMBERED_BYTES:
            self._forget(next(iter(self._seen)))

    def _forget(self, text: str) -> None:
        del self._seen[text]
        self._seen_bytes -= len(text) + _VERDICT_BYTES
