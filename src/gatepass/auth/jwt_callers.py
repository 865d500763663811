"""Callers by tokens: each token is verified once, in turn, and its verdict remembered until the token ends."""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from ipaddress import IPv6Address, ip_address

import msgspec
from msgspec.structs import replace

from gatepass.auth.caller import Caller
from gatepass.auth.jwt_verdict import (
    KeySet,
    Token,
    check_claims,
    entry_of,
    identity_of,
    no_row,
    row_of,
    unknown,
    user_of,
    verify,
)
from gatepass.auth.key_sets import KeySetHolder
from gatepass.clock import Clock, wait_at_most
from gatepass.config.access import JwtIssuer
from gatepass.errors import InvalidToken, Overloaded
from gatepass.fair_queue import FairQueue

SIGNATURES_PER_S = 1_000
"""How many signatures are checked in a second: each takes 0.1 ms of the loop, and any client can send a wrong one."""
AT_ONCE = 50
"""How many of them one turn of the loop may check: a busy process has a turn only every 50 ms."""
LONGEST_TURN_S = 2.0
MOST_WAITING = int(SIGNATURES_PER_S * LONGEST_TURN_S)
REMEMBERED = 20_000
"""The tokens that are remembered, of all callers together."""
REMEMBERED_BYTES = 12 * 1024 * 1024
_VERDICT_BYTES = 500
"""What a verdict takes without its `user`: itself, the hash, the identity, and its places in the dicts."""


class _Verdict(msgspec.Struct, frozen=True, gc=False):
    """What `JwtCallers` remembers of a verified token: no part of its text."""

    identity: str
    user: str
    row: int | None
    """The row that it meets, None for none."""
    ends_s: float
    entry: int
    keys: KeySet
    """Those that verified it."""


