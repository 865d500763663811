from __future__ import annotations

import pytest

from gatepass.sse.event_stream import Progress
from gatepass.sse.usage import Usage
from tests.memory import traced_memory


def choice(index=0, finish=None, **more):
    return {"index": index, "delta": {}, "finish_reason": finish, **more}


def noted(*events):
    progress = Progress()
    for choices in events:
        progress.note({}, choices)
    return progress


@pytest.mark.parametrize(
    ("events", "asked", "expected"),
    [
        ([], 1, False),
        ([[]], 1, False),
        ([[choice()]], 1, False),
        ([[choice(finish="stop")]], 1, True),
        ([[choice(finish="stop")]], 2, False),
        ([[choice(finish="stop")], [choice(1)]], 1, False),
        ([[choice(finish="stop"), choice(1, "length")]], 2, True),
        ([[choice(finish="")]], 1, False),
        ([[choice("x", "stop")]], 1, True),
        ([[choice(True)], [choice(0, "stop")]], 1, True),
        ([["odd", None], [choice(finish="stop")]], 1, True),
        ([[{"delta": {}}], [choice(finish="stop")]], 1, True),
        ([[choice(5000)], [choice(-3, "stop")]], 1, True),
    ],
)
def test_stream_is_complete_with_all_seen_and_requested_choices(events, asked, expected):
    assert noted(*events).is_complete(asked) is expected


def test_indices_without_end_take_no_memory():
    progress = noted(*([choice(index)] for index in range(2000)))
    with traced_memory() as memory:
        for index in range(2000, 20_000):
            progress.note({}, [choice(index, "stop")])
    assert memory.kept_bytes < 10_000


def test_event_with_only_text_is_distinguished_from_one_with_more():
    progress = Progress()
    assert progress.note({"usage": None}, [choice(3)])
    assert not progress.note({"usage": {"total_tokens": 3}}, [choice()])
    assert not progress.note({}, [choice(finish="stop")])
    assert not progress.note({}, [])
    assert progress.usage == Usage(total_tokens=3)


def test_whole_completion_is_whole_reply_only_before_the_first_piece_of_one():
    whole = {"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}
    assert Progress().is_whole_reply([whole])
    assert not Progress().is_whole_reply([whole, choice()])
    assert not Progress().is_whole_reply([{**whole, "delta": {}}])
    assert not Progress().is_whole_reply(["odd"])
    assert not Progress().is_whole_reply([{"index": 0, "text": "completions have neither"}])
    assert not noted([choice()]).is_whole_reply([whole])
