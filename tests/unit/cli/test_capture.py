"""`gatepass capture`: the lines that it prints."""

from typing import Any

from gatepass.cli.capture import capture_lines
from gatepass.documents import CaptureState

STATE: dict[str, Any] = {
    "running": True,
    "until": 1763917200.5,
    "left_s": 90.4,
    "model": None,
    "caller": "ragflow",
}


def test_what_is_captured_is_a_sentence():
    running = CaptureState(**STATE, captured=3, held_bytes=512 * 1024)
    shown, count = capture_lines(running, has_started=False)
    assert shown == ("Capturing the bodies of every model and the caller ragflow until 17:00:00 UTC (1 min 30 s).")
    assert count == "Captured so far: 3 requests, 512 KiB."
    (line,) = capture_lines(CaptureState(running=False, held_bytes=0, captured=0), has_started=False)
    assert line.startswith("Nothing is captured.")
