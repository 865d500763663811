from __future__ import annotations

import pytest

from gatepass.sse.chunk import MAX_CHOICES
from gatepass.sse.repair import MAX_MOVED_BYTES
from tests.memory import traced_memory
from tests.unit.sse.repair_streams import ROLE, STOP, USAGE, deltas, new_repair, repaired
from tests.unit.sse.streams import chunk, data

EMPTY = ("repair=choices",)
FILTER = [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False}}}]
AZURE_FIRST = {"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": FILTER}
"""Azure's first chunk (mentat#429, autogen#6465)."""


# --- choices --------------------------------------------------------------------------------------


def test_first_chunk_of_azure_moves_into_the_one_that_has_choices():
    assert repaired(AZURE_FIRST, ROLE, STOP) == ([ROLE | {"prompt_filter_results": FILTER}, STOP], EMPTY)


def test_extras_that_no_choices_follow_come_at_the_end():
    out, adapted = repaired(ROLE, STOP, chunk(None, citations=["u"]))
    assert (out, adapted) == ([ROLE, STOP, chunk(None, citations=["u"])], EMPTY)


def test_extras_and_usage_at_the_end_come_in_one_chunk():
    payload = [ROLE, STOP | {"usage": USAGE}, chunk(None, citations=["u"])]
    out, _ = repaired(*payload, include_usage=True)
    assert out == [ROLE, STOP | {"usage": None}, chunk(None, citations=["u"], usage=USAGE)]


def test_extras_beside_an_unrequested_usage_are_not_lost():
    out, adapted = repaired(ROLE, STOP, chunk(None, usage=USAGE, citations=["u"]))
    assert (out, adapted) == ([ROLE, STOP, chunk(None, citations=["u"])], ("repair=usage", "repair=choices"))


def test_deferred_members_do_not_replace_those_of_the_chunk():
    out, _ = repaired(chunk(None, citations=["old"], x=1), ROLE | {"citations": ["new"]})
    assert out == [ROLE | {"citations": ["new"], "x": 1}]


def test_large_members_without_choices_are_sent_in_place():
    large = chunk(None, x="x" * MAX_MOVED_BYTES)
    assert repaired(large, ROLE) == ([large, ROLE], ())


def test_endless_members_without_choices_are_bounded():
    many = [chunk(None) | {f"x_{number}": "x" * 1000} for number in range(200)]
    out, _ = repaired(*many, ROLE)
    assert 100 < len(out) < 150
    assert {name for one in out for name in one if name.startswith("x_")} == {f"x_{number}" for number in range(200)}


@pytest.mark.parametrize(
    "nothing",
    [
        {},
        {"type": "ping"},
        {"event": "ping"},
        {"code": 0, "data": True},
        {"code": "200", "msg": "ok", "data": {}},
        chunk(None),
        chunk(None) | {"choices": None},
        chunk(None, usage=None),
        chunk(None, obfuscation="xyz", citations=[], x=None),
        {"object": "chat.completion.chunk"},
        {"choices": "x"},
    ],
)
def test_empty_chunk_is_left_out(nothing):
    assert repaired(ROLE, nothing, STOP) == ([ROLE, STOP], EMPTY)


@pytest.mark.parametrize("missing", [None, "absent"])
def test_usage_without_a_list_of_choices_gets_an_empty_one(missing):
    payload = chunk(None, usage=USAGE) | {"choices": None}
    if missing:
        del payload["choices"]
    assert repaired(ROLE, STOP, payload, include_usage=True) == ([ROLE, STOP, chunk(None, usage=USAGE)], EMPTY)


BOOM = {"code": 102, "message": "boom", "data": None}


@pytest.mark.parametrize(
    "foreign", [{"type": "status", "text": "searching"}, {"event": {"type": "status"}}, {"data": 1}, [1], 7, BOOM]
)
def test_event_that_is_not_a_chunk_is_relayed(foreign):
    assert repaired(ROLE, foreign, STOP) == ([ROLE, foreign, STOP], ())


def test_choices_that_are_not_objects_are_unchanged():
    payload = chunk(None) | {"choices": [None, 7]}
    assert repaired(ROLE, payload, STOP) == ([ROLE, payload, STOP], ())


def test_choices_without_index_get_their_places():
    payload = chunk(None) | {"choices": [{"delta": {"content": part}, "finish_reason": None} for part in "ab"]}
    out, adapted = repaired(payload)
    assert [choice["index"] for choice in out[0]["choices"]] == [0, 1]
    assert adapted == ("repair=index",)


def test_more_choices_than_any_answer_has_share_one_state():
    repair = new_repair()
    for index in range(MAX_CHOICES):
        repair.feed(data(chunk({"role": "assistant", "content": "a"}, index=index)))
    with traced_memory() as memory:
        for index in range(MAX_CHOICES, 2 * MAX_CHOICES):
            repair.feed(data(chunk({"role": "assistant", "content": "a"}, index=index)))
    assert memory.kept_bytes < 100 * MAX_CHOICES


