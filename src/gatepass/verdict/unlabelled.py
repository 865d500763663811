"""A reply without a content type, where anything may come: its first bytes tell."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable

from gatepass.attempt import broken
from gatepass.call import Headers, Response
from gatepass.errors import TransportFault
from gatepass.verdict.answer import Answer, Passed
from gatepass.verdict.case import Case
from gatepass.verdict.holding import hold

OPENING_BYTES = 1024
"""White space beyond is taken for the beginning of a file."""

_TEXT = re.compile(rb"""(?:\xef\xbb\xbf)?\s*+(?:\{\s*+["}]|\[\s*+[\[{"\]0-9tfn-]|<[!?A-Za-z])""")
_MAY_BECOME = re.compile(rb"(?:\xef(?:\xbb\xbf?+)?+)?+\s*+(?:[{\[]\s*+|<)?+\Z")


async def pass_unlabelled(case: Case) -> Answer:
    """Sound and pictures pass; what begins like JSON or a page is held and judged, and so is what is empty."""
    beginning = b""
    try:
        async for piece in case.response:
            beginning += piece
            if len(beginning) > OPENING_BYTES or _MAY_BECOME.match(beginning) is None:
                break
    except TransportFault as fault:
        raise broken(case.attempt, fault) from fault
    if not beginning.strip() or _TEXT.match(beginning) is not None:
        return await hold(case, beginning)
    return Passed(case.hop, _Resumed(case.response, beginning))


class _Resumed:
    """A Response of which `beginning` was read already: it comes first once more."""

    def __init__(self, response: Response, beginning: bytes) -> None:
        self._response = response
        self._beginning = beginning

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Headers:
        return self._response.headers

    @property
    def ended(self) -> bool:
        return self._response.ended

    async def __aiter__(self) -> AsyncIterator[bytes]:
        beginning, self._beginning = self._beginning, b""
        if beginning:
            yield beginning
        async for piece in self._response:
            yield piece

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        beginning, self._beginning = self._beginning, b""
        if beginning and not take(beginning):
            return False
        return await self._response.pour(take)

    async def aclose(self) -> None:
        await self._response.aclose()
