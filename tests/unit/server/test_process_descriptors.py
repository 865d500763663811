"""The log of a process without a free file descriptor."""

from gatepass.server.process import AcceptWatch


def test_one_line_a_minute_states_how_often_none_was_free() -> None:
    watch = AcceptWatch()
    reported = [(now_s, count) for now_s in range(130) if (count := watch.failed(now_s)) is not None]
    assert reported == [(0, 1), (60, 60), (120, 60)]
