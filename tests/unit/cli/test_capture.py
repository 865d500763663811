"""`gatepass capture` and `gatepass replay`: their options, and the lines that they print."""

from typing import Any

from gatepass.cli.capture import capture_lines, replay_lines

STATE: dict[str, Any] = {
    "running": True,
    "until": 1763917200.5,
    "left_s": 90.4,
    "model": None,
    "caller": "ragflow",
    "limit_bytes": 1024 * 1024,
}
RESULT: dict[str, Any] = {"id": "replay-1", "status": 200, "ended": True, "bytes": 2, "duration_s": 0.5, "body": "{}"}


def test_what_is_captured_is_a_sentence():
    running = {**STATE, "captured": 3, "held_bytes": 512 * 1024}
    shown, count = capture_lines(running, has_started=False)
    assert shown == (
        "Capturing the bodies of every model and the caller ragflow until 17:00:00 UTC (1 min 30 s),"
        " up to 1.0 MiB in each process."
    )
    assert count == "Captured so far: 3 requests, 512 KiB."
    (line,) = capture_lines({"running": False}, has_started=False)
    assert line.startswith("Nothing is captured.")


def test_a_replay_names_the_changes_that_it_could_not_leave_out():
    result = {**RESULT, "adapted": ["drop=seed", "repair=id"]}
    assert [*replay_lines(result, ("repair=id", "drop=top_p"))] == [
        "Sent again as replay-1: status 200, 2 bytes, 0.50 s.",
        "Changes: drop=seed, repair=id",
        "These changes cannot be left out, because they concern the response: repair=id",
        "{}",
        "`gatepass show replay-1` shows its story.",
    ]


def test_a_replay_that_still_runs_and_a_body_with_control_characters():
    result = {**RESULT, "ended": False, "status": None, "adapted": [], "body": "a\x1b[2Jb\nc"}
    first, second, _ = replay_lines(result)
    assert first == "Sent again as replay-1: no response, it still runs."
    assert second == "a�[2Jb\nc"
