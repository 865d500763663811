"""Whether an upstream answers, and takes the token, as far as its list of models tells."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from gatepass.attempt import explained, send
from gatepass.call import Target
from gatepass.catalog import model_list_request
from gatepass.context import Attempt
from gatepass.doctor.finding import PROVE, Bound, Check, Outcome, place, within
from gatepass.errors import GatepassError, UpstreamAuth, UpstreamHtml, UpstreamRedirect, UpstreamRefusal
from gatepass.gate import Gate, Hop
from gatepass.surface.operations import OPERATIONS
from gatepass.surface.sample import call_of
from gatepass.verdict import judge

LIST_S = 10.0
"""The bound of both questions together, whatever the hop's own timeouts allow: somebody sits in front of this."""

NO_LIST = (404, 405)
"""What a GET /models gets where there is none, and where base_url leads elsewhere."""

BUSY = (408, 429)


async def of_list(gate: Gate, hop: Hop) -> Check:
    """`model_list_request`, which generates nothing and bills nothing; then once more as a stranger."""
    bound = Bound(gate.clock.now(), LIST_S)
    try:
        await within(bound, gate, hop, _listed(gate, hop))
    except GatepassError as error:
        return _unlisted(hop, error)
    if hop.holder is None:
        return Check(place(hop), Outcome.WORKS, "answers; it gets no credential")
    try:
        await within(bound, gate, hop, _listed(gate, replace(hop, holder=None)))
    except GatepassError as error:
        # whether an upstream that answers us refused the same call without our token: by a 4xx or a login page
        is_refusal = isinstance(error, UpstreamRefusal) and 400 <= error.http_status < 500
        if isinstance(error, UpstreamRedirect | UpstreamHtml) or (is_refusal and error.http_status not in BUSY):
            return Check(place(hop), Outcome.WORKS, "answers, and took the token")
        said = f"without the token it is {error.http_status} {error.public_code}, which tells nothing"
    else:
        said = "its model list is open to everybody"
    finding = f"answers; {said}, so whether it takes the token is not proven: {PROVE}"
    return Check(place(hop), Outcome.UNPROVEN, finding)


async def _listed(gate: Gate, hop: Hop) -> None:
    """Returns where `hop` answers well; raises what its answer really is, a refused token in a client's words."""
    models = next(operation for operation in OPERATIONS if operation.name == "models")
    call, target = call_of(models), Target(hop.name)
    attempt = Attempt(gate, hop, target, call)
    request = hop.dialect.encode(call, target, hop.settings.base_url, hop.timeouts)
    try:
        await judge(attempt, await send(attempt, request))
    except UpstreamAuth as refusal:
        raise explained(attempt, refusal) from refusal.__cause__


def _unlisted(hop: Hop, error: GatepassError) -> Check:
    if not isinstance(error, UpstreamRefusal):
        return Check(error.hop, Outcome.FAILS, error.message)
    if error.http_status not in NO_LIST:
        return Check(error.hop, Outcome.FAILS, f"HTTP {error.http_status}: {error.message}")
    path = urlsplit(model_list_request(hop).url).path
    return Check(
        place(hop),
        Outcome.UNPROVEN,
        f"answers, but GET {path} is {error.http_status}: it has no model list, or base_url is wrong,"
        f" so neither base_url nor the token is proven: {PROVE}",
    )
