"""The state machine of two holders: no sequence of events shows an upstream a token that it should not see.

A token is dead, foreign or refused to the same request by the issuer's own word, at the moment in which the request is
written. Two credentials, three upstreams, through `attempt.send`. A request waits only while no good token is held,
and after the last event every model is served again.

Rejections renew a token by these rules, which `Witness` checks:

| a rejection | renews the token |
|---|---|
| of a value that a 401 renewed within 60 s, also if the issuer returned it again | never |
| a 401, an error, a redirect | ten times within 60 s, eight for one caller, six for unproven models |
| a web page | once within 60 s, beside those ten |
| of a caller whose renewed token the same model rejected within 60 s | never, and its requests are sent |

A rejection is over for an upstream when it accepts a request that was sent later.
"""

import asyncio
import math
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from msgspec import structs

from gatepass.clock import sleep
from gatepass.config.model import Config
from gatepass.errors import Fault, TokenUnavailable, TransportFault, UpstreamError
from gatepass.proxy.app_state import AppState, Upstream, create_app_state
from gatepass.proxy.attempt import send, send_own_call, succeeded
from gatepass.proxy.context import Attempt
from gatepass.proxy.response import classify
from gatepass.proxy.retry import Outcome
from gatepass.tokens import Token, TokenHolder, TokenUser
from gatepass.tokens.holder import ANY_USER, CALLER_RENEWALS, RENEWALS, WINDOW_S
from gatepass.types import Call, Headers, Operation, OutboundRequest, Target, Timeouts, header
from tests.responses import stream_pieces
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
    refused,
    signed,
)

MARGIN_S = 7.0
"""More than a token is held back before its end: until then it must be used."""
FORBIDDEN = "forbidden"
FILTERED = "filtered"
"""A model whose requests are answered with a filter's web page."""
RAW = Operation("x", "POST", "/x", "raw", "")
UPSTREAMS = {"chat": "corp", "embed": "corp", "other": "firm"}
"""And the credential of each."""


@dataclass(frozen=True)
class Signed(Mint):
    """A JWT with a lifetime of `own_s`, of which `age_s` have passed. It really lives as long as its reply states."""

    own_s: float = 3600.0
    age_s: float = 0.0
    lives_s: float | None = None


class Issuer(ScriptedIssuer):
    """Knows when each of its tokens ends."""

    def __init__(self, clock: DrivenClock, name: str) -> None:
        super().__init__(clock)
        self.name = name
        self.ends_s: dict[str, float] = {}
        self.revoked: set[str] = set()

    def _mint(self, reply: Mint) -> Answer:
        lives_s = float(reply.life) if isinstance(reply.life, int) and reply.life else 240.0  # 0 states none
        text = reply.text or f"{self.name}-{len(self.minted) + 1}"
        if isinstance(reply, Signed):
            made_s = int(self.clock.wall()) - reply.age_s
            text = signed(iat=made_s, exp=made_s + reply.own_s, jti=text)
            lives_s = reply.lives_s or min(lives_s, made_s + reply.own_s - self.clock.wall())
        self.ends_s[text] = self.clock.now() + lives_s
        self.revoked.discard(text)
        return super()._mint(replace(reply, text=text))


REQUEST: ContextVar[int] = ContextVar("number of the request")


