"""A fake ParserConnection that records the cycles of a parser."""

from __future__ import annotations

from gatepass.server.cycle import HttpRequestCycle


class CycleRecorder:
    """Serves no cycle and writes nothing."""

    is_write_paused = closes_after_response = False
    connected_before_drain = True
    gave_up = False

    def __init__(self) -> None:
        self.cycles: list[HttpRequestCycle] = []
        self.holds = 0

    def hold_head(self, size_bytes: int) -> None:
        pass

    def begin_cycle(self, cycle: HttpRequestCycle) -> None:
        self.cycles.append(cycle)

    def abort(self) -> None:
        pass

    def last_cycle(self) -> HttpRequestCycle:
        return self.cycles[-1]

    def pause_reading(self) -> None:
        self.holds += 1

    def common_fields(self) -> bytes:
        raise AssertionError("a parser writes nothing")

    def resume_reading(self) -> None:
        raise AssertionError("a parser is fed")

    def send(self, data: bytes) -> None:
        raise AssertionError(f"a parser writes nothing: {data!r}")

    def send_all(self, pieces: list[bytes]) -> None:
        raise AssertionError(f"a parser writes nothing: {pieces!r}")

    def send_batched(self, response: bytes) -> None:
        raise AssertionError(f"a parser writes nothing: {response!r}")

    async def wait_writable(self) -> None:
        raise AssertionError("a parser writes nothing")

    def set_caller(self, caller: str) -> None:
        raise AssertionError("a parser authenticates no caller")

    def response_complete(self) -> None:
        raise AssertionError("a parser answers nobody")
