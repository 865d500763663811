"""One request alone goes without a lesson past its time, and what is told of that."""

from gatepass.adapt.applied import Applied
from gatepass.adapt.learned import Subject
from gatepass.adapt.lesson import HOUR_S, Lesson
from gatepass.adapt.memory import Memory
from gatepass.adapt.probe import Probe
from tests.unit.adapt.calls import CHAT, a_call

SYNTH, TEMPERATURE = Lesson("stream", "synth"), Lesson("drop", "temperature")
O3 = Subject("chat", "o3-mini", "chat")
LESSONS = {(O3, lesson.key): Applied(lesson, proven=True) for lesson in (TEMPERATURE, SYNTH)}
KEY = (O3, SYNTH.key)
STREAMED = a_call(b'{"model":"m","messages":[],"stream":true}', CHAT, stream=True)
WHOLE = a_call(b'{"model":"m","messages":[]}', CHAT)


def remembered() -> Memory:
    memory = Memory()
    for key, one in LESSONS.items():
        memory.commit(key, one.lesson, "", 0.0)
    return memory


def claimed(memory: Memory) -> Probe:
    probe = Probe.claimed(memory, LESSONS, STREAMED, HOUR_S)
    assert probe is not None
    return probe


def test_one_request_at_a_time_probes_a_lesson_that_is_due_and_concerns_it():
    memory = remembered()
    assert Probe.claimed(memory, LESSONS, STREAMED, HOUR_S - 1) is None
    assert Probe.claimed(memory, LESSONS, WHOLE, HOUR_S) is None
    assert claimed(memory).key == KEY
    assert Probe.claimed(memory, LESSONS, STREAMED, HOUR_S) is None


def test_who_went_through_without_the_lesson_ends_it():
    memory = remembered()
    assert claimed(memory).conclude(HOUR_S) == ("healed", SYNTH)
    assert memory.lesson(KEY) is None


def test_who_needed_the_lesson_after_all_renews_it():
    memory = remembered()
    probe = claimed(memory)
    probe.has_failed = True
    assert probe.conclude(HOUR_S) == ("renewed", SYNTH)
    assert (memory.is_due(KEY, 2 * HOUR_S - 1), memory.is_due(KEY, 2 * HOUR_S)) == (False, True)


def test_of_a_lesson_that_was_forgotten_meanwhile_nothing_is_told():
    memory = remembered()
    probe = claimed(memory)
    memory.forget(KEY)
    assert probe.conclude(HOUR_S) is None


def test_who_has_told_nothing_leaves_the_probe_to_the_next():
    memory = remembered()
    claimed(memory).release()
    probe = claimed(memory)
    probe.release(HOUR_S + 60)
    probe.release()
    assert (memory.is_due(KEY, HOUR_S + 59), memory.is_due(KEY, HOUR_S + 60)) == (False, True)
