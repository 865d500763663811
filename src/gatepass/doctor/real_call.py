"""Whether a model answers: one word, asked for real."""

from __future__ import annotations

from dataclasses import dataclass

from gatepass.adapt.chain import adapt
from gatepass.adapt.profile import Prepared
from gatepass.call import Call, Target
from gatepass.doctor.asking import Bound, asked
from gatepass.doctor.finding import Check, Outcome, place
from gatepass.errors import CallerError, GatepassError, UpstreamError, UpstreamRefusal
from gatepass.gate import Gate, Hop
from gatepass.lessons import Pupil
from gatepass.observe.exchange import Exchange
from gatepass.ranking import rules_at
from gatepass.surface.sample import samples

ANSWER_S = 30.0
"""The bound of a model's answer: some servers load a model when it is first asked."""

LEARNED = "(learned from a refusal, as for any client)"


@dataclass(frozen=True, slots=True)
class Trial:
    """A model to ask for real, at each upstream of its route, as a client of `profile` would: one word, and the
    shortest answer."""

    operation: str
    model: str
    profile: str = "plain"


@dataclass(frozen=True, slots=True)
class Try:
    """A trial at one target of its route; `calls` in order of what upstreams take most often."""

    what: str
    target: Target
    calls: tuple[Call, ...]
    profile: Prepared


def tries_at(gate: Gate, hop: Hop, trial: Trial | None) -> list[Try]:
    if trial is None:
        return []
    calls = samples(trial.operation, trial.model)
    return [
        Try(f"{trial.operation} with {target.model or trial.model}", target, calls, gate.profiles[trial.profile])
        for target in gate.routes.resolve(trial.operation, trial.model)
        if target.upstream == hop.name
    ]


async def of_call(gate: Gate, hop: Hop, trying: Try) -> Check:
    bound = Bound(gate.clock.now(), ANSWER_S)
    try:
        taken = await _first_taken(gate, hop, trying, bound)
    except GatepassError as error:
        said = f"{error.http_status} {error.public_code} after {bound.used_s(gate.clock):.2f} s: {error.message}"
        where = place(hop) if isinstance(error, CallerError) else error.hop
        return Check(where, Outcome.FAILS, f"{trying.what}: {said}")
    learned = f"; {', '.join(taken.learned)} {LEARNED}" if taken.learned else ""
    said = f"{trying.what}: {taken.status} in {bound.used_s(gate.clock):.2f} s{learned}"
    return Check(place(hop), Outcome.WORKS, said)


@dataclass(frozen=True, slots=True)
class _Taken:
    """A good answer: its status, and what a refusal before it had taught."""

    status: int
    learned: tuple[str, ...]


async def _first_taken(gate: Gate, hop: Hop, trying: Try, bound: Bound) -> _Taken:
    *first, last = trying.calls
    for call in first:
        try:
            return await _taught(gate, hop, call, trying, bound, gives_way=True)
        except UpstreamRefusal as refusal:
            if not _bounds_otherwise(refusal):
                raise
    return await _taught(gate, hop, last, trying, bound)


def _bounds_otherwise(error: GatepassError) -> bool:
    """Whether another of the calls, which bounds its answer by another member, may be taken."""
    is_refusal = isinstance(error, UpstreamRefusal) and error.http_status < 500
    return is_refusal and "max_tokens" in f"{error.param} {error.message}"


async def _taught(gate: Gate, hop: Hop, call: Call, trying: Try, bound: Bound, *, gives_way: bool = False) -> _Taken:
    """The answer to `call`, again for as long as its refusals teach, as the street does it. Raises what it really is;
    where `call` `gives_way` to another one, the refusal that the other may mend as it came."""
    target, profile = trying.target, trying.profile
    base = adapt(call, target, rules_at(gate, hop, call, target, profile))
    with Pupil(gate, hop, target, base, Exchange.silent()) as pupil:
        await pupil.my_turn()
        while True:
            planned = pupil.plan()
            sent = adapt(planned, target, hop.dialect.rules)
            try:
                status = await asked(gate, hop, call, sent, target, bound, profile.settings)
            except UpstreamError as error:
                if gives_way and _bounds_otherwise(error):
                    raise
                if pupil.taught(error):
                    continue
                raise pupil.given_up(sent, error) from error.__cause__
            pupil.succeeded()
            learned = tuple(entry for entry in planned.adapted if entry not in base.adapted)
            return _Taken(status, learned)
