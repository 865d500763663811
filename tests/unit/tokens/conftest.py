"""A token endpoint for one source."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from gatepass.tokens import TokenSource, build_source
from tests.unit.clock import DrivenClock
from tests.unit.tokens.scripted import Answer, ScriptedIssuer


class Endpoint(ScriptedIssuer):
    """Gives the replies of `answers` in order, the last one for ever; without any a new token that lives 300 s."""

    def answers(self, *replies: Answer) -> None:
        self.replies, self.otherwise = deque(replies), replies[-1]

    def source(self, settings: Any, name: str = "corp") -> TokenSource:
        return build_source(name, settings, self, self.clock)


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint(DrivenClock())
