"""What is left of a stream's body after its last event."""

from __future__ import annotations

from contextlib import suppress

from gatepass.call import Response
from gatepass.errors import TransportFault
from gatepass.runtime import Clock, Tasks, timeout

TAIL_S = 1.0
"""How long an upstream may take to end its body after `[DONE]`, so that its connection can be used again."""


async def let_go(response: Response, tasks: Tasks, clock: Clock) -> None:
    """Be done with a stream of which the last event is here, and close it.

    Nothing but the body's own end is expected behind it, and a connection read to that can be used again: it is
    waited for in one of `tasks`, behind the answer, which is whole without it.
    """
    if response.ended:
        await response.aclose()
    else:
        tasks.spawn(_read_out(response, clock), "tail of a stream")


async def _read_out(response: Response, clock: Clock) -> None:
    try:
        with suppress(TimeoutError, TransportFault):  # then it is closed instead
            await timeout(clock, TAIL_S, response.pour(lambda _: True), TimeoutError())
    finally:
        await response.aclose()
