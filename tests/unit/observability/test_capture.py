"""Captured bodies: which requests, how many bytes, for how long, and what of them is shown."""

import asyncio
import logging
import threading
from typing import Any

import pytest

from gatepass.errors import Overloaded
from gatepass.observability.capture import (
    BODY_BYTES,
    CUT,
    HELD_BYTES,
    LOST_CHARS,
    MOST_BYTES,
    REQUEST_BYTES,
    Capture,
    CapturedBody,
    CapturedRequest,
    CaptureSettings,
)
from gatepass.observability.observer import AccessRecord, AttemptRecord, Observers, RequestRecord
from gatepass.observability.redaction import Redactor
from gatepass.proxy.in_flight import MemoryBudget
from tests.captured import texts
from tests.unit.clock import DrivenClock

SECRET = "s3cret-of-a-key-0123456789"


class Process:
    def __init__(self, budget_bytes: int = HELD_BYTES) -> None:
        self.clock = DrivenClock()
        self.budget = MemoryBudget(budget_bytes)
        self.failed = list[str]()
        self.observers = Observers([], self.failed.append)
        self.capture = Capture(self.clock, self.budget.hold, self.observers)
        self.redactor = Redactor()
        self.redactor.learn(SECRET)
        self._begun = list[AccessRecord]()

    def start(self, **settings: Any) -> None:
        self.capture.start(CaptureSettings(**settings))

    def begin(
        self, request_id: str, body: bytes = b"{}", *, sent: bytes | None = None, model: str = "m", caller: str = "c"
    ) -> tuple[AccessRecord, AttemptRecord]:
        access = AccessRecord(request_id, "POST", "/v1/chat/completions", "chat", caller=caller, model=model)
        attempt = AttemptRecord(request_id, "chat", model, "chat", access=access)
        self._begun.append(access)
        self.tell("request_body", access, body)
        self.tell("request_sent", attempt, body if sent is None else sent)
        return access, attempt

    def serve(self, request_id: str, body: bytes = b"{}", *replied: bytes, **options: Any) -> None:
        access, attempt = self.begin(request_id, body, **options)
        for piece in replied:
            self.tell("reply_body", attempt, piece)
        self.end(access, attempt)

    def end(self, access: AccessRecord, attempt: AttemptRecord | None) -> None:
        self.tell("request_ended", RequestRecord(access, attempt, 0.0, 0.0, 0.0, None, 0.0), None)

    def tell(self, event: str, *values: Any) -> None:
        self.observers.tell(getattr(self.observers, event), *values)

    def find(self, request_id: str) -> CapturedRequest | None:
        found = (self.capture.of(one) for one in reversed(self._begun) if one.id == request_id)
        return next(filter(None, found), None)

    async def bodies(self, request_id: str) -> Any:
        assert not self.failed
        captured = self.find(request_id)
        return None if captured is None else texts(await captured.bodies(self.redactor))


@pytest.fixture
def process() -> Process:
    return Process()


async def test_the_parts_of_a_split_call_are_all_kept(process):
    process.start()
    access, call = process.begin("id", b"0", sent=b"")
    parts = [AttemptRecord("id", "chat", "m", "chat", access=access) for _ in range(2)]
    for number, part in enumerate(parts):
        process.tell("request_sent", part, b"part %d" % number)
        process.tell("reply_body", part, b"reply %d" % number)
    process.end(access, call)
    found = await process.bodies("id")
    assert (found["sent"], found["replies"][-2:]) == ("part 0\npart 1", ["reply 0", "reply 1"])


@pytest.mark.parametrize(
    ("settings", "kept"),
    [({}, "abc"), ({"model": "m"}, "ab"), ({"caller": "c"}, "ac"), ({"model": "m", "caller": "c"}, "a")],
)
async def test_only_requests_of_the_model_and_the_caller_are_kept(process, settings, kept):
    process.start(**settings)
    process.serve("a", b"{}", b"{}")
    process.serve("b", b"{}", b"{}", caller="d")
    process.serve("c", b"{}", b"{}", model="n")
    assert "".join(one for one in "abc" if process.find(one)) == kept
    assert process.capture.state().captured == len(kept)


async def test_requests_with_one_id_at_the_same_time_keep_their_own_bodies(process):
    process.start(caller="c")
    access, attempt = process.begin("id", b"mine", sent=b"sent")
    process.serve("id", b"theirs", b"their reply", caller="other")
    process.tell("reply_body", attempt, b"my reply")
    process.end(access, attempt)
    assert await process.bodies("id") == {"request": "mine", "sent": "sent", "replies": ["my reply"], "cut": False}
    assert [one.access for one in process.capture.ended()] == [access]


def test_nothing_is_observed_while_nothing_is_captured(process):
    events = ("request_body", "request_sent", "reply_body", "request_ended")
    assert [getattr(process.observers, event) for event in events] == [()] * 4
    process.start()
    assert all(len(getattr(process.observers, event)) == 1 for event in events)
    process.capture.stop()
    assert [getattr(process.observers, event) for event in events] == [()] * 4