class JwtCallers:
    """The callers that the tokens of `access.jwt` name. `holders` has the key set of each entry."""

    def __init__(self, entries: Sequence[JwtIssuer], holders: Sequence[KeySetHolder], clock: Clock) -> None:
        self.entries, self.holders = entries, holders
        self._clock = clock
        self._rows = [[Caller.of_row(row, "", "") for row in entry.callers] for entry in entries]
        self._turns = FairQueue[asyncio.Event](AT_ONCE, MOST_WAITING)
        """The checks of signatures. Each holds its place so long that all places together keep SIGNATURES_PER_S."""
        self._seen: dict[bytes, _Verdict] = {}
        """By the hash of the token: each token has a verdict of its own, also those of one person."""
        self._newest = OrderedDict[str, bytes]()
        """The newest token of each identity, the one used last at the end."""
        self._older = OrderedDict[bytes, None]()
        """All other tokens in the same order. They are forgotten first."""
        self._seen_bytes = 0

    def remembered(self, text: str, wall_s: float) -> Caller | None:
        """Return the caller of a token that was verified before, by keys that still are those of its issuer."""
        found = self._verdict(_digest(text), wall_s)
        if found is None or found.row is None:
            return None
        return replace(self._rows[found.entry][found.row], identity=found.identity, user=found.user)

    def read(self, text: str) -> Token | None:
        """Return the token `text` of a configured issuer, also an expired one. None for any other text."""
        token = Token.read(text)
        return token if token is not None and entry_of(token, self.entries) is not None else None

    def refusal(self, presented: Sequence[str]) -> InvalidToken:
        """Return the error for texts of which none is a key or a token that `verdict` accepts."""
        return unknown(presented, self.entries)

    async def verdict(self, token: Token, peer: str) -> Caller:
        """Return the caller of a token of a configured issuer, and remember it. `peer` is the sender's address.

        Raises InvalidToken, NotAllowed, KeySetUnavailable, and Overloaded if its turn is too late.
        """
        at, digest = entry_of(token, self.entries) or 0, _digest(token.text)
        entry, holder = self.entries[at], self.holders[at]
        check_claims(token, entry, self._clock.wall())
        keys = await holder.keys_for(token)
        try:
            keys = await self._verified(token, digest, at, keys, peer)
        except InvalidToken as error:
            # Some issuers replace a key under its old `kid`. A forged signature so costs a fetch as well, at most
            # one in AGAIN_S like an invented `kid`; tokens that are remembered or whose key is right do not wait.
            newer = await holder.fetched() if error.case == "jwt_signature" else None
            if newer is keys or newer is None:
                raise
            keys = await self._verified(token, digest, at, newer, peer)
        identity, row = identity_of(token, entry), row_of(token, entry)
        user = "" if row is None else user_of(token, entry.callers[row])
        # without a row too, so that its signature is not checked again
        self._remember(digest, _Verdict(identity, user, row, token.ends_s, at, keys))
        if row is None:
            raise no_row(token, entry)
        return Caller.of_row(entry.callers[row], identity, user)

    async def _verified(self, token: Token, digest: bytes, at: int, keys: KeySet, peer: str) -> KeySet:
        """Check the signature of `token` when it is the turn of `peer`, and return the keys that verify it.

        It is not checked again if that has been done. `keys` are the known ones. Raises InvalidToken, Overloaded.
        """
        holder, turn, pause_s = self.holders[at], asyncio.Event(), 0.0
        if self._verdict(digest, self._clock.wall()) is not None:
            return keys
        if keys.find(token.kid, str(token.header["alg"])) is None:  # no signature decides
            verify(token, keys, holder.age_text())
        if (left_out := self._turns.enter(turn, network_of(peer), weight=1)) is not None:
            left_out.set()
        try:
            if turn in self._turns.waiting:
                await wait_at_most(turn, LONGEST_TURN_S, self._clock)
            if turn not in self._turns.holding:
                text = "Too many new tokens arrive to check their signatures."
                raise Overloaded(text, retry_after_s=LONGEST_TURN_S)
            keys = holder.keys or keys  # they may have changed since
            check_claims(token, self.entries[at], self._clock.wall())  # and the token may have ended
            if self._verdict(digest, self._clock.wall()) is None:  # not yet checked for another request of its sender
                pause_s = AT_ONCE / SIGNATURES_PER_S
                verify(token, keys, holder.age_text())
        finally:  # at once if no check was made, also for a client that left
            if pause_s:
                self._clock.call_later(pause_s, partial(self._end_turn, turn))
            else:
                self._end_turn(turn)
        return keys

    def _end_turn(self, turn: asyncio.Event) -> None:
        if (following := self._turns.leave(turn)) is not None:
            following.set()

    def _verdict(self, digest: bytes, wall_s: float) -> _Verdict | None:
        """Return the verdict of a token while it holds, and keep it from being forgotten first."""
        if (found := self._seen.get(digest)) is None:
            return None
        if wall_s >= found.ends_s or self.holders[found.entry].keys is not found.keys:
            self._forget(digest)
            return None
        if digest in self._older:
            self._older.move_to_end(digest)
        else:
            self._newest.move_to_end(found.identity)
        return found

    def _remember(self, digest: bytes, verdict: _Verdict) -> None:
        if digest in self._seen:
            self._forget(digest)
        if (before := self._newest.pop(verdict.identity, None)) is not None:
            self._older[before] = None
        self._seen[digest], self._newest[verdict.identity] = verdict, digest
        self._seen_bytes += _size(verdict)
        while len(self._seen) > REMEMBERED or self._seen_bytes > REMEMBERED_BYTES:
            self._forget(next(iter(self._older or self._newest.values())))

    def _forget(self, digest: bytes) -> None:
        verdict = self._seen.pop(digest)
        self._seen_bytes -= _size(verdict)
        if digest in self._older:
            del self._older[digest]
        else:
            del self._newest[verdict.identity]


def network_of(peer: str) -> str:
    """Return who shares the turns of the address `peer`: an IPv4 address alone, of IPv6 the /64 that a client has."""
    try:
        address = ip_address(peer)
    except ValueError:  # a Unix socket has none
        return peer
    if isinstance(address, IPv6Address) and (mapped := address.ipv4_mapped) is None:
        return f"{int(address) >> 64:x}::/64"
    return str(mapped) if isinstance(address, IPv6Address) else peer


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


def _size(verdict: _Verdict) -> int:
    return _VERDICT_BYTES + sys.getsizeof(verdict.user)
