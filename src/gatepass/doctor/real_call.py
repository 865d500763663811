"""Whether a model answers: one word, asked for real."""

from __future__ import annotations

from dataclasses import dataclass

from gatepass.adapt.profile import Prepared
from gatepass.call import Call, Target
from gatepass.context import RequestContext
from gatepass.doctor.finding import Bound, Check, Outcome, place, within
from gatepass.errors import CallerError, GatepassError, UpstreamRefusal
from gatepass.gate import Gate, Hop
from gatepass.surface.sample import samples
from gatepass.trial import try_at
from gatepass.verdict import Whole

SERVER_ERROR = 500
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
    """What `trial` asks of `hop`, in the order of its route."""
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
        taken = await within(bound, gate, hop, _first_taken(gate, trying))
    except GatepassError as error:
        said = f"{error.http_status} {error.public_code} after {bound.used_s(gate.clock):.2f} s: {error.message}"
        where = place(hop) if isinstance(error, CallerError) else error.hop
        return Check(where, Outcome.FAILS, f"{trying.what}: {said}")
    status, learned = taken
    taught = f"; {', '.join(learned)} {LEARNED}" if learned else ""
    said = f"{trying.what}: {status} in {bound.used_s(gate.clock):.2f} s{taught}"
    return Check(place(hop), Outcome.WORKS, said)


async def _first_taken(gate: Gate, trying: Try) -> tuple[int, tuple[str, ...]]:
    *first, last = trying.calls
    for call in first:
        try:
            return await _taken(gate, trying, call)
        except UpstreamRefusal as refusal:
            # another of the calls, which bounds its answer by another member, may be taken
            if refusal.http_status >= SERVER_ERROR or "max_tokens" not in f"{refusal.param} {refusal.message}":
                raise
    return await _taken(gate, trying, last)


async def _taken(gate: Gate, trying: Try, call: Call) -> tuple[int, tuple[str, ...]]:
    """The status of a good answer to `call`, and what refusals taught for it; raises what a client would be told."""
    context = RequestContext.of_own(gate, trying.profile)
    answer = await try_at(context, call, trying.target)
    if not isinstance(answer, Whole):
        raise TypeError("no stream was asked for")
    return answer.status, context.attempts[-1].learned
