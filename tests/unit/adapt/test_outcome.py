"""Which error is shown in the end, and what it says of what was tried."""

import pytest

from gatepass.adapt.applied import Applied
from gatepass.adapt.learned import Key, Subject
from gatepass.adapt.lesson import Lesson
from gatepass.adapt.outcome import UNHEARD, LeftOut, Outcome, entries, is_elsewhere
from gatepass.adapt.teaching.heard import Heard
from gatepass.call import Complaint, Surface
from gatepass.errors import UpstreamClosed, UpstreamRefusal, UpstreamTimeout

O3 = Subject("chat", "o3-mini", "chat")
SYNTH, TEMPERATURE = Lesson("stream", "synth"), Lesson("drop", "temperature")


def refusal(message: str) -> UpstreamRefusal:
    return UpstreamRefusal(message, upstream="chat", status=400)


FIRST, SECOND, LAST = refusal("no stream"), refusal("no temperature"), refusal("no stop")
LEFT_OUT_KEY = (O3, SYNTH.key)


def own(*, has_first_helped: bool = True, has_second_helped: bool = True) -> dict[Key, Applied]:
    first = Applied(SYNTH, False, "no stream", is_own=True, helped=has_first_helped, answered=FIRST)
    second = Applied(TEMPERATURE, False, "no temperature", is_own=True, helped=has_second_helped, answered=SECOND)
    return {(O3, one.lesson.key): one for one in (first, second)}


def heard(text: str) -> Heard:
    found = Heard.of(Surface.CHAT, 400, Complaint(text))
    assert found is not None
    return found


def left_out() -> LeftOut:
    found = LeftOut()
    found.add({LEFT_OUT_KEY: Applied(SYNTH, False, "no stream")}, FIRST)
    found.add({}, SECOND)
    return found


def test_where_all_has_helped_the_last_error_tells_what_is_left():
    found = Outcome.of(own(), LeftOut(), heard("no stop"), LAST)
    assert found == Outcome(LAST, ("stream=synth", "drop=temperature"))


@pytest.mark.parametrize("said", [None, heard("boom")], ids=["broken", "refused"])
def test_the_error_before_the_first_change_that_failed_is_shown(said):
    tried = own(has_second_helped=False)
    (_, failed) = tried
    found = Outcome.of(tried, LeftOut(), said, LAST)
    assert found == Outcome(SECOND, ("stream=synth",), vain={failed: tried[failed]})


def test_a_complaint_that_comes_back_brings_the_first_error_back():
    tried = own()
    (failed, _) = tried
    found = Outcome.of(tried, LeftOut(), heard("no stream"), LAST)
    assert found == Outcome(FIRST, (), vain={failed: tried[failed]})


def test_what_should_not_have_been_left_out_brings_its_error_back():
    found = Outcome.of({}, left_out(), heard("no stream"), LAST)
    assert found == Outcome(FIRST, ("stream=synth",), needed=(LEFT_OUT_KEY,))


@pytest.mark.parametrize("said", [None, heard("no stop")], ids=["broken", "refused"])
def test_what_was_left_out_rightly_says_nothing(said):
    assert Outcome.of({}, left_out(), said, LAST) == Outcome(LAST, ())


@pytest.mark.parametrize("kind", UNHEARD, ids=lambda kind: kind.__name__)
def test_an_upstream_that_said_nothing_says_nothing_of_the_form(kind):
    more = {"phase": "first_byte"} if kind is UpstreamTimeout else {}
    assert is_elsewhere(None, None, None, kind("Silent.", upstream="chat", **more))


@pytest.mark.parametrize(
    ("status", "complaint", "said", "expected"),
    [
        (400, Complaint("no stream"), heard("no stream"), False),
        (400, Complaint("filtered"), None, True),
        (400, None, None, False),
        (401, None, None, True),
        (429, Complaint("slow down"), None, True),
        (500, Complaint("boom"), None, False),
        (None, None, None, False),
    ],
)
def test_a_status_of_the_clients_kind_that_teaches_nothing_is_about_something_else(status, complaint, said, expected):
    assert is_elsewhere(status, complaint, said, UpstreamClosed("x", upstream="chat")) is expected


def test_lessons_are_named_as_the_client_sees_them():
    assert entries(own(), list(own())) == ("stream=synth", "drop=temperature")
