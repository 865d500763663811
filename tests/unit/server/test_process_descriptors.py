"""When a process checks for a free file descriptor, and when it logs that there is none."""

from gatepass.server.process import AcceptWatch


def test_one_line_a_minute_says_how_often_none_was_free() -> None:
    watch, reported = AcceptWatch(), []
    for tenth in range(1300):
        now_s = tenth / 10
        if watch.is_due(now_s) and (count := watch.failed(now_s)) is not None:
            reported.append((now_s, count))
    assert reported == [(0.0, 1), (60.0, 60), (120.0, 60)]