async def test_a_capture_ends_by_itself_and_gives_its_memory_back(process, caplog):
    caplog.set_level(logging.INFO, "gatepass.capture")
    process.start(model="m", for_s=60.0)
    process.serve("id", b"x" * 100_000, b"y" * 100_000)
    assert (process.budget.total_bytes, process.capture.held_bytes) == (HELD_BYTES, REQUEST_BYTES + 200_000)
    await process.clock.advance(59.0)
    assert process.capture.state().left_s == 1.0
    await process.clock.advance(1.0)
    assert await process.bodies("id") is None
    assert (process.budget.total_bytes, process.capture.held_bytes) == (0, 0)
    assert process.capture.state().running is False
    assert not process.clock.has_timers
    assert [(record.msg, record.__dict__["fields"]) for record in caplog.records] == [
        ("capture_started", {"model": "m", "for_s": 60.0}),
        ("capture_ended", {"model": "m", "ended_by": "expired", "captured": 1}),
    ]


async def test_another_capture_replaces_the_first(process, caplog):
    caplog.set_level(logging.INFO, "gatepass.capture")
    process.start(model="m", for_s=60.0)
    process.serve("id")
    process.start(model="n", for_s=600.0)
    await process.clock.advance(599.0)
    assert await process.bodies("id") is None
    assert process.capture.state().model == "n"
    process.capture.stop()
    process.capture.stop()
    assert [record.__dict__["fields"].get("ended_by") for record in caplog.records] == [
        None,
        "replaced",
        None,
        "stopped",
    ]
    assert not process.clock.has_timers


async def test_a_request_that_was_in_progress_at_the_end_leaves_nothing(process):
    process.start()
    access, attempt = process.begin("id", b"x" * 100)
    observers = process.observers.reply_body
    process.capture.stop()
    process.observers.tell(observers, attempt, b"late")
    process.capture.request_body(access, b"late")
    process.capture.request_sent(attempt, b"late")
    process.capture.request_ended(RequestRecord(access, attempt, 0.0, 0.0, 0.0, None, 0.0), None)
    assert (process.capture.held_bytes, process.budget.total_bytes) == (0, 0)
    process.start()
    assert process.capture.state().captured == 0


async def test_the_oldest_requests_go_first_and_one_request_keeps_a_part(process):
    process.start()
    for number in range(70):
        process.serve(f"id-{number}", b"x" * BODY_BYTES)
    kept = [number for number in range(70) if process.find(f"id-{number}")]
    assert kept == list(range(70 - HELD_BYTES // (REQUEST_BYTES + BODY_BYTES), 70))
    process.serve("split", *[b"y" * BODY_BYTES] * 2, sent=b"z" * BODY_BYTES)
    access, attempt = process.begin("split", b"y" * BODY_BYTES, sent=b"z" * BODY_BYTES)
    for _ in range(10):
        process.tell("request_sent", attempt, b"z" * BODY_BYTES)
    process.end(access, attempt)
    assert process.find("split").held_bytes == MOST_BYTES
    assert process.capture.held_bytes <= HELD_BYTES == process.budget.total_bytes


@pytest.mark.parametrize("pieces", [[BODY_BYTES + 1], [BODY_BYTES - 1, 2], [10_000] * 60])
async def test_a_long_body_is_cut_and_says_so(process, pieces):
    process.start()
    process.serve("id", b"x" * sum(pieces), *[b"y" * one for one in pieces])
    found, shown_chars = await process.bodies("id"), BODY_BYTES - LOST_CHARS
    assert (found["request"], found["replies"]) == ("x" * shown_chars + CUT, ["y" * shown_chars + CUT])
    assert found["cut"] is True


async def test_a_capture_that_finds_no_memory_is_refused():
    process = Process()
    process.budget.add("c", 1)
    with pytest.raises(Overloaded):
        process.start()
    assert (process.capture.state().running, process.budget.total_bytes) == (False, 1)


async def test_a_secret_is_masked_also_if_two_pieces_or_the_cut_halve_it(process):
    process.start()
    process.serve("id", b'{"key":"%s"}' % SECRET.encode(), b"data: " + SECRET[:9].encode(), SECRET[9:].encode())
    found = await process.bodies("id")
    assert (found["request"], found["replies"]) == ('{"key":"***"}', ["data: ***"])
    for end in (BODY_BYTES, BODY_BYTES - LOST_CHARS):
        for before in (0, 1, len(SECRET) // 2, len(SECRET) - 1, len(SECRET)):
            process.serve("cut", b"", b" " * (end - before) + SECRET.encode() + b" " * BODY_BYTES)
            cut = await process.bodies("cut")
            assert ("s3c" in str(cut), "6789" in str(cut), cut["cut"]) == (False, False, True)


async def test_a_wide_encoding_hides_no_secret(process):
    process.start()
    process.serve("id", b"{}", SECRET.encode("utf-16"))
    assert SECRET not in str(await process.bodies("id"))


async def test_requests_are_served_while_a_body_is_masked(process, monkeypatch):
    served = threading.Event()

    def mask(text: str) -> str:
        assert served.wait(120.0)
        return text

    monkeypatch.setattr(process.redactor, "mask", mask)
    masking = asyncio.create_task(CapturedBody(b"a b").shown(process.redactor))
    await asyncio.sleep(0)
    served.set()
    assert await masking == "a b"
