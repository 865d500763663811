"""A fake ClientConnection that records the cycles of a parser."""

from gatepass.server.connection import ClientConnection
from gatepass.server.cycle import HttpRequestCycle


class CycleRecorder(ClientConnection):
    """Serves no cycle. It has no transport, so each write fails."""

    def __init__(self) -> None:
        self.cycles: list[HttpRequestCycle] = []

    def hold_head(self, size_bytes: int) -> None:
        pass

    def begin_cycle(self, cycle: HttpRequestCycle) -> None:
        self.cycles.append(cycle)
