"""The failure matrix of the token holder, as a table: `make token-matrix`, about a minute.

Each row has one fault of the issuer, one state of the token at its begin, one duration and one load. The clock is
driven. Afterwards the issuer works again. A hanging issuer returns at several moments of the first fetches.
Their `timeout_s` is 10. The columns count requests and tokens:

* `lost, valid`: requests that failed or waited although gatepass held a valid token. It must be 0.
* `no token`: requests that received 503, because the token expired before the issuer returned.
* `calls`: fetches that reached the issuer during the fault and two minutes after it.
* `dead sent`: used tokens that were expired or that the issuer did not issue. It must be 0.
* `back`: seconds from the issuer's return until gatepass holds a token again. It must be at most 4, or `timeout_s`
  after a fetch that hung. After an error that can mean a wrong secret it may be 300, so that the account is not locked.

An unknown error counts as an outage in two cases. In `blip` the secret has worked before, and
the error lasts some seconds. In `again` the secret has worked after the same error. A second table compares the number
of requests in an hour of errors with the limit in docs/tokens.md.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from gatepass.errors import Fault, TokenUnavailable
from gatepass.tokens import Token
from tests.unit.clock import DrivenClock, settle
from tests.unit.tokens.scripted import (
    JSON,
    Answer,
    Broken,
    Hang,
    IssuerReply,
    Mint,
    RunningHolder,
    ScriptedIssuer,
    answer,
    oauth2,
)

OUTAGE_S = 60.0
STEP_S = 0.5
AFTERWARDS_S = 130.0
BACK_WITHIN_S = 4.0
TIMEOUT_S = 10.0

FAULTS: dict[str, IssuerReply] = {
    "slow (8 s)": Mint(300, delay_s=8.0),
    "down": Broken(),
    "name not known": Broken(Fault.DNS, "not known"),
    "TLS fails": Broken(Fault.TLS, "certificate"),
    "hangs": Hang(),
    "dribbles": Answer(pieces=[b" "] * 10_000, every_s=1.0),
    "500": answer({}, 500),
    "429, retry-after 2": answer({}, 429, (b"retry-after", b"2")),
    "garbage": Answer(body=b"\xff\xfe{"),
    "HTML page": Answer(200, b"<html><title>Sign in</title>", ((b"content-type", b"text/html"),)),
    "empty 200": Answer(body=b""),
    "redirect": Answer(302, b"", ((b"location", b"https://login.example/"),)),
    "dead on arrival": answer({"access_token": "dead", "expires_in": 0}),
    "same token again": Mint(300, text="token-1"),
    "busy, in a 200": Answer(200, b'{"code":10001,"msg":"busy"}', JSON),
    "unclear, in a 200": Answer(200, b'{"code":10001,"msg":"E-4711"}', JSON),
    "wrong password, in a 200": Answer(200, b'{"code":1001,"msg":"wrong app secret"}', JSON),
    "503, in a 200": Answer(200, b'{"code":503,"msg":"E-4711"}', JSON),
    "429 as text, in a 200": Answer(200, b'{"errcode":"42900","errmsg":"E-4711"}', JSON),
    "status 503, in a 200": Answer(200, b'{"status":503,"error":"Service Unavailable"}', JSON),
    "temporarily_unavailable": answer({"error": "temporarily_unavailable"}, 400),
    "404": answer({"msg": "no such app"}, 404),
    "invalid_client": answer({"error": "invalid_client"}, 401),
}
UNCLEAR = ("busy, in a 200", "unclear, in a 200", "wrong password, in a 200", "429 as text, in a 200")
DEFINITE = frozenset({"invalid_client", "404"})
"""Faults after which gatepass waits up to RESTS_S before the next fetch."""
RESTS_S = 300.0
"""The longest such wait."""
UNCLEAR_RESTS_S = 31.0
"""The longest wait after an unknown error."""
HISTORIES = ("never worked", "has worked")
"""Of the secret, before it is refused for an hour."""
AGES: dict[str, float | None] = {"none yet": None, "fresh": 0.1, "stale": 0.85, "ended": 1.0}
"""States of the token when the fault begins, as the share of its life that has passed."""
LOADS = (1, 50)
"""Requests in each step of STEP_S."""
LIVES_S = (5.0, 60.0, 300.0, 3600.0)
HANGS = ("hangs", "dribbles")
HANGS_S = (0.5, 3.5, 7.0, 9.5, 11.0, 14.0, 20.0)
"""Durations before, at and after the timeout of the first fetch."""


@dataclass(slots=True)
class Row:
    fault: str
    state: str
    life_s: float
    load: int
    outage_s: float = OUTAGE_S
    requests: int = 0
    lost_valid: int = 0
    no_token: int = 0
    calls: int = 0
    dead_sent: int = 0
    back_s: float | None = None

    @property
    def is_good(self) -> bool:
        is_kept = self.lost_valid == 0 and self.dead_sent == 0 and self.back_s is not None
        within_s = TIMEOUT_S if self.fault in HANGS else BACK_WITHIN_S
        if self.fault in DEFINITE:
            within_s = RESTS_S
        elif self.fault in UNCLEAR:
            within_s = UNCLEAR_RESTS_S
        return is_kept and (self.back_s or 0.0) <= within_s


class RowRun:
    """Runs one row: requests for the token of one holder on a driven clock."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.clock = DrivenClock()
        self.issuer = ScriptedIssuer(self.clock, otherwise=Mint(row.life_s))
        self._waiting: set[asyncio.Task[Token]] = set()

    async def run(self) -> None:
        row, age = self.row, AGES[self.row.state]
        if age is None:
            self.issuer.otherwise = FAULTS[row.fault]
        async with RunningHolder(self.clock, self.issuer, oauth2(timeout_s=TIMEOUT_S)) as it:
            if age is not None:
                await self._age(it, age)
                self.issuer.otherwise = FAULTS[row.fault]
            before = self.issuer.calls
            await self._load(it, row.outage_s)
            self.issuer.otherwise = Mint(row.life_s)
            returned_s = self.clock.now()
            await self._load(it, AFTERWARDS_S, returned_s)
            row.calls = self.issuer.calls - before
            for task in self._waiting:
                task.cancel()
            await settle(5)

    async def _age(self, it: RunningHolder, age: float) -> None:
        """Advance the clock to this share of the token lifetime, without a refresh."""
        await settle()
        token = it.holder.current()
        assert token is not None
        self.issuer.otherwise = Hang()
        await self.clock.advance(self.row.life_s * age)

    async def _load(self, it: RunningHolder, for_s: float, returned_s: float | None = None) -> None:
        end_s = self.clock.now() + for_s
        while self.clock.now() < end_s:
            if returned_s is not None and self.row.back_s is None and it.holder.usable:
                self.row.back_s = self.clock.now() - returned_s
            self._send_requests(it)
            await self.clock.advance(STEP_S)
            self._collect()

    def _send_requests(self, it: RunningHolder) -> None:
        held = it.holder.current()
        for _ in range(self.row.load):
            self.row.requests += 1
            coroutine = it.holder.token()
            if held is None:
                self._waiting.add(asyncio.ensure_future(coroutine))
                continue
            try:
                coroutine.send(None)
                self.row.lost_valid += 1  # it waits
                coroutine.close()
            except StopIteration as done:
                self._check(done.value)
            except TokenUnavailable:
                self.row.lost_valid += 1

    def _collect(self) -> None:
        for task in [task for task in self._waiting if task.done()]:
            self._waiting.discard(task)
            if isinstance(task.exception(), TokenUnavailable):
                self.row.no_token += 1
            elif task.result().text not in self.issuer.minted:
                self.row.dead_sent += 1

    def _check(self, token: Token) -> None:
        if self.clock.now() >= token.expires_s or token.text not in self.issuer.minted:
            self.row.dead_sent += 1


