"""A connection as its reader sees it: keeps the turns that it is given."""

from __future__ import annotations

from gatepass.server.cycle import Turn


class Desk:
    """Serves nobody and writes nothing."""

    is_full = is_final = False
    is_expected = True

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.holds = 0

    def take(self, turn: Turn) -> None:
        self.turns.append(turn)

    def newest(self) -> Turn:
        return self.turns[-1]

    def hold(self) -> None:
        self.holds += 1

    def common_fields(self) -> bytes:
        raise AssertionError("a reader writes nothing")

    def go_on(self) -> None:
        raise AssertionError("a reader writes nothing")

    def flow(self) -> None:
        raise AssertionError("a reader is fed")

    def send(self, data: bytes) -> None:
        raise AssertionError(f"a reader writes nothing: {data!r}")

    def send_all(self, pieces: list[bytes]) -> None:
        raise AssertionError(f"a reader writes nothing: {pieces!r}")

    def send_whole(self, response: bytes) -> None:
        raise AssertionError(f"a reader writes nothing: {response!r}")

    async def room(self) -> None:
        raise AssertionError("a reader writes nothing")

    def authenticated(self, caller: str) -> None:
        raise NotImplementedError

    def answered(self) -> None:
        raise AssertionError("a reader answers nobody")
