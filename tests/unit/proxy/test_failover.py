"""The way of requests over the targets of a model: every slot comes back, whatever ends an attempt and wherever."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace as changed

from gatepass.auth.caller import Caller
from gatepass.config.model import Config
from gatepass.errors import ClientGone, Limited, UpstreamConnect, UpstreamErrorReply
from gatepass.http_client.tls import TLSContexts
from gatepass.policy.balancing import NoTarget, Standing, TargetHealth
from gatepass.policy.breaker import BreakerSettings
from gatepass.protocols.operations import match_operation
from gatepass.proxy.app_state import MOST_MODELS, AppState, Place, create_app_state, next_app_state
from gatepass.proxy.context import ANONYMOUS
from gatepass.proxy.failover import Failover
from gatepass.proxy.retry import Outcome
from gatepass.tokens import Token
from gatepass.types import ClientRequest, UpstreamErrorBody
from tests.unit.clock import DrivenClock
from tests.unit.normalize.calls import a_call
from tests.unit.proxy.test_attempt_retries import BODY, Holder, Reply, Scenario, Upstream, unreached
from tests.unit.proxy.test_ends import STREAMED, VECTORS, LeavingClient, Stream, a_request, leave, serve, stop

NAMES = ("east", "west", "north")
POLICY: dict[str, Any] = {
    "retry": {"on": ["refused", "may_have_run"], "operations": ["chat", "embeddings"]},
    "breaker": {"failures": 2},
}


def targets(*names: str) -> dict[str, Any]:
    return {"targets": [{"upstream": name} for name in names]}


def a_config(models: dict[str, Any], **upstream: Any) -> Config:
    upstreams = {name: {"base_url": f"http://{name}.example/v1", **upstream} for name in NAMES}
    return Config.model_validate({"upstreams": upstreams, "models": models})


def a_state(models: dict[str, Any], **upstream: Any) -> AppState:
    return create_app_state(a_config(models, **upstream), DrivenClock())


def clock_of(state: AppState) -> DrivenClock:
    assert isinstance(state.clock, DrivenClock)
    return state.clock


def a_place() -> Place:
    return Place(ANONYMOUS.identity, float, lambda: None)


def a_failover(state: AppState, model: str = "m", caller: str = "caller") -> Failover:
    call = changed(a_call(BODY, model=model), caller=caller)
    request = ClientRequest("id", "POST", "/v1/chat/completions", (), "127.0.0.1", state.clock.now())
    return Failover.begin(state, state.routes.route("chat", model), call, request, ANONYMOUS, a_place)


def choose(failover: Failover, now_s: float) -> NoTarget | None:
    """Return the result of `failover.choose`, which waits for nothing without limits."""
    try:
        failover.choose(now_s).send(None)
    except StopIteration as end:
        return cast("NoTarget | None", end.value)
    raise AssertionError("it waits")


def waits(failover: Failover) -> bool:
    return failover.place is not None and failover.place not in failover.queue.holding


def health(state: AppState, upstream: str, name: str = "m") -> TargetHealth:
    return state.upstreams[upstream].state.healths[name]


def reply(status: int, wait_s: float | None = None, message: str = "no") -> UpstreamErrorReply:
    body = UpstreamErrorBody(message)
    return UpstreamErrorReply(message, upstream="east", status=status, retry_after_s=wait_s, error_body=body)


def eject(state: AppState, upstream: str, name: str = "m") -> None:
    breaker, now_s = health(state, upstream, name).breaker, state.clock.now()
    while breaker.ejected_s is None:
        breaker.end(now_s, BreakerSettings(), now_s, failed=True, is_probe=False)


# --- any sequence of requests

ENDS: dict[str, tuple[Outcome, BaseException | None]] = {
    "complete": (Outcome.COMPLETE, None),
    "429 for 5 s": (Outcome.ERROR_REPLY, reply(429, 5.0)),
    "429 for 1,000 s": (Outcome.ERROR_REPLY, reply(429, 1_000.0)),
    "429": (Outcome.ERROR_REPLY, reply(429)),
    "429 for its size": (Outcome.ERROR_REPLY, reply(429, 5.0, "Request too large for gpt-4o")),
    "503 for 2 s": (Outcome.ERROR_REPLY, reply(503, 2.0)),
    "500": (Outcome.ERROR_REPLY, reply(500)),
    "refused": (Outcome.CONNECTION_FAILED, UpstreamConnect("refused", upstream="east", sent=False)),
    "400": (Outcome.ERROR_REPLY, reply(400)),
    "a rejected token": (Outcome.TOKEN_REJECTED, reply(401)),
    "the client left": (Outcome.CLIENT_GONE, ClientGone("left")),
    "stopped": (Outcome.DRAINED, asyncio.CancelledError()),
}
ASKED_S = {"429 for 5 s": 5.0, "429 for 1,000 s": 1_000.0, "503 for 2 s": 2.0}


class Machine(RuleBasedStateMachine):
    """Requests of three models that share targets: two with a policy and a breaker, one with neither."""

    def __init__(self) -> None:
        super().__init__()
        balanced = {**targets(*NAMES), **POLICY, "policy": "least_in_flight"}
        models = {"m": {**targets(*NAMES), **POLICY}, "balanced": balanced, "plain": targets("east", "west")}
        for entry in models.values():
            for target in entry["targets"]:
                target["name"] = "m"
        self.config = a_config(models, max_in_flight=2)
        self.clock = DrivenClock()
        self.state = create_app_state(self.config, self.clock)
        self.open: list[tuple[Failover, str]] = []
        self.limited_until_s = dict.fromkeys(NAMES, 0.0)
        self.asked_until_s = dict.fromkeys(NAMES, 0.0)
        for model in models:
            a_failover(self.state, model)

    def choose(self, failover: Failover) -> None:
        """Begin an attempt and check the choice."""
        now_s, route = self.clock.now(), failover.route
        has_policy = route.breaker is not None
        names = [route.targets[at].upstream for at in failover.order]
        healths = {name: health(self.state, name) for name in names}
        usable = [name for name in names if not (has_policy and self.limited_until_s[name] > now_s)]
        admitted = [name for name in usable if not has_policy or healths[name].breaker.until_s <= now_s]
        is_first = not failover.tried
        busy = {name: len(self.state.upstreams[name].state.queue.holding) for name in names}
        if (why := choose(failover, now_s)) is not None:
            assert (why, usable) == (NoTarget.WAITS, [])
            error = failover.unavailable(now_s)
            assert isinstance(error, Limited)
            assert error.retry_after_s == min(self.asked_until_s[name] for name in names) - now_s
            return
        chosen = failover.target.upstream
        self.open.append((failover, chosen))
        assert chosen in (admitted or usable)
        if is_first:
            not_full = [name for name in admitted or usable if busy[name] < 2]
            assert chosen in (not_full or admitted or usable)

    @rule(model=st.sampled_from(("m", "balanced", "plain")))
    def begin(self, model: str) -> None:
        self.choose(a_failover(self.state, model))

    @precondition(lambda self: self.open)
    @rule(how=st.sampled_from(list(ENDS)), then=st.sampled_from(("over", "repeat", "same")), data=st.data())
    def end(self, how: str, then: str, data: st.DataObject) -> None:
        failover, name = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        now_s = self.clock.now()
        failover.ended(now_s, *ENDS[how], was_asked=True)
        if how in ASKED_S and failover.route.breaker is not None:
            until_s = now_s + min(ASKED_S[how], 60.0)
            if until_s > self.limited_until_s[name]:
                self.limited_until_s[name], self.asked_until_s[name] = until_s, now_s + ASKED_S[how]
        if then == "same":
            is_held = not waits(failover)
            failover.repeat(now_s)
            assert is_held == (not waits(failover)), "a repeat at the same target keeps its place"
            self.open.append((failover, name))
            return
        failover.leave()
        if then == "repeat":
            self.choose(failover)

    @rule(by_s=st.sampled_from((0.5, 2.0, 5.0, 29.0, 31.0, 60.0)))
    def wait(self, by_s: float) -> None:
        self.clock.suspend(by_s)

    @rule()
    def reload(self) -> None:
        successor = next_app_state(self.config, TLSContexts(self.state.tls_contexts), self.state)
        self.state.hand_over(successor)
        self.state = successor

    @invariant()
    def each_attempt_has_its_slots(self) -> None:
        at = Counter(name for _, name in self.open)
        since_s = self.clock.now() - 30.0  # after the time of an ejection there may be another probe
        probes = Counter(name for failover, name in self.open if failover.is_probe and failover.began_s > since_s)
        for name in NAMES:
            one, queue = health(self.state, name), self.state.upstreams[name].state.queue
            assert (one.in_flight, len(queue.holding) + len(queue.waiting)) == (at[name], at[name])
            assert len(queue.holding) == min(2, at[name])
            until_s = self.limited_until_s[name], self.asked_until_s[name]
            assert (one.limited_until_s, one.asked_until_s) == until_s
            assert probes[name] <= 1
            assert (one.breaker.probe_since_s or 0.0) <= since_s or probes[name]

    def teardown(self) -> None:
        """Once all requests have ended and all times are over, each target is available."""
        for failover, _ in self.open:
            failover.ended(self.clock.now(), Outcome.CLIENT_GONE, None, was_asked=True)
            failover.leave()
        self.open = []
        self.each_attempt_has_its_slots()
        later_s = self.clock.now() + 1_000
        for name in NAMES:
            one = health(self.state, name)
            assert one.standing(later_s, BreakerSettings(), has_cooldown=True) is Standing.FREE


TestFailover = Machine.TestCase


# --- callers


def homes(state: AppState) -> dict[str, str]:
    """Return the upstream that each of 300 callers prefers."""
    found = {}
    for caller in (f"caller-{at}" for at in range(300)):
        failover = a_failover(state, caller=caller)
        found[caller] = failover.route.targets[failover.order[0]].upstream
    return found


def test_callers_are_spread_over_regions_that_have_the_model_under_one_name():
    before = homes(state := a_state({"m": {**targets("east", "west"), "policy": "least_in_flight"}}))
    counts = Counter(before.values())
    assert min(counts["east"], counts["west"]) > 100

    config = a_config({"m": {**targets("west", "east"), "policy": "weighted"}})
    assert homes(next_app_state(config, TLSContexts(state.tls_contexts), state)) == before


# --- stored objects

EVERYONE = Caller("all", "all")


def way_of(state: AppState, method: str, path: str, caller: str = "caller", *, names_stored: bool = False) -> Failover:
    operation = match_operation(method, path).operation
    call = changed(a_call(b"{}", operation), caller=caller, names_stored=names_stored)
    request = ClientRequest("id", method, path, (), "127.0.0.1", 0.0)
    return Failover.begin(state, state.routes.route(operation.configured_as, "m"), call, request, EVERYONE, a_place)


@pytest.mark.parametrize(
    ("method", "path", "names_stored", "is_pinned"),
    [
        ("POST", "/v1/responses", True, True),
        ("POST", "/v1/responses", False, False),
        ("GET", "/v1/responses/resp_1", False, True),
        ("POST", "/v1/files", False, True),
        ("POST", "/v1/batches", False, True),
    ],
)
def test_a_request_for_a_stored_object_stays_at_one_target(method, path, names_stored, is_pinned):
    retry = {"retry": {"on": ["refused"]}}
    for policy in ("order", "weighted", "least_in_flight"):
        state = a_state({"m": {**targets("east", "west"), **retry, "policy": policy}})
        ways = [way_of(state, method, path, f"caller-{at}", names_stored=names_stored) for at in range(8)]
        assert {len(one.order) for one in ways} == {1 if is_pinned else 2}
        assert {one.may_repeat for one in ways} == {not is_pinned}
        if is_pinned:  # a file is at the first target, an answer at that of its caller
            assert {one.order[0] for one in ways} == ({0, 1} if "responses" in path and policy != "order" else {0})
    alone = way_of(a_state({"m": targets("east", "west")}), method, path, names_stored=names_stored)
    assert len(alone.order) == (1 if is_pinned else 2)


def test_conversations_and_requests_for_a_stored_response_go_where_the_caller_began_them():
    state = a_state({"m": {**targets("east", "west"), "policy": "weighted"}})

    def preferred(method: str, path: str) -> list[int]:
        return [way_of(state, method, path, f"caller-{at}").order[0] for at in range(20)]

    made = preferred("POST", "/v1/responses")
    assert {*made} == {0, 1}
    for method, rest in (
        ("POST", ""),
        ("GET", "/r"),
        ("DELETE", "/r"),
        ("POST", "/r/cancel"),
        ("GET", "/r/input_items"),
    ):
        assert preferred(method, f"/v1/responses{rest}") == made
    for path in ("messages", "chat/completions", "completions"):
        assert preferred("POST", f"/v1/{path}") == made
    one_caller = {way_of(state, "POST", "/v1/embeddings").order[0] for _ in range(50)}
    assert one_caller == {0, 1}, "a cache of prompts helps no vector"


# --- what is not configured, a reload, and models that share a target


def test_a_model_of_which_nothing_is_counted_has_no_failover():
    assert a_state({"m": {"upstream": "east"}}).routes.route("chat", "m").is_plain
    assert not a_state({"m": {"upstream": "east"}}, max_in_flight=2).routes.route("chat", "m").is_plain


NAMED_M, NAMED_A = ({"targets": [{"upstream": at, "name": name} for at in ("east", "west")]} for name in ("m", "gpt-a"))
BIG = {"targets": [{"upstream": "east", "name": "big"}, {"upstream": "west"}], **POLICY}
WAITS, FREE = ["waits", "available"], ["available", "available"]
SHARED: dict[str, tuple[dict[str, Any], str, dict[str, list[str]]]] = {
    "models of one name, with a cool-down and without": (
        {"m": {**NAMED_M, **POLICY}, "alone": {"targets": NAMED_M["targets"][:1], **POLICY}, "plain": NAMED_M},
        *("m", {"m": WAITS, "alone": ["available"], "plain": FREE}),
    ),
    "a pattern, and an entry that names its model": (
        {"fast": {**NAMED_A, **POLICY}, "gpt-*": {**targets("east", "west"), **POLICY}},
        *("fast", {"gpt-a": WAITS, "gpt-b": FREE}),
    ),
    "a pattern whose target names the model": ({"*": BIG}, "a", {"b": WAITS}),
}
"""The models, the one that gets a 429 with a wait at its first target, and the states of the targets of others."""


def words_of(failover: Failover, now_s: float) -> list[str]:
    route = failover.route
    return [one.state(now_s, route.breaker, has_cooldown=route.has_cooldown)[0] for one in failover.healths]


@pytest.mark.parametrize(("models", "limited", "states"), SHARED.values(), ids=SHARED)
def test_models_that_share_a_target_share_its_wait(models, limited, states):
    state = a_state(models)
    failover, now_s = a_failover(state, limited), state.clock.now()
    choose(failover, now_s)
    failover.ended(now_s, Outcome.ERROR_REPLY, reply(429, 5.0), was_asked=True)
    others = {model: a_failover(state, model) for model in states}
    assert {model: words_of(one, now_s) for model, one in others.items()} == states
    for model, one in others.items():
        assert choose(one, now_s) is None
        assert one.target.upstream == ("west" if states[model] == WAITS else "east")


@pytest.mark.parametrize("how", ["429 for 5 s", "503 for 2 s", "500", "refused"])
@pytest.mark.parametrize("policy", ["order", "least_in_flight"])
def test_what_keeps_one_model_of_a_pattern_away_leaves_the_others(how: str, policy: str, caplog):
    caplog.set_level("INFO", "gatepass.targets")
    settings = {**targets("east", "west"), **POLICY, "policy": policy}
    state = a_state({"*": settings, "gpt-*": settings})
    now_s = state.clock.now()
    for model, pattern in (("gpt-a", "gpt-*"), ("other", "*")):
        for name in ("east", "west"):
            for _ in range(2):
                failover = a_failover(state, model)
                failover.at, failover.began_s = [one.upstream for one in failover.route.targets].index(name), now_s
                failover.repeat(now_s)
                assert health(state, name, pattern).in_flight == 1
                failover.ended(now_s, *ENDS[how], was_asked=True)
        words = {one: words_of(a_failover(state, one), now_s) for one in (model, f"{model}-2")}
        kept = "waits" if how in ASKED_S else "ejected"
        assert words == {model: [kept] * 2, f"{model}-2": ["available"] * 2}
        shown = [word for route, _, _, (word, _) in state.targets() if route.entry == pattern]
        assert shown == [kept] * 2
    assert {record.__dict__["fields"]["target"] for record in caplog.records} == {
        f"{name}/{model}" for name in ("east", "west") for model in ("gpt-a", "other")
    }


def test_an_upstream_knows_a_bounded_number_of_models_of_patterns():
    state = a_state({"*": {**targets("east", "west"), **POLICY}})
    for at in range(MOST_MODELS + 5):
        a_failover(state, f"invented-{at}")
        a_failover(state, "used")
    known = state.upstreams["east"].state.of_models
    assert (len(known), "invented-5" in known, "used" in known) == (MOST_MODELS, False, True)


class SlowLimits:
    """The limits of upstreams, while whose store answers the targets in `limited` get a 429."""

    def __init__(self, state: AppState, limited: Sequence[str]) -> None:
        self.state, self.limited = state, limited
        self.taken: list[str] = []

    async def take_target(self, upstream: str, _now_s: float) -> None:
        for name in self.limited:
            health(self.state, name).limit(_now_s, 60.0)
        self.repeat_target(upstream, _now_s)

    def repeat_target(self, upstream: str, _now_s: float) -> None:
        self.taken.append(upstream)

    def leave_target(self, *_: object, sent: bool) -> None:
        assert not sent
        self.taken.pop()


@pytest.mark.parametrize(("busy", "chosen"), [(("east",), ["west"]), (("east", "west"), [])])
async def test_an_attempt_uses_the_limits_of_the_upstream_that_gets_it(busy, chosen):
    state = a_state({"m": {**targets("east", "west"), **POLICY}})
    failover, limits = a_failover(state), SlowLimits(state, busy)
    failover.admitted = cast("Any", limits)
    assert (await failover.choose(state.clock.now()) is None) is bool(chosen)
    assert limits.taken == chosen
    failover.repeat(state.clock.now())
    assert limits.taken[len(chosen) :] == [failover.target.upstream]


def test_the_error_without_the_target_of_a_stored_object_says_nothing_of_the_others():
    state = a_state({"m": {**targets("east", "west"), **POLICY}})
    failover = a_failover(state)
    failover.order = failover.order[:1]
    health(state, "east").limit(state.clock.now(), 60.0)
    assert choose(failover, state.clock.now()) is NoTarget.WAITS
    message = failover.unavailable(state.clock.now()).message
    assert message.startswith("The target of the model 'm' for the object that the request names asked to wait")


def test_a_wait_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gatepass.targets")
    state = a_state({"m": {**targets("east", "west"), **POLICY}})
    both, now_s = [a_failover(state), a_failover(state)], state.clock.now()
    for failover in both:
        choose(failover, now_s)
    for failover, end in zip(both, ("429 for 5 s", "429 for 1,000 s"), strict=True):
        failover.ended(now_s, *ENDS[end], was_asked=True)
    clock_of(state).suspend(60.0)
    failover = a_failover(state)
    choose(failover, state.clock.now())
    failover.ended(state.clock.now(), *ENDS["503 for 2 s"], was_asked=True)
    shown = [(record.getMessage(), record.__dict__["fields"]) for record in caplog.records]
    assert shown == [("target_waits", {"target": "east/m", "wait_s": wait_s}) for wait_s in (5, 2)]


def test_each_request_of_a_model_adds_to_its_budget_alone():
    state = a_state({"m": {**targets("east", "west"), **POLICY}, "other": {**targets("east"), **POLICY}})

    def sent(model: str) -> int:
        budget, count = a_failover(state, model).budget, 0
        assert budget is not None
        while budget.allows_repeat(state.clock.now()):
            budget.add(is_repeat=True)
            count += 1
        return count

    assert sent("m") == 30
    for model in ["m"] * 200 + ["other"] * 500:
        a_failover(state, model)
    assert sent("m") == 10


# --- a request from its head to its end


def limited(wait_s: int, **error: str) -> Reply:
    refusal = SlowReply({"error": {"message": "no", **error}}, 429)
    refusal.headers = (*refusal.headers, (b"retry-after", b"%d" % wait_s))
    return refusal


class SlowReply(Reply):
    async def __aiter__(self):
        await asyncio.sleep(0)
        yield self._body


class SlowHolder(Holder):
    def current(self) -> Token | None:
        return None

    async def token(self, instead_of: str | None) -> Token:
        await asyncio.sleep(0)
        return await super().token(instead_of)


class SlowClient(LeavingClient):
    async def write(self, data: bytes, *, last: bool = False) -> None:
        await asyncio.sleep(0)
        await super().write(data, last=last)


def failing(*statuses: int) -> Upstream:
    return Upstream(*(SlowReply({"error": {"message": "no"}}, status) for status in statuses))


ONE = targets("chat")
CASES: dict[str, tuple[Callable[[], tuple[list[Upstream], Holder | None, bytes, dict[str, Any]]], int, set[str]]] = {
    "a repeat after a pause": (
        lambda: ([Upstream(limited(2))], None, BODY, ONE),
        200,
        {"_move", "sleep", "classify"},
    ),
    "a repeat at the next target": (lambda: ([Upstream(limited(2)), Upstream()], None, BODY, {}), 200, {"send"}),
    "a wait for a token": (lambda: ([failing(500)], SlowHolder("t"), BODY, ONE), 200, {"wait_for_token", "sleep"}),
    "a rejected token": (lambda: ([Upstream(takes={"new"})], Holder("old", "new"), BODY, ONE), 200, {"renew_token"}),
    "a stream": (lambda: ([Upstream(Stream()), Upstream()], None, STREAMED, {}), 200, {"_relay_stream"}),
    "a 500 three times": (lambda: ([failing(500, 500), failing(500)], None, BODY, {}), 500, {"_move", "classify"}),
    "no connection": (
        lambda: ([Upstream(*[unreached()] * 9), Upstream(*[unreached()] * 9)], None, BODY, {}),
        502,
        {"_move"},
    ),
    "a split call": (
        lambda: ([failing(200, 429), Upstream()], None, VECTORS, {"rules": {"split": 2}}),
        200,
        {"send_parts"},
    ),
}


async def run(case: str, act: Callable[[LeavingClient, asyncio.Task[None]], None], turns: int, *, probes: bool):
    """Serve the request of `case` as `serve` does. Return the client and what was awaited.

    With `probes` its attempts are the probes of their targets.
    """
    upstreams, holder, body, model = CASES[case][0]()
    state = Scenario(*upstreams, holder=holder, **{**POLICY, **model}).state
    a_failover(state)
    if probes:
        for target in state.routes.route("chat", "m").targets:
            eject(state, target.upstream)
        clock_of(state).suspend(30.0)
    client = SlowClient(body)
    path = "/v1/embeddings" if body is VECTORS else "/v1/chat/completions"
    _, names = await serve(a_request(state, body, path), state, client, act, turns)
    return client, names


@pytest.mark.parametrize(("act", "probes"), [(leave, False), (stop, True)], ids=["leave", "stop probes"])
@pytest.mark.parametrize("case", CASES)
async def test_a_request_that_is_cancelled_at_any_await_gives_every_slot_back(case, act, probes):
    met = set[str]()
    for turns in range(1, 300):
        client, names = await run(case, act, turns, probes=probes)
        if names is None:
            assert (client.status, met >= CASES[case][2]) == (CASES[case][1], True)
            return
        met |= names
    raise AssertionError("the request did not end")
