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
