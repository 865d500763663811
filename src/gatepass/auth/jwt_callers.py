"""Callers by tokens: each token is verified once, in turn, and its verdict remembered until the token ends."""

from __future__ import annotations

import asyncio
import math
import sys
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256
from ipaddress import IPv4Address, ip_address

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
from gatepass.clock import Clock, Timer, wait_at_most
from gatepass.config.access import JwtIssuer
from gatepass.errors import InvalidToken, Overloaded
from gatepass.fair_queue import FairQueue

SIGNATURES_PER_S = 1_000
"""How many signatures are checked in a second: any client can send a wrong one, and each takes 0.1 ms of the loop."""
LOOP_SHARE = 0.2
"""How much of the loop's time they take at most: on a busy machine 0.1 ms becomes 0.2, and large keys take 2 to 12."""
AT_ONCE = 50
"""How many are checked at once after a pause: a busy process has a turn of the loop only every 50 ms."""
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


class _Check(asyncio.Event):
    """The check of a token's signature, set when it was made or has no turn."""

    def __init__(self, token: Token, digest: bytes, at: int, keys: KeySet) -> None:
        super().__init__()
        self.token, self.digest, self.at, self.keys = token, digest, at, keys
        self.result: _Verdict | InvalidToken | None = None
        """None before, and without a turn."""


class JwtCallers:
    """The callers that the tokens of `access.jwt` name. `holders` has the key set of each entry."""

    def __init__(self, entries: Sequence[JwtIssuer], holders: Sequence[KeySetHolder], clock: Clock) -> None:
        self.entries, self.holders = entries, holders
        self._clock = clock
        self._rows = [[Caller.of_row(row, "", "") for row in entry.callers] for entry in entries]
        self._turns = FairQueue[_Check](1, MOST_WAITING)
        """The checks of signatures. That which holds the place is the next one."""
        self._free_s = -math.inf
        """When it may be made, by SIGNATURES_PER_S and LOOP_SHARE."""
        self._timer: Timer | None = None
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
        return None if found is None else self._caller(found)

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
        at, digest, line = entry_of(token, self.entries) or 0, _digest(token.text), network_of(peer)
        entry, holder = self.entries[at], self.holders[at]
        check_claims(token, entry, self._clock.wall())
        keys = await holder.keys_for(token, line)
        try:
            found = await self._in_turn(_Check(token, digest, at, keys), line)
        except InvalidToken as error:
            # Some issuers replace a key under its old `kid`. A forged signature so costs a fetch as well, at most
            # one in AGAIN_S like an invented `kid`; tokens that are remembered or whose key is right do not wait.
            newer = await holder.fetched(line) if error.case == "jwt_signature" else None
            if newer is keys or newer is None:
                raise
            found = await self._in_turn(_Check(token, digest, at, newer), line)
        if (caller := self._caller(found)) is None:
            raise no_row(token, entry)
        return caller

    async def _in_turn(self, check: _Check, line: str) -> _Verdict:
        """Return the verdict of `check` when it is the turn of `line`, or at once if no signature has to be checked.

        Raises InvalidToken, Overloaded.
        """
        if (known := self._verdict(check.digest, self._clock.wall())) is not None:
            return known
        if check.keys.find(check.token) is None:  # no signature decides
            verify(check.token, check.keys, self.holders[check.at].age_text())
        if (left_out := self._turns.enter(check, line, weight=1)) is not None:
            left_out.set()
        try:
            if self._timer is None:
                self._check_in_turn()
            await wait_at_most(check, LONGEST_TURN_S, self._clock)
            if check.result is None:
                text = "Too many new tokens arrive to check their signatures."
                raise Overloaded(text, retry_after_s=LONGEST_TURN_S)
            if isinstance(check.result, InvalidToken):
                raise check.result
            return check.result
        finally:  # also for a client that left
            self._turns.leave(check)
            del check  # the traceback of its error refers to this frame

    def _check_in_turn(self) -> None:
        """Make the checks that there is time for, each in its turn, and go on when there is time again."""
        self._timer = None
        for _ in range(AT_ONCE):  # also of tokens that ended while they waited: each wakes its request
            begun_s, is_made = self._clock.now(), False
            if begun_s < self._free_s or not self._turns.holding:
                break
            [check] = self._turns.holding
            try:
                keys = self.holders[check.at].keys or check.keys  # they may have changed since
                check_claims(check.token, self.entries[check.at], self._clock.wall())  # and the token may have ended
                check.result = self._verdict(check.digest, self._clock.wall())  # by another request of its sender
                if is_made := check.result is None:
                    verify(check.token, keys, self.holders[check.at].age_text())
                    check.result = self._remember(check, keys)
            except InvalidToken as error:
                check.result = error.with_traceback(None)  # it would refer to this frame
            finally:
                self._turns.leave(check)
                check.set()
            if is_made:
                pause_s = max(1 / SIGNATURES_PER_S, (self._clock.now() - begun_s) / LOOP_SHARE)
                # half a check, because the sum of floats is not exact
                self._free_s = max(self._free_s, begun_s - (AT_ONCE - 0.5) / SIGNATURES_PER_S) + pause_s
        if self._turns.holding:
            self._timer = self._clock.call_later(max(0.0, self._free_s - self._clock.now()), self._check_in_turn)

    def _caller(self, verdict: _Verdict) -> Caller | None:
        """Return None if the token meets no row."""
        if verdict.row is None:
            return None
        return replace(self._rows[verdict.entry][verdict.row], identity=verdict.identity, user=verdict.user)

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

    def _remember(self, check: _Check, keys: KeySet) -> _Verdict:
        """Return the verdict of a token that `keys` verify. One without a row is not checked again either."""
        token, entry = check.token, self.entries[check.at]
        row = row_of(token, entry)
        user = "" if row is None else user_of(token, entry.callers[row])
        verdict = _Verdict(identity_of(token, entry), user, row, token.ends_s, check.at, keys)
        if (before := self._newest.pop(verdict.identity, None)) is not None:
            self._older[before] = None
        self._seen[check.digest], self._newest[verdict.identity] = verdict, check.digest
        self._seen_bytes += _size(verdict)
        while len(self._seen) > REMEMBERED or self._seen_bytes > REMEMBERED_BYTES:
            self._forget(next(iter(self._older or self._newest.values())))
        return verdict

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
    return peer if isinstance(address, IPv4Address) else str(address.ipv4_mapped or f"{int(address) >> 64:x}::/64")


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


def _size(verdict: _Verdict) -> int:
    return _VERDICT_BYTES + sys.getsizeof(verdict.user)