# --- id, object, created, model -------------------------------------------------------------------


def without(payload, *names):
    return {name: value for name, value in payload.items() if name not in names}


@pytest.mark.parametrize("name", ["id", "object", "created", "model"])
@pytest.mark.parametrize("is_there", [True, False])
def test_missing_envelope_members_are_copied_from_the_first_chunk(name, is_there):
    poor = STOP | {name: None} if is_there else without(STOP, name)
    out, adapted = repaired(ROLE, poor)
    assert (out, adapted) == ([ROLE, STOP], ("repair=envelope",))


def test_envelope_members_that_no_chunk_has_are_not_made_up():
    payload = [without(ROLE, "id", "created"), without(STOP, "id", "created")]
    assert repaired(*payload) == (payload, ())


def test_envelope_member_of_the_second_chunk_is_copied_to_the_third():
    payload = [without(ROLE, "model"), chunk({"content": "a"}), without(STOP, "model")]
    out, _ = repaired(*payload)
    assert out == [payload[0], payload[1], STOP]


def test_different_ids_stay():
    payload = [ROLE | {"id": "a"}, chunk({"content": "x"}) | {"id": "b"}, STOP | {"id": "c"}]
    assert repaired(*payload) == (payload, ())


# --- wrapped chunks, whole completions ------------------------------------------------------------


def wrapped(payload):
    return {"code": 0, "msg": "ok", "data": payload}


def test_wrapped_chunks_are_unwrapped_and_the_last_empty_one_is_left_out():
    out, adapted = repaired(*(wrapped(one) for one in (ROLE, chunk({"content": "a"}), STOP)), {"code": 0, "data": True})
    assert out == [ROLE, chunk({"content": "a"}), STOP]
    assert adapted == ("repair=wrapped", "repair=choices")


def test_wrapped_chunk_with_other_defects_is_repaired_whole():
    out, _ = repaired(wrapped(ROLE), wrapped(chunk({"role": "assistant", "content": "a"}, "")))
    assert out == [ROLE, chunk({"content": "a"})]


WHOLE = {
    **{name: ROLE[name] for name in ("id", "created", "model")},
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": USAGE,
}


@pytest.mark.parametrize("include_usage", [True, False, None])
def test_whole_completion_in_one_event_becomes_its_deltas(include_usage):
    out, adapted = repaired(WHOLE, include_usage=include_usage)
    assert deltas(out) == [{"role": "assistant", "content": ""}, {"content": "Hi"}, {}]
    assert [one["usage"] for one in out if not one["choices"]] == ([USAGE] if include_usage is not False else [])
    assert {one["object"] for one in out} == {"chat.completion.chunk"}
    assert adapted == ("repair=message",)


def test_whole_completion_that_calls_itself_a_chunk_or_is_wrapped_becomes_its_deltas():
    for payload in (WHOLE | {"object": "chat.completion.chunk"}, wrapped(WHOLE)):
        out, _ = repaired(payload)
        assert deltas(out)[1] == {"content": "Hi"}


def test_usage_after_a_whole_completion_is_not_sent_again():
    out, _ = repaired(WHOLE, chunk(None, usage=USAGE), include_usage=True)
    assert [one["usage"] for one in out if not one["choices"]] == [USAGE]


def test_second_whole_completion_repeats_the_first_and_adds_nothing():
    out, _ = repaired(WHOLE, WHOLE)
    assert deltas(out) == [{"role": "assistant", "content": ""}, {"content": "Hi"}, {}, {}]


def test_messages_that_are_pieces_of_an_answer_are_its_deltas():
    """Chunks with the `object` of a completion: only the last one has a finish reason."""
    payload = [{**WHOLE, "choices": [{"index": 0, "message": {"content": text}}]} for text in ("Hel", "lo ", "world")]
    out, adapted = repaired(*({name: one[name] for name in one if name != "usage"} for one in payload), STOP)
    assert deltas(out) == [{"content": "Hel"}, {"content": "lo "}, {"content": "world"}, {}]
    assert [choice.get("finish_reason") for one in out for choice in one["choices"]] == [None, None, None, "stop"]
    assert adapted == ("repair=message",)


def test_message_after_a_role_is_the_answer():
    repair = new_repair()
    repair.feed(b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n')
    payload = repair.feed(b'data: {"choices":[{"index":0,"finish_reason":null,"message":{"content":"Hi"}}]}\n\n')
    assert b'"delta":{"content":"Hi"}' in payload


def test_message_after_a_numeric_finish_reason_is_the_answer():
    """Found by the fuzzer: every part accepts only a text as a finish reason."""
    repair = new_repair()
    repair.feed(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":123456789012345678901}]}\n\n')
    payload = repair.feed(b'data: {"choices":[{"index":0,"finish_reason":null,"message":{"content":"Hi"}}]}\n\n')
    assert b'"delta":{"content":"Hi"}' in payload
