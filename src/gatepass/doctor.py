"""`gatepass check --live`: mints each token, calls each upstream, and names the hop that fails.

What was not seen is not claimed: a model list that everybody may read proves no token.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from enum import StrEnum
from urllib.parse import urlsplit

from gatepass.adapt.chain import adapt
from gatepass.adapt.changes.change import Revision
from gatepass.adapt.rerank.shape import Shaped
from gatepass.adapt.rule import Rule
from gatepass.attempt import send
from gatepass.call import Call, Operation, Surface, Target
from gatepass.catalog import model_list_request
from gatepass.config.keeping import ALONE, is_alone
from gatepass.config.model import Config
from gatepass.errors import (
    CallerError,
    GatepassError,
    TokenUnavailable,
    UpstreamError,
    UpstreamHtml,
    UpstreamRedirect,
    UpstreamRefusal,
    UpstreamTimeout,
)
from gatepass.gate import Gate, Hop, build_gate
from gatepass.lessons import Pupil
from gatepass.observe.exchange import Exchange
from gatepass.runtime import Clock, SystemClock, timeout
from gatepass.store.choice import open_store
from gatepass.surface.operations import OPERATIONS
from gatepass.surface.sample import call_of, samples
from gatepass.tokens import Token, TokenHolder
from gatepass.tokens.life import ToldBy
from gatepass.verdict import judge

HOP_S = 10.0
"""The bound of one hop, whatever its own timeouts allow: somebody sits in front of this."""

ANSWER_S = 30.0
"""The bound of a model's answer: some servers load a model when it is first asked."""

NO_LIST = (404, 405)
"""What a GET /models gets where there is none, and where base_url leads elsewhere."""

BUSY = (408, 429)
LEARNED = "(learned from a refusal, as for any client)"
PROVE = "add --model M, with a model that goes there"


