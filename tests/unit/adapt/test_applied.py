"""The lessons that one request goes by: in which order, which of them it tries, which have helped."""

from gatepass.adapt.applied import Applied, AppliedLessons
from gatepass.adapt.learned import Key, Subject
from gatepass.adapt.lesson import Lesson
from gatepass.adapt.teaching.heard import Heard
from gatepass.call import Complaint
from tests.unit.adapt.calls import CHAT, a_call

O3 = Subject("chat", "o3-mini", "chat")
SYNTH, TEMPERATURE = Lesson("stream", "synth"), Lesson("drop", "temperature")
RENAME = Lesson("rename", "max_tokens", "max_completion_tokens")
CALL = a_call(b'{"model":"m","messages":[],"temperature":1,"stream":true}', CHAT, stream=True)


def key(lesson: Lesson) -> Key:
    return (O3, lesson.key)


def heard(text: str) -> Heard:
    found = Heard.of(CHAT.surface, 400, Complaint(text))
    assert found is not None
    return found


def going_by(*lessons: Lesson, is_own: bool = False) -> AppliedLessons:
    return AppliedLessons({key(lesson): Applied(lesson, proven=False, is_own=is_own) for lesson in lessons})


def test_a_request_that_goes_by_nothing_is_sent_as_it_is():
    assert AppliedLessons().revise(CALL) is CALL


def test_what_concerns_a_request_changes_it_in_the_order_of_the_rules():
    applied = going_by(TEMPERATURE, RENAME, SYNTH)
    assert applied.revise(CALL).adapted == ("stream=synth", "drop=temperature")
    assert applied.used == [key(SYNTH), key(TEMPERATURE)]


def test_a_lesson_is_barred_where_it_is_applied_was_tried_or_is_undone():
    applied = going_by(RENAME)
    back, other = Lesson("rename", "max_completion_tokens", "max_tokens"), Lesson("rename", "max_tokens", "limit")
    assert [applied.bars(key(lesson), lesson) for lesson in (RENAME, back, other, SYNTH)] == [True, True, False, False]
    applied.leave_out([key(RENAME)])
    assert [applied.bars(key(lesson), lesson) for lesson in (RENAME, back, other, SYNTH)] == [True, False, True, False]


def test_another_lesson_about_the_same_takes_the_place_behind_the_others():
    applied = going_by(SYNTH, TEMPERATURE)
    other = Applied(Lesson("stream", "aggregate"), proven=False, is_own=True)
    applied.take(key(SYNTH), other)
    assert list(applied.by_key) == [key(TEMPERATURE), key(SYNTH)]
    assert (applied.own, list(applied.inherited)) == ({key(SYNTH): other}, [key(TEMPERATURE)])


def test_a_change_of_ones_own_has_helped_once_where_the_complaint_is_another():
    applied = going_by(SYNTH, TEMPERATURE, RENAME, is_own=True)
    applied.by_key[key(SYNTH)].evidence = "no stream"
    applied.revise(CALL)
    assert applied.weigh(heard("no stream")) == [key(TEMPERATURE)]
    assert applied.weigh(heard("no stop")) == [key(SYNTH)]
    assert applied.weigh(heard("no stop")) == []
    assert not applied.by_key[key(RENAME)].helped, "it changed nothing of this request"
