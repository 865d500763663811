from __future__ import annotations

import pytest

from tests.unit.sse.repair_streams import ROLE, STOP, deltas, repaired
from tests.unit.sse.streams import chunk


def choice(**members):
    return chunk(None) | {"choices": [{"index": 0, **members}]}


def test_role_is_sent_once_for_each_choice():
    other = chunk({"role": "assistant", "content": "b"}, index=1)
    out, adapted = repaired(ROLE, chunk({"role": "assistant", "content": "a"}), other, other)
    assert deltas(out) == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        other["choices"][0]["delta"],
        {"content": "b"},
    ]
    assert adapted == ("repair=role",)


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        (["", ""], ["assistant", None]),
        (["assistant", ""], ["assistant", None]),
        (["assistant", "assistant", "assistant"], ["assistant", None, None]),
    ],
)
def test_empty_role_is_repaired_first_and_dropped_later(roles, expected):
    out, adapted = repaired(*(chunk({"role": role, "content": "a"}) for role in roles))
    assert [delta.get("role") for delta in deltas(out)] == expected
    assert adapted == ("repair=role",)


def test_null_role_is_unchanged():
    payload = chunk({"role": None, "content": "a"})
    assert repaired(ROLE, payload) == ([ROLE, payload], ())


def test_first_role_gets_empty_content():
    out, adapted = repaired(chunk({"role": "assistant"}), chunk({"content": "a"}))
    assert (deltas(out), adapted) == ([{"role": "assistant", "content": ""}, {"content": "a"}], ("repair=delta",))


@pytest.mark.parametrize(
    "members", [{"delta": None}, {}, {"delta": "x"}, {"delta": None, "content_filter_offsets": {"a": 1}}]
)
def test_null_delta_becomes_an_empty_one(members):
    out, adapted = repaired(ROLE, choice(finish_reason=None, **members), STOP)
    assert out == [ROLE, choice(finish_reason=None, **members | {"delta": {}}), STOP]
    assert adapted == ("repair=delta",)


def test_text_of_a_legacy_completion_needs_no_delta():
    payload = choice(text="a", finish_reason=None)
    assert repaired(payload, payload) == ([payload, payload], ())


def test_empty_finish_reason_is_null():
    out, adapted = repaired(ROLE, chunk({"content": "a"}, ""), STOP)
    assert (out, adapted) == ([ROLE, chunk({"content": "a"}), STOP], ("repair=finish",))


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter", "tool_calls", None])
def test_finish_reason_is_kept(reason):
    payload = chunk({"content": "a"}, reason)
    assert repaired(ROLE, payload) == ([ROLE, payload], ())


CALL = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}


@pytest.mark.parametrize(
    ("reason", "expected"), [("stop", "tool_calls"), ("length", "length"), ("tool_calls", "tool_calls")]
)
def test_finish_reason_after_tool_calls(reason, expected):
    out, adapted = repaired(ROLE, chunk({"tool_calls": [CALL]}), chunk({}, reason))
    assert out[-1]["choices"][0]["finish_reason"] == expected
    assert adapted == (("repair=finish",) if reason != expected else ())


def test_tool_calls_of_one_choice_do_not_change_the_end_of_another():
    payload = [ROLE, chunk({"tool_calls": [CALL]}), chunk({"content": "a"}, index=1), chunk({}, "stop", index=1)]
    assert repaired(*payload) == (payload, ())


# --- message in place of delta --------------------------------------------------------------------


def test_messages_that_come_piece_by_piece_are_deltas():
    parts = [choice(message={"role": "assistant", "content": part}, finish_reason=None) for part in "ab"]
    out, adapted = repaired(*parts, STOP)
    assert deltas(out) == [{"role": "assistant", "content": "a"}, {"content": "b"}, {}]
    assert adapted == ("repair=message", "repair=role")


def test_message_after_deltas_repeats_them_and_adds_nothing():
    out, adapted = repaired(ROLE, chunk({"content": "ab"}), choice(message={"content": "ab"}, finish_reason="stop"))
    assert out == [ROLE, chunk({"content": "ab"}), choice(delta={}, finish_reason="stop")]
    assert adapted == ("repair=message",)


@pytest.mark.parametrize(
    ("foreign", "expected"), [("eos", "stop"), ("max_tokens", "length"), ("SAFETY", "content_filter")]
)
def test_foreign_finish_reason_becomes_one_that_clients_know_and_stays_beside_it(foreign, expected):
    out, adapted = repaired(ROLE, chunk({}, foreign))
    (last,) = out[-1]["choices"]
    assert (last["finish_reason"], last["native_finish_reason"]) == (expected, foreign)
    assert adapted == ("repair=finish",)