class Witness(TokenHolder):
    """Notes in `dropped` which token it gives to which request no more, and checks each renewal after a rejection."""

    def __init__(self, dropped: set[tuple[int, str]], *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._dropped = dropped
        self._began: list[str] = []
        self.on_rejection = self._began.append
        self._renewed: list[tuple[float, str, bool, str]] = []
        self._in_vain_s: dict[tuple[str, TokenUser], float] = {}
        self._refused: defaultdict[TokenUser, set[Token]] = defaultdict(set)

    def reject(self, value: str, by: TokenUser = ANY_USER, caller: str = "", *, is_page: bool = False) -> bool:
        now_s, count_before = self._clock.now(), len(self._began)
        current = None if self._token is None else self._token.text
        is_dropped = super().reject(value, by, caller, is_page=is_page)
        if value == current:
            assert self.rejection_age_s(by.upstream, by.base_url) is not None or self.has_another(by)
            is_muted = now_s < self._in_vain_s.get((caller, by), -math.inf) + WINDOW_S
            assert not (is_dropped and is_muted), "a caller whose renewal did not help waited for another token"
        if len(self._began) > count_before:
            self._check_renewal(now_s, value, caller, is_page=is_page)
        if is_dropped:
            self._dropped.add((REQUEST.get(), value))
        return is_dropped

    def rejected_again(
        self, token: Token, by: TokenUser = ANY_USER, caller: str = "", *, is_page: bool = False
    ) -> None:
        super().rejected_again(token, by, caller, is_page=is_page)
        if not is_page and token is self._token:
            self._refused[by].add(token)
            if len(self._refused[by]) > 1:
                self._in_vain_s[caller, by] = self._clock.now()

    def confirm(self, token: Token, by: TokenUser = ANY_USER, sent_s: float = math.inf) -> bool:
        age_s = self.rejection_age_s(by.upstream, by.base_url)
        is_noted = super().confirm(token, by, sent_s)
        if is_noted:
            self._refused[by].clear()
        if age_s is not None and sent_s < self._clock.now() - age_s:
            assert self.rejection_age_s(by.upstream, by.base_url) == age_s, "an earlier request proves nothing"
        return is_noted

    def has_another(self, by: TokenUser) -> bool:
        """Return whether another model of the upstream accepts the current token."""
        others = self._rejections.accepted_by - {by}
        return any((other.upstream, other.base_url) == (by.upstream, by.base_url) for other in others)

    def _check_renewal(self, now_s: float, value: str, caller: str, *, is_page: bool) -> None:
        self._renewed = [one for one in self._renewed if now_s < one[0] + WINDOW_S]
        same_kind = [text for _, text, was_page, _ in self._renewed if was_page == is_page]
        assert len(same_kind) < (1 if is_page else RENEWALS), "too many renewals"
        of_caller = [one for *_, was_page, one in self._renewed if one == caller and not was_page]
        assert is_page or not caller or len(of_caller) < CALLER_RENEWALS, "too many renewals for one caller"
        assert is_page or value not in same_kind, "a value was renewed twice"
        self._renewed.append((now_s, value, is_page, caller))


IDLE_S = Timeouts().idle_s


class Reply:
    """An upstream's reply. The body of a rejection may never end: the transport then reports the idle timeout."""

    ended = False

    def __init__(
        self, status: int, body: bytes = b"{}", stalls_on: DrivenClock | None = None, headers: Headers = JSON
    ) -> None:
        self.status, self.headers, self._body, self._stalls_on = status, headers, body, stalls_on

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body
        if self._stalls_on is not None:
            await sleep(self._stalls_on, IDLE_S)  # the driven clock's time
            raise TransportFault(Fault.TIMEOUT_IDLE, "nothing arrived", limit_s=IDLE_S)

    def take_whole(self, limit_bytes: int) -> bytes | None:
        return None

    async def stream_to(self, take: Callable[[bytes], bool]) -> bool:
        return await stream_pieces(self, take)

    async def aclose(self) -> None:
        await asyncio.sleep(0)

    def finish(self) -> None: ...


@dataclass
class FakeUpstream:
    """A transport and its server. A request waits `busy_s` for its connection. A kept connection may be closed after
    `stale_s`. Every token that is written is checked.
    """

    name: str
    clock: DrivenClock
    issuer: Issuer
    dropped: set[tuple[int, str]]
    busy_s: float = 0.0
    stale_s: float | None = None
    stalls: bool = False
    came: int = 0

    async def send(self, request: OutboundRequest, times: object) -> Reply:
        del times
        self.came += 1
        if self.busy_s or request.new_connection:
            await sleep(self.clock, self.busy_s or 0.5)
            if request.reauthorize is not None:
                request = request.reauthorize() or request
        text = self._check(request.headers)
        if self.stale_s is not None and not request.new_connection:
            await sleep(self.clock, self.stale_s)
            raise TransportFault(Fault.CLOSED, "reset", stale=True)
        await asyncio.sleep(0)
        model = (header(request.headers, b"x-model") or b"").decode()
        if model.startswith(FILTERED):
            return Reply(200, b"<html>Blocked</html>", headers=((b"content-type", b"text/html"),))
        if text in self.issuer.revoked or model.startswith(FORBIDDEN):
            return Reply(401, b'{"error": {"message": "no"}}', self.clock if self.stalls else None)
        return Reply(200)

    async def aclose(self) -> None: ...

    def _check(self, headers: Headers) -> str:
        text = (header(headers, b"authorization") or b"").decode().removeprefix("Bearer ")
        assert text in self.issuer.minted, f"{self.name} was shown a foreign token"
        assert self.clock.now() < self.issuer.ends_s[text], f"{self.name} was shown a dead token"
        assert (REQUEST.get(), text) not in self.dropped, f"{self.name} was shown again what it had refused"
        return text


REPLIES: list[IssuerReply] = [
    *(Mint(5), Mint(60), Mint(300), Mint(300, delay_s=7.0), Signed(3), Signed(5, own_s=300.0, age_s=295.0)),
    *(Signed(60, own_s=60.0), Signed(0, own_s=60.0, lives_s=60.0), Broken(), Hang(), refused()),
    *(Mint(None), Mint(0), Mint("bad"), answer({"access_token": "dead", "expires_in": -2}), Answer(body=b"<html>")),
    answer({}, 429, (b"retry-after", b"5")),
]
HANGS = REPLIES.index(Hang())
MODELS = ["m", "n", FORBIDDEN, FILTERED]
CALLERS = ["ragflow", "agent"]
WHICH = st.sampled_from(sorted(UPSTREAMS))


class Machine(RuleBasedStateMachine):
    """Requests of several models to several upstreams."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = DrivenClock()
        self.issuers = {name: Issuer(self.clock, name) for name in ("corp", "firm")}
        self.dropped: set[tuple[int, str]] = set()
        holding = partial(Witness, self.dropped)
        self.kept = {
            name: RunningHolder(self.clock, one, name=name, holding=holding, jitter=jitter)
            for (name, one), jitter in zip(self.issuers.items(), (0.0, 0.7), strict=True)
        }
        self.upstreams = {
            name: FakeUpstream(name, self.clock, self.issuers[credential], self.dropped)
            for name, credential in UPSTREAMS.items()
        }
        self.state = _state(self.clock)
        self.hops = {name: self._hop(name, credential) for name, credential in UPSTREAMS.items()}
        self.asked: list[asyncio.Task[int]] = []
        self.numbers = count()
        self.served: defaultdict[TokenUser, set[str]] = defaultdict(set)
        self.runner.run(self._start())

    def _hop(self, name: str, credential: str) -> Upstream:
        transport: Any = self.upstreams[name]  # a fake with the same methods
        return structs.replace(self.state.upstreams[name], transport=transport, holder=self.kept[credential].holder)

    async def _start(self) -> None:
        for one in self.kept.values():
            one.holder.start()
        await settle()

    def _play(self, work: Coroutine[Any, Any, object] | None = None) -> None:
        async def played() -> None:
            if work is not None:
                await work
            await settle(5)

        self.runner.run(played())

    @rule(for_s=st.floats(0.0, 60.0))
    def advance(self, for_s: float) -> None:
        self._play(self.clock.advance(for_s))

    @rule(for_s=st.floats(0.0, 300.0))
    def suspend(self, for_s: float) -> None:
        self.clock.suspend(for_s)

    @rule(which=WHICH, number=st.integers(0, len(REPLIES) - 1))
    def change_issuer(self, which: str, number: int) -> None:
        self.issuers[UPSTREAMS[which]].otherwise = REPLIES[number]

    @rule(which=WHICH, model=st.sampled_from(MODELS), caller=st.sampled_from(CALLERS))
    def ask(self, which: str, model: str, caller: str = CALLERS[0]) -> None:
        async def begin() -> None:
            self.asked.append(asyncio.create_task(self._ask(which, model, caller)))

        self._play(begin())

    @rule(which=WHICH)
    def revoke(self, which: str) -> None:
        issuer = self.issuers[UPSTREAMS[which]]
        issuer.revoked.update(issuer.minted)

    @rule(which=WHICH, seconds=st.sampled_from([0.0, 2.0, 30.0]))
    def be_busy(self, which: str, seconds: float) -> None:
        self.upstreams[which].busy_s = seconds

    @rule(which=WHICH, seconds=st.sampled_from([None, 2.0, 70.0]))
    def close_connections(self, which: str, seconds: float | None) -> None:
        self.upstreams[which].stale_s = seconds

    @rule(which=WHICH, stalls=st.booleans())
    def stall(self, which: str, stalls: bool) -> None:
        self.upstreams[which].stalls = stalls

    @rule(number=st.integers(1, 3))
    def leave(self, number: int) -> None:
        for task in self.asked[-number:]:
            task.cancel()
        self._play()

    def teardown(self) -> None:
        with self.runner:
            self.runner.run(self._end(is_checked=sys.exc_info()[0] is None))

    async def _end(self, *, is_checked: bool) -> None:
        try:
            if is_checked:
                await self._check_end()
        finally:
            for one in self.kept.values():
                await one.holder.aclose()
        await settle()
        if is_checked:
            assert [(one.open, one.under_way) for one in self.issuers.values()] == [(0, 0)] * 2

    async def _check_end(self) -> None:
        """All is well again: refusals of one model keep none that is served from being healed."""
        for issuer in self.issuers.values():
            issuer.otherwise = Mint()
        for upstream in self.upstreams.values():
            upstream.busy_s, upstream.stale_s, upstream.stalls = 0.0, None, False
        await self.clock.advance(400.0)
        for task in self.asked:
            assert task.done()
            error = None if task.cancelled() else task.exception()
            assert error is None, error
        for name in UPSTREAMS:
            assert await self._outcome(name, "m") == 200
            came = self.upstreams[name].came
            for model, status in ((FORBIDDEN, 401), (FILTERED, 502)):
                assert [await self._outcome(name, model) for _ in range(5)] == [status] * 5
                assert [await self._outcome(name, f"{model}-{one}") for one in range(5)] == [status] * 5
            assert self.upstreams[name].came >= came + 20, "a request was not sent"
            assert await self._outcome(name, "m") == 200
            self.revoke(name)
            assert await self._outcome(name, "m") == 200

    async def _ask(self, name: str, model: str, caller: str = CALLERS[0]) -> int:
        """The status that one request comes to."""
        hop, by = self.hops[name], TokenUser(name, model)
        REQUEST.set(next(self.numbers))
        attempt = an_attempt(self.state, hop, model, caller)
        fields = ((b"accept", b"application/json"), (b"x-model", model.encode()))
        work = asyncio.ensure_future(sent(attempt, OutboundRequest("POST", "http://h/v1/x", fields, b"{}")))
        try:
            if self._is_held(hop, by):
                came = self.upstreams[name].came
                await settle(1)
                assert self.upstreams[name].came > came, "a request waited while a good token was held"
            last = await work
        except (TokenUnavailable, UpstreamError) as error:
            return error.http_status
        finally:
            work.cancel()
        assert last.token is not None
        self.served[by].add(last.token.text)
        return 200

    def _is_held(self, hop: Upstream, by: TokenUser) -> bool:
        """Return whether the last token serves `by`, as far as a caller can know."""
        issuer = self.upstreams[hop.name].issuer
        last = hop.holder.current() if hop.holder is not None else None
        if last is None or last.text not in self.served[by]:
            return False
        return self.clock.now() + MARGIN_S < issuer.ends_s[last.text]

    async def _outcome(self, name: str, model: str) -> int:
        task = asyncio.create_task(self._ask(name, model))
        await self.clock.advance(2.0)
        return task.result()


def an_attempt(state: AppState, hop: Upstream, model: str, caller: str = CALLERS[0]) -> Attempt:
    attempt = Attempt.begin(state, Target(hop.name, model), Call("id", RAW, caller, model, b"{}", ()))
    attempt.upstream = hop
    return attempt


async def sent(attempt: Attempt, request: OutboundRequest) -> Attempt:
    """Return the attempt that had a good reply."""

    async def once(attempt: Attempt) -> Attempt:
        await classify(attempt, await send(attempt, request))
        succeeded(attempt)
        attempt.end(Outcome.COMPLETE)
        return attempt

    return await send_own_call(attempt, once)


def _state(clock: DrivenClock) -> AppState:
    upstreams = {name: {"base_url": f"http://{name}.example/v1"} for name in UPSTREAMS}
    models = {f"of-{name}": {"upstream": name} for name in UPSTREAMS}
    return create_app_state(Config.model_validate({"upstreams": upstreams, "models": models}), clock)


TestMachine = Machine.TestCase
ASK = ("ask", "chat", "m")
AGAIN = (ASK, ("change_issuer", "chat", 0), ("revoke", "chat"), ASK, ("advance", 1.0))
"""Serves one request, and has a token of five seconds then."""
STALE = ("advance", 241.0)


@pytest.mark.parametrize(
    "events",
    [
        [*AGAIN, ("be_busy", "chat", 30.0), ASK, ("advance", 40.0)],
        [*AGAIN, ("close_connections", "chat", 70.0), ASK, ("advance", 90.0)],
        [ASK, ("change_issuer", "chat", HANGS), ("ask", "embed", FORBIDDEN), ASK],
        [("change_issuer", "chat", 4), STALE, ("suspend", 3.5), ASK],
        [("change_issuer", "chat", 5), STALE, ("suspend", 5.5), ASK],
        [("change_issuer", "chat", 6), STALE, ("suspend", 61.0), ASK],
        [("revoke", "chat"), ("stall", "chat", True), ("ask", "chat", FORBIDDEN), ("advance", 24.0)],
    ],
)
def test_a_sequence_that_once_showed_a_wrong_token(events):
    machine = Machine()
    try:
        for name, *arguments in events:
            getattr(machine, name)(*arguments)
    finally:
        machine.teardown()
