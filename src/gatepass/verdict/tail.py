"""What is left of a stream's body after its last event."""

from __future__ import annotations

import asyncio

from gatepass.call import Response
from gatepass.errors import TransportFault

TAIL_S = 1.0
"""How long an upstream may take to end its body after `[DONE]`, so that its connection can be used again."""


async def read_tail(response: Response) -> None:
    """Nothing but the body's own end is expected after `[DONE]`; a connection read to it can be used again."""
    try:
        async with asyncio.timeout(TAIL_S):
            async for _ in response:
                pass
    except (TimeoutError, TransportFault):
        return  # then it is closed instead