def rows() -> Iterator[Row]:
    """Yield each fault with each state and load, each lifetime with the larger load, and each duration of a hang."""
    for fault in FAULTS:
        for state in AGES:
            for load in LOADS:
                yield Row(fault, state, 300.0, load)
    for life_s in LIVES_S:
        for fault in FAULTS:
            yield Row(fault, "stale", life_s, LOADS[-1])
    for fault in HANGS:
        for state, life_s in (("none yet", 300.0), ("stale", 300.0), ("stale", 5.0), ("ended", 300.0), ("ended", 5.0)):
            for outage_s in HANGS_S:
                yield Row(fault, state, life_s, LOADS[-1], outage_s)


async def calls_in_an_hour(fault: str, history: str) -> int:
    """Return the number of fetches in the hour after the first reply with `fault`."""
    clock = DrivenClock()
    issuer = ScriptedIssuer(clock, *([Mint(60)] if history == "has worked" else []), otherwise=FAULTS[fault])
    async with RunningHolder(clock, issuer, oauth2(timeout_s=TIMEOUT_S)):
        while len(issuer.started_s) < (2 if history == "has worked" else 1):
            await clock.advance(1.0)
        began_s = issuer.started_s[-1]
        await clock.advance(3600.0)
    return sum(began_s <= moment < began_s + 3600.0 for moment in issuer.started_s)


HEAD = (
    "| fault | token | life s | load/s | outage s | requests | lost, valid | no token | calls | dead sent | back s | |"
)


def line(row: Row) -> str:
    back = "never" if row.back_s is None else f"{row.back_s:.1f}"
    cells = (
        *(row.fault, row.state, f"{row.life_s:g}", f"{row.load / STEP_S:g}", f"{row.outage_s:g}", row.requests),
        *(row.lost_valid, row.no_token, row.calls, row.dead_sent, back, "ok" if row.is_good else "VIOLATED"),
    )
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def main() -> int:
    logging.getLogger("gatepass").setLevel(logging.CRITICAL)  # the faults cause hundreds of expected warnings
    print(HEAD, "|" + "---|" * HEAD.count("|", 1), sep="\n")
    broken = 0
    for row in rows():
        asyncio.run(RowRun(row).run())
        print(line(row), flush=True)
        broken += not row.is_good
    print("\n| refused for an hour | the secret | calls | most | |", "|---|---|---|---|---|", sep="\n")
    for fault in (*sorted(DEFINITE), *UNCLEAR):
        for history in HISTORIES:
            calls, most = asyncio.run(calls_in_an_hour(fault, history)), 15 if fault in DEFINITE else 120
            print(f"| {fault} | {history} | {calls} | {most} | {'ok' if calls <= most else 'VIOLATED'} |")
            broken += calls > most
    print(f"\n{broken} rows violated")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
