from gatepass.sse.progress import Progress
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
