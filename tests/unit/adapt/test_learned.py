"""What other processes and people read of a lesson."""

import json

from gatepass.adapt.learned import Learned, Subject
from gatepass.adapt.lesson import HOUR_S, Lesson

OURS = Subject("chat", "o3-mini", "chat", "corp")
SYNTH = Lesson("stream", "synth")
LEARNED_AT, EXPIRES_AT = 1_800_000_000.0, 1_800_003_600.0
LEARNED = Learned(OURS.plain, SYNTH, "learned", "no stream", LEARNED_AT, EXPIRES_AT, uses=1)
ROW = {
    "upstream": "chat",
    "model": "o3-mini",
    "operation": "chat",
    "credential": "",
    "adapted": "stream=synth",
    "state": "learned",
    "evidence": "no stream",
    "learned_at": LEARNED_AT,
    "expires_at": EXPIRES_AT,
    "uses": 1,
    "lesson": {"rule": "stream", "field": "synth", "to": None, "ttl_s": HOUR_S, "by_credential": False},
}


def test_a_subject_keeps_its_credential_only_where_that_matters():
    assert OURS.plain == Subject("chat", "o3-mini", "chat")
    assert (plain := OURS.plain).plain is plain
    assert OURS.of(SYNTH) == OURS.plain
    assert OURS.of(Lesson("stream", "synth", by_credential=True)) == OURS


def test_a_lesson_is_plain_json_for_people_and_processes():
    assert json.loads(json.dumps(LEARNED.as_row())) == ROW
    assert Learned.of_row(ROW) == LEARNED
