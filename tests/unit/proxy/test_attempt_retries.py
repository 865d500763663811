"""Every retry rule, from the state of the request alone: no logger, no metrics, no network."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
from msgspec.structs import replace

from gatepass.config.model import Config
from gatepass.errors import Fault, Overloaded, TokenUnavailable, TransportFault, UpstreamAuth, UpstreamError
from gatepass.normalize.profiles import PROFILES
from gatepass.observability.observer import SentToken
from gatepass.observability.story import attempts_of
from gatepass.proxy.app_state import AppState, create_app_state
from gatepass.proxy.attempt import send_own_call, try_call
from gatepass.proxy.context import Attempt, RequestContext
from gatepass.proxy.response import BufferedReply, ClassifiedReply
from gatepass.server.endpoint import ApiEndpoint
from gatepass.tokens import Token, TokenReissued, TokenUser
from gatepass.types import Call, ClientRequest, Headers, OutboundRequest, Response, Secret, Target, header
from tests.integration.answers import COMPLETION
from tests.responses import stream_pieces
from tests.rows import CHAT, EMBEDDINGS
from tests.unit.clock import DrivenClock
from tests.unit.normalize.calls import a_call

BODY = b'{"model": "m", "messages": []}'
EXPIRED = {"error": {"message": "token expired", "type": "authentication_error"}}
HIDDEN = {"code": 401, "msg": "token expired"}
CREDENTIALS = {
    "corp": {"type": "oauth2", "token_url": "http://issuer.example/token", "client_id": "me", "client_secret": "s"}
}
TARGET = Target("chat")


class Reply:
    ended = True

    def __init__(self, document: Any, status: int = 200) -> None:
        self.status = status
        self.headers: Headers = ((b"content-type", b"application/json"),)
        self._body = json.dumps(document).encode()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body

    async def stream_to(self, take: Callable[[bytes], bool]) -> bool:
        return await stream_pieces(self, take)

    def take_whole(self, limit_bytes: int) -> bytes | None:
        return None

    async def aclose(self) -> None: ...

    def finish(self) -> None: ...


class Upstream:
    """Plays `replies`, one for each request, then answers well. `takes` are the only tokens that it accepts."""

    def __init__(self, *replies: Response | TransportFault, takes: set[str] | None = None) -> None:
        self.replies = deque(replies)
        self.takes = takes
        self.came: list[OutboundRequest] = []
        self.queue: asyncio.Event | None = None
        """If set, a request waits for it as for a connection."""

    async def send(self, request: OutboundRequest, times: object = None) -> Response:
        if self.queue is not None:
            await self.queue.wait()
            if request.reauthorize is not None:
                request = request.reauthorize() or request
        self.came.append(request)
        await asyncio.sleep(0)
        if self.takes is not None and self.token_of(request) not in self.takes:
            return Reply(EXPIRED, 401)
        reply = self.replies.popleft() if self.replies else Reply(good(request))
        if isinstance(reply, TransportFault):
            raise reply
        return reply

    async def aclose(self) -> None: ...

    @staticmethod
    def token_of(request: OutboundRequest) -> str:
        return (header(request.headers, b"authorization") or b"").decode().removeprefix("Bearer ")

    @property
    def tokens(self) -> list[str]:
        return [self.token_of(request) for request in self.came]


class Holder:
    """Holds one token, and fetches `next` ones when one is rejected; None: the issuer gives the same again."""

    def __init__(self, *tokens: str | None) -> None:
        self._next = deque(tokens)
        self.held: Token | None = self._made(self._next.popleft())
        self.fetches = 0
        self.down = False
        self.refusers: set[TokenUser] = set()
        self.in_vain: list[tuple[TokenUser, str]] = []
        self.confirmed: list[str] = []
        self._landing: asyncio.Future[None] | None = None

    @staticmethod
    def _made(text: str | None) -> Token | None:
        return None if text is None else Token(Secret(text), 0.0, 1e9)

    def current(self) -> Token | None:
        return self.held

    def sent(self, token: Token, now_s: float) -> SentToken:
        return SentToken("corp", now_s, token.requested_s, token.lifetime_s)

    async def token(self, instead_of: str | None) -> Token:
        if self._landing is not None:
            await asyncio.shield(self._landing)
        if self.held is None or self.down:
            raise TokenUnavailable("the issuer is down", credential="corp")
        if self.held.text == instead_of:
            raise TokenReissued("again", credential="corp")
        return self.held

    def reject(self, value: str, by: TokenUser, caller: str, *, is_page: bool = False) -> bool:
        del is_page
        if self.held is None or self.held.text != value or by in self.refusers:
            return True
        if (by, caller) in self.in_vain:
            return False
        self.refusers.add(by)
        if self._landing is None:
            self.fetches += 1
            self._landing = asyncio.ensure_future(self._land())
        return True

    async def _land(self) -> None:
        await asyncio.sleep(0)
        text = self._next.popleft() if self._next else None
        if text is not None:
            self.held = self._made(text)
        self.refusers, self._landing = set(), None

    def confirm(self, token: Token, by: TokenUser, sent_s: float) -> bool:
        self.confirmed.append(token.text)
        return True

    def denial_reason(self) -> str:
        return "the reason"

    def rejected_again(self, token: Token, by: TokenUser, caller: str, *, is_page: bool = False) -> None:
        if not is_page:
            self.in_vain.append((by, caller))


class Scenario:
    """One request of model `m`, whose targets are the given upstreams in order. `others` are other models."""

    def __init__(
        self, *upstreams: Upstream, holder: Holder | None = None, others: dict[str, Any] | None = None, **model: Any
    ) -> None:
        names = ["chat", "spare"][: len(upstreams)]
        blocks: dict[str, Any] = {
            "upstreams": {name: {"base_url": f"http://{name}.example/v1", "learn": "off"} for name in names},
            "models": {"m": {"targets": [{"upstream": name} for name in names], **model}, **(others or {})},
        }
        if holder is not None:
            blocks["credentials"] = CREDENTIALS
            blocks["upstreams"]["chat"]["credential"] = "corp"
        state = create_app_state(Config.model_validate(blocks), DrivenClock())
        replaced = dict(state.upstreams)
        for name, upstream in zip(names, upstreams, strict=True):
            held: Any = holder if name == "chat" else None
            transport: Any = upstream  # a fake with the same methods
            replaced[name] = replace(replaced[name], transport=transport, holder=held)
        self.state: AppState = replace(state, upstreams=replaced)
        self.context = RequestContext.without_client(self.state, PROFILES["plain"])

    @property
    def attempt(self) -> Attempt:
        attempt = self.context.attempt
        assert attempt is not None
        return attempt

    @property
    def requests(self) -> int:
        return sum(one.requests for one in self.context.attempts())

    async def ask(self, call: Call | None = None) -> ClassifiedReply:
        """Return the reply of the first target."""
        attempt = Attempt.begin(self.state, TARGET, call or a_call(BODY, CHAT))
        return await send_own_call(attempt, try_call, self.context)

    async def handled(self) -> Client:
        """Return the client of a request for `m`, with its response."""
        client = Client(BODY)
        headers = ((b"host", b"localhost"), (b"content-type", b"application/json"))
        request = ClientRequest("id", "POST", "/v1/chat/completions", headers, "127.0.0.1", self.state.clock.now())
        await ApiEndpoint(self.state).serve(request, client)
        return client


class Client:
    connected_before_drain = gave_up = False

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.data = b""

    async def read_body(self, limit_bytes: int, claim: Callable[[int], None] | None = None) -> bytes:
        return self._body

    def start(self, status: int, headers: list[tuple[bytes, bytes]], length_bytes: int | None = None) -> None:
        self.status, self.headers = status, dict(headers)

    async def write(self, data: bytes, *, last: bool = False) -> None:
        self.data += data

    def set_caller(self, caller: str) -> None:
        pass

    def try_write(self, data: bytes) -> bool:
        self.data += data
        return True

    def unread_s(self) -> float:
        return 0.0

    def abort(self) -> None:
        pass

    def on_disconnect(self, left: Callable[[], None]) -> None:
        """Never disconnect."""


def good(request: OutboundRequest) -> Any:
    asked = json.loads(request.body or b"{}").get("input")
    if asked is None:
        return COMPLETION
    return {"data": [{"index": at, "embedding": [float(text)]} for at, text in enumerate(asked)]}


def stale(*, sent: bool = True) -> TransportFault:
    return TransportFault(Fault.CLOSED, "reset", sent=sent, stale=True)


def unreached() -> TransportFault:
    return TransportFault(Fault.CONNECT, "refused", sent=False)


# --- a 401


@pytest.mark.parametrize("statuses", [[400], [401], [401, 401]])
async def test_the_reply_of_each_refusal_is_closed(statuses):
    class Closing(Reply):
        is_open = True

        async def aclose(self) -> None:
            self.is_open = False

    replies = [Closing(EXPIRED, status) for status in statuses]
    with suppress(UpstreamError):
        await Scenario(Upstream(*replies), holder=Holder("old", "new")).ask()
    assert [reply.is_open for reply in replies] == [False] * len(statuses)


async def test_the_holder_learns_once_of_a_token_that_is_accepted_again_and_again_after_a_rejection():
    upstream, holder = Upstream(takes={"old"}), Holder("old", None)
    scenario = Scenario(upstream, holder=holder)
    for _ in range(3):
        await scenario.ask()
    assert holder.confirmed == ["old"]
    upstream.takes = set()
    with pytest.raises(UpstreamAuth):
        await scenario.ask()
    upstream.takes = {"old"}
    await scenario.ask()
    assert holder.confirmed == ["old", "old"]


class SlowUpstream(Upstream):
    """Answers after 0.25 s."""

    async def send(self, request: OutboundRequest, times: object = None) -> Response:
        scenario_clock(self).suspend(0.25)
        return await super().send(request, times)


def scenario_clock(owner: Any) -> DrivenClock:
    clock = owner.clock
    assert isinstance(clock, DrivenClock)
    return clock


class SlowHolder(Holder):
    """Has no token at first, if `lacks`. Each wait for a token takes 3 s."""

    def __init__(self, *tokens: str | None, lacks: bool = False) -> None:
        super().__init__(*tokens)
        self._lacks = lacks

    def current(self) -> Token | None:
        return None if self._lacks else self.held

    async def token(self, instead_of: str | None) -> Token:
        scenario_clock(self).suspend(3.0)
        self._lacks = False
        return await super().token(instead_of)


def slow(*replies: Response, holder: Holder, takes: set[str] | None = None, **model: Any) -> Scenario:
    upstream: Any = SlowUpstream(*replies, takes=takes)
    scenario = Scenario(upstream, holder=holder, **model)
    slow_holder: Any = holder
    upstream.clock = slow_holder.clock = scenario.state.clock
    return scenario


@pytest.mark.parametrize(
    ("takes", "tokens", "lacks", "attempts", "waited_s"),
    [
        ({"new"}, ["old", "new"], False, [(0.25, 0.0, 3.0), (0.25, 0.0, 0.0)], 3.0),
        (set(), ["old", None], False, [(0.25, 0.0, 3.0)], 3.0),
        (set(), ["old", "new"], False, [(0.25, 0.0, 3.0), (0.25, 0.0, 0.0)], 3.0),
        (None, ["old"], True, [(3.25, 3.0, 0.0)], 3.0),
        ({"new"}, ["old", "new"], True, [(3.25, 3.0, 3.0), (0.25, 0.0, 0.0)], 6.0),
    ],
)
async def test_an_attempt_ends_with_its_answer_and_the_renewal_is_a_wait_of_the_request(
    takes: set[str] | None, tokens: list[str | None], *, lacks: bool, attempts: list[Any], waited_s: float
):
    scenario = slow(holder=SlowHolder(*tokens, lacks=lacks), takes=takes)
    client = await scenario.handled()
    (request,) = scenario.state.inspector.newest()
    records = [*attempts_of(request.attempt)][::-1]
    assert [(one.duration_s, one.token_wait_s, one.renewal_s) for one in records] == attempts
    assert request.access.token_wait_s == waited_s
    assert b"token;dur=%.1f" % (waited_s * 1000) in client.headers[b"server-timing"]


async def test_a_wait_for_a_token_takes_no_time_from_a_repeat():
    """The attempt took 0.25 s of its own, and 1.7 s are left for its repeat."""
    limited = Reply({"error": {"message": "busy"}}, 429)
    model: dict[str, Any] = {"retry": {"on": ["refused"]}, "timeouts": {"total_s": 5}}
    scenario = slow(limited, holder=SlowHolder("old", lacks=True), **model)
    asking = asyncio.ensure_future(scenario.handled())
    await scenario_clock(scenario.state).advance(1.5)
    client = await asking
    assert (client.status, client.headers[b"x-gatepass-attempts"]) == (200, b"2")


# --- the next target


BUSY = TransportFault(Fault.TIMEOUT_POOL, "busy", sent=False)


@pytest.mark.parametrize(
    ("replies", "tokens", "requests"),
    [
        pytest.param([unreached()], [], 1, id="no byte was written"),
        pytest.param([stale(sent=False), unreached()], [], 2, id="a reused connection closed before a write"),
        pytest.param([BUSY], [], 1, id="every connection is busy"),
        pytest.param([], [None], 0, id="no token"),
    ],
)
async def test_next_target_is_tried_if_the_first_received_nothing(replies, tokens, requests):
    first, second = Upstream(*replies), Upstream()
    client = await Scenario(first, second, holder=Holder(*tokens) if tokens else None).handled()
    assert (client.status, len(first.came), len(second.came)) == (200, requests, 1)
    assert client.headers.get(b"x-gatepass-attempts") == (b"%d" % (requests + 1) if requests else None)


@pytest.mark.parametrize(
    ("replies", "tokens"),
    [
        pytest.param([TransportFault(Fault.CLOSED, "reset")], [], id="the request was written"),
        pytest.param([stale(), unreached()], [], id="the repeat was not, the request before it was"),
        pytest.param([Reply({"error": {"message": "overloaded"}}, 503)], [], id="it was answered"),
        pytest.param([Reply(EXPIRED, 401), unreached()], ["old", "new"], id="the token was renewed"),
        pytest.param([Reply(HIDDEN), unreached()], ["old", "new"], id="the token was renewed after a 200"),
    ],
)
async def test_next_target_is_not_tried_after_a_written_byte(replies, tokens):
    first, second = Upstream(*replies), Upstream()
    client = await Scenario(first, second, holder=Holder(*tokens) if tokens else None).handled()
    assert client.status >= 500
    assert (len(first.came), second.came) == (len(replies), [])
    assert not tokens or first.tokens == tokens


async def test_next_target_is_not_tried_after_a_failed_renewal():
    first, second, holder = Upstream(takes=set()), Upstream(), Holder("old")
    holder.down = True
    client = await Scenario(first, second, holder=holder).handled()
    assert (client.status, len(first.came), second.came) == (503, 1, [])


async def test_a_pool_that_is_busy_is_an_error_of_gatepass_to_the_last_target():
    upstream = Upstream(BUSY)
    scenario = Scenario(upstream)
    with pytest.raises(Overloaded, match="max_connections"):
        await scenario.ask()
    assert (scenario.attempt.sent, scenario.requests) == (False, 1)


# --- the wait for a connection


async def test_token_that_expires_during_the_wait_is_replaced_and_the_request_counts_once():
    upstream, holder = Upstream(), Holder("old")
    upstream.queue = asyncio.Event()
    scenario = Scenario(upstream, holder=holder)
    asking = asyncio.create_task(scenario.ask())
    await asyncio.sleep(0)
    holder.held = Holder("new").held
    upstream.queue.set()
    await asking
    assert (upstream.tokens, scenario.requests) == (["new"], 1)


async def test_token_that_expires_during_the_wait_without_a_successor_sends_nothing():
    first, second, holder = Upstream(), Upstream(), Holder("old")
    first.queue = asyncio.Event()
    asking = asyncio.create_task(Scenario(first, second, holder=holder).handled())
    await asyncio.sleep(0)
    holder.held = None
    first.queue.set()
    client = await asking
    assert (client.status, first.came, len(second.came)) == (200, [], 1)
    assert b"x-gatepass-attempts" not in client.headers


# --- the parts of one embeddings call


def vectors(count: int) -> Call:
    return a_call(json.dumps({"model": "m", "input": [str(at) for at in range(count)]}).encode(), EMBEDDINGS)


async def test_parts_share_one_renewal_and_each_is_repeated_once():
    upstream, holder = Upstream(takes={"new"}), Holder("old", "new", "third")
    scenario = Scenario(upstream, holder=holder, rules={"split": 1})
    answer = await scenario.ask(vectors(4))
    assert isinstance(answer, BufferedReply)
    assert [entry["embedding"] for entry in json.loads(answer.body)["data"]] == [[0.0], [1.0], [2.0], [3.0]]
    assert (sorted(upstream.tokens), holder.fetches) == (["new"] * 4 + ["old"] * 4, 1)
    assert scenario.requests == 8


class Revoking(Upstream):
    """Accepts the first of `tokens`, `times` times, then only the next one."""

    def __init__(self, *tokens: str, times: int) -> None:
        super().__init__()
        self._valid = deque(text for text in tokens for _ in range(times))

    async def send(self, request: OutboundRequest, times: object = None) -> Response:
        self.came.append(request)
        is_valid = bool(self._valid) and self._valid[0] == self.token_of(request)
        if is_valid:
            self._valid.popleft()
        await asyncio.sleep(0)
        return Reply(good(request)) if is_valid else Reply(EXPIRED, 401)


async def test_a_token_that_ends_twice_during_a_call_is_renewed_for_the_parts_that_were_not_sent_again():
    upstream, holder = Revoking("new", "third", times=5), Holder("old", "new", "third")
    scenario = Scenario(upstream, holder=holder, rules={"split": 1})
    answer = await scenario.ask(vectors(10))
    assert isinstance(answer, BufferedReply)
    assert len(json.loads(answer.body)["data"]) == 10
    assert (holder.fetches, holder.in_vain) == (2, [])
    assert max(Counter(request.body for request in upstream.came).values()) == 2


async def test_a_part_that_was_sent_again_and_is_refused_again_passes_its_401_through():
    upstream, holder = Revoking("new", "none", times=4), Holder("old", "new", "third", "fourth")
    scenario = Scenario(upstream, holder=holder, rules={"split": 1})
    with pytest.raises(UpstreamAuth, match="token expired") as raised:
        await scenario.ask(vectors(10))
    assert raised.value.case == "rejected_token"
    assert (holder.fetches, "fourth" in upstream.tokens) == (2, False)
    assert set(holder.in_vain) == {(scenario.attempt.user(), scenario.attempt.call.caller)}
    assert max(Counter(request.body for request in upstream.came).values()) == 2


@pytest.mark.parametrize("status", [200, 401])
async def test_a_401_states_why_the_token_was_not_renewed(status):
    upstream, holder = Upstream(Reply(HIDDEN if status == 200 else EXPIRED, status)), Holder("old", None)
    with pytest.raises(UpstreamError) as raised:
        await Scenario(upstream, holder=holder).ask()
    assert " ago: the reason. " in raised.value.message


async def test_each_part_repeats_its_own_stale_connection():
    upstream = Upstream(*(stale() for _ in range(4)))
    scenario = Scenario(upstream, rules={"split": 1})
    assert isinstance(await scenario.ask(vectors(4)), BufferedReply)
    assert scenario.requests == 8