class Outcome(StrEnum):
    """As it is printed. UNPROVEN is no failure: the hop answers, and whether it works was not to be seen."""

    WORKS = "ok"
    FAILS = "FAIL"
    UNPROVEN = "????"
    SKIPPED = "skip"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: which hop, whether it works, and what to do where it does not."""

    hop: str
    outcome: Outcome
    finding: str


@dataclass(frozen=True, slots=True)
class Trial:
    """A model to ask for real, at each upstream of its route: one word, and the shortest answer."""

    operation: str
    model: str


async def diagnose(
    config: Config, trial: Trial | None = None, clock: Clock | None = None
) -> AsyncGenerator[Check, None]:
    """All checks of one configuration, each as soon as it is known, credentials first.

    An upstream whose credential failed is not tried, nor is a credential that ends by a try. The upstreams of a
    trial's route get its call, the
    others a GET /models. Raises ModelNotFound where a trial leads nowhere.
    """
    clock = clock or SystemClock()
    gate = build_gate(config, clock, open_store(config.store, None, clock))
    _start(gate)
    without: dict[str | None, str] = {}
    try:
        for name, holder in gate.holders.items():
            check = await _credential(gate, name, holder)
            if check.outcome is not Outcome.WORKS:
                without[name] = "failed" if check.outcome is Outcome.FAILS else "was not tried"
            yield check
        for hop in gate.hops.values():
            if (end := without.get(hop.settings.credential)) is not None:
                yield Check(_place(hop), Outcome.SKIPPED, f"its credential {end}")
                continue
            tries = _tries(gate, hop, trial)
            for trying in tries:
                yield await _answer(gate, hop, trying)
            if not tries:
                yield await _list(gate, hop)
    finally:
        await gate.aclose()


def _start(gate: Gate) -> None:
    """As the gate does it itself, but for holders whose first fetch would cost somebody else his login."""
    gate.snapshot.start()
    gate.lessons.start()
    for name, holder in gate.holders.items():
        if not is_alone(gate.config, name):
            holder.start()


async def _credential(gate: Gate, name: str, holder: TokenHolder) -> Check:
    if is_alone(gate.config, name):
        return Check(f"credential:{name}", Outcome.SKIPPED, ALONE)
    late = TokenUnavailable(f"no token within {HOP_S:g} s, the bound of this check", credential=name)
    try:
        token = await timeout(gate.clock, HOP_S, holder.token(), late)
    except TokenUnavailable as error:
        reason = holder.status().last_error if error is late else None
        return Check(error.hop, Outcome.FAILS, f"{error.message}{f': {reason}' if reason else ''}")
    return Check(f"credential:{name}", Outcome.WORKS, _life(token))


def _life(token: Token) -> str:
    if token.life_s is None:
        return "a key is configured; it does not expire"
    if token.told_by is ToldBy.DEFAULT:
        return f"a token was minted; nothing tells its life, so default_ttl_s counts: {token.life_s:g} s"
    return f"a token was minted; it lives {token.life_s:g} s"


async def _list(gate: Gate, hop: Hop) -> Check:
    """`model_list_request`, which generates nothing and bills nothing; then once more as a stranger."""
    bound = _Bound(gate.clock.now(), HOP_S)
    call, target = call_of(_operation("models")), Target(hop.name)
    try:
        await _asked(gate, hop, call, call, target, bound)
    except GatepassError as error:
        return _unlisted(hop, error)
    if hop.holder is None:
        return Check(_place(hop), Outcome.WORKS, "answers; it gets no credential")
    try:
        await _asked(gate, replace(hop, holder=None), call, call, target, bound)
    except GatepassError as error:
        if _turns_away(error):
            return Check(_place(hop), Outcome.WORKS, "answers, and took the token")
        said = f"without the token it is {error.http_status} {error.public_code}, which tells nothing"
    else:
        said = "its model list is open to everybody"
    finding = f"answers; {said}, so whether it takes the token is not proven: {PROVE}"
    return Check(_place(hop), Outcome.UNPROVEN, finding)


def _unlisted(hop: Hop, error: GatepassError) -> Check:
    if not isinstance(error, UpstreamRefusal):
        return Check(error.hop, Outcome.FAILS, error.message)
    if error.http_status not in NO_LIST:
        return Check(error.hop, Outcome.FAILS, f"HTTP {error.http_status}: {error.message}")
    return Check(
        _place(hop),
        Outcome.UNPROVEN,
        f"answers, but {_shown(hop)} is {error.http_status}: it has no model list, or base_url is wrong,"
        f" so neither base_url nor the token is proven: {PROVE}",
    )


def _shown(hop: Hop) -> str:
    return f"GET {urlsplit(model_list_request(hop).url).path}"


def _turns_away(error: GatepassError) -> bool:
    """Whether an upstream that answers us refused the same call without our token: by a 4xx or a login page."""
    if isinstance(error, UpstreamRedirect | UpstreamHtml):
        return True
    return isinstance(error, UpstreamRefusal) and 400 <= error.http_status < 500 and error.http_status not in BUSY


@dataclass(frozen=True, slots=True)
class _Bound:
    """How long all calls of one check may take together."""

    began_s: float
    bound_s: float

    def used_s(self, clock: Clock) -> float:
        return clock.now() - self.began_s


@dataclass(frozen=True, slots=True)
class _Try:
    """A trial at one target of its route; `calls` in order of what upstreams take most often."""

    what: str
    target: Target
    calls: tuple[Call, ...]


def _tries(gate: Gate, hop: Hop, trial: Trial | None) -> list[_Try]:
    if trial is None:
        return []
    calls = samples(trial.operation, trial.model)
    return [
        _Try(f"{trial.operation} with {target.model or trial.model}", target, calls)
        for target in gate.routes.resolve(trial.operation, trial.model)
        if target.upstream == hop.name
    ]


async def _answer(gate: Gate, hop: Hop, trying: _Try) -> Check:
    bound = _Bound(gate.clock.now(), ANSWER_S)
    try:
        taken = await _first_taken(gate, hop, trying, bound)
    except GatepassError as error:
        said = f"{error.http_status} {error.public_code} after {bound.used_s(gate.clock):.2f} s: {error.message}"
        where = _place(hop) if isinstance(error, CallerError) else error.hop
        return Check(where, Outcome.FAILS, f"{trying.what}: {said}")
    learned = f"; {', '.join(taken.learned)} {LEARNED}" if taken.learned else ""
    said = f"{trying.what}: {taken.status} in {bound.used_s(gate.clock):.2f} s{learned}"
    return Check(_place(hop), Outcome.WORKS, said)


@dataclass(frozen=True, slots=True)
class _Taken:
    """A good answer: its status, and what a refusal before it had taught."""

    status: int
    learned: tuple[str, ...]


async def _first_taken(gate: Gate, hop: Hop, trying: _Try, bound: _Bound) -> _Taken:
    *first, last = trying.calls
    for call in first:
        try:
            return await _taught(gate, hop, call, trying.target, bound, gives_way=True)
        except UpstreamRefusal as refusal:
            if not _bounds_otherwise(refusal):
                raise
    return await _taught(gate, hop, last, trying.target, bound)


def _bounds_otherwise(error: GatepassError) -> bool:
    """Whether another of the calls, which bounds its answer by another member, may be taken."""
    is_refusal = isinstance(error, UpstreamRefusal) and error.http_status < 500
    return is_refusal and "max_tokens" in f"{error.param} {error.message}"


async def _taught(
    gate: Gate, hop: Hop, call: Call, target: Target, bound: _Bound, *, gives_way: bool = False
) -> _Taken:
    """The answer to `call`, again for as long as its refusals teach, as the street does it. Raises what it really is;
    where `call` `gives_way` to another one, the refusal that the other may mend as it came."""
    base = adapt(call, target, _rules(gate, hop, call, target))
    with Pupil(gate, hop, target, base, Exchange.silent()) as pupil:
        await pupil.my_turn()
        while True:
            planned = pupil.plan()
            sent = adapt(planned, target, hop.dialect.rules)
            try:
                status = await _asked(gate, hop, call, sent, target, bound)
            except UpstreamError as error:
                if gives_way and _bounds_otherwise(error):
                    raise
                if pupil.taught(error):
                    continue
                raise pupil.given_up(sent, error) from error.__cause__
            pupil.succeeded()
            learned = tuple(entry for entry in planned.adapted if entry not in base.adapted)
            return _Taken(status, learned)


def _rules(gate: Gate, hop: Hop, call: Call, target: Target) -> tuple[Rule, ...]:
    """Those before any lesson, of a client without a profile."""
    rules = gate.rules_for(call)
    if call.operation.surface is not Surface.RERANK:
        return rules
    return (Revision("rerank", (Shaped(hop.settings.rerank_shape, call.model or target.model),)), *rules)


async def _asked(gate: Gate, hop: Hop, call: Call, sent: Call, target: Target, bound: _Bound) -> int:
    """The status of a good answer to `call`, which is sent as `sent`, had by the street's own pieces; raises the error
    that it really is."""
    said = f"{hop.host} gave no whole answer within {bound.bound_s:g} s, the bound of this check."
    late = UpstreamTimeout(said, upstream=hop.name, phase="total")
    left_s = bound.bound_s - bound.used_s(gate.clock)
    return await timeout(gate.clock, left_s, _judged(gate, hop, call, sent, target), late)


async def _judged(gate: Gate, hop: Hop, call: Call, sent: Call, target: Target) -> int:
    exchange = Exchange.silent()
    timeouts = target.timeouts or hop.timeouts
    response = await send(gate, hop, hop.dialect.encode(sent, target, hop.settings.base_url, timeouts), exchange)
    await judge(gate, call, hop, response, exchange)
    return response.status


def _operation(name: str) -> Operation:
    return next(operation for operation in OPERATIONS if operation.name == name)


def _place(hop: Hop) -> str:
    return f"upstream:{hop.name}"
