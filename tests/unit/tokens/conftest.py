"""A token endpoint for one source."""

from collections import deque
from typing import Any

import pytest

from gatepass.tokens import FetchFailure, TokenSource, build_source
from gatepass.types import OutboundRequest
from tests.unit.clock import DrivenClock
from tests.unit.tokens.scripted import Answer, ScriptedIssuer, failure_of


class Endpoint(ScriptedIssuer):
    """Gives the replies of `answers` in order, the last one for ever; without any a new token that lives 300 s."""

    def answers(self, *replies: Answer) -> None:
        self.replies, self.otherwise = deque(replies), replies[-1]

    def source(self, settings: Any, name: str = "corp") -> TokenSource:
        return build_source(name, settings, self, self.clock)

    async def sent(self, settings: Any, name: str = "corp") -> OutboundRequest:
        """Return the request of one fetch."""
        await self.source(settings, name).fetch()
        return self.requests[-1]

    async def failure(self, settings: Any, *replies: Answer) -> FetchFailure:
        """Return how one fetch fails."""
        if replies:
            self.answers(*replies)
        return await failure_of(self.source(settings).fetch())


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint(DrivenClock())
