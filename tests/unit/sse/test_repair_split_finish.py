from __future__ import annotations

import pytest

from gatepass.sse.repair import split_finish
from tests.unit.sse.repair_streams import ROLE, STOP, USAGE, repaired
from tests.unit.sse.streams import chunk


def test_text_beside_a_finish_reason_comes_in_a_chunk_before_it():
    payload = chunk({"content": "a"}, "stop", usage=USAGE, citations=["u"])
    assert split_finish(payload) == (
        chunk({"content": "a"}, usage=None, citations=["u"]),
        chunk({}, "stop", usage=USAGE),
    )


def test_logprobs_stay_with_the_text_and_extras_of_the_choice_go_with_both():
    payload = chunk({"content": "a"}, "stop")
    payload["choices"][0] |= {"logprobs": {"content": []}, "stop_reason": "eos"}
    first, last = split_finish(payload)
    assert first["choices"] == [payload["choices"][0] | {"finish_reason": None}]
    assert last["choices"] == [payload["choices"][0] | {"delta": {}, "logprobs": None}]


def test_only_choices_that_end_are_in_the_second_chunk():
    payload = chunk({"content": "a"}, "stop")
    other = {"index": 1, "delta": {"content": "b"}, "finish_reason": None}
    payload["choices"] += [other, None]
    first, last = split_finish(payload)
    assert (len(first["choices"]), [one["index"] for one in last["choices"]]) == (3, [0])


def test_legacy_text_is_split_too():
    choice = {"index": 0, "text": "a", "finish_reason": "stop", "logprobs": {"tokens": []}}
    first, last = split_finish({"id": "c", "choices": [choice]})
    assert first == {"id": "c", "choices": [choice | {"finish_reason": None}]}
    assert last == {"id": "c", "choices": [{"index": 0, "text": "", "finish_reason": "stop", "logprobs": None}]}


@pytest.mark.parametrize(
    "payload",
    [ROLE, STOP, chunk({"content": "a"}), chunk({"content": ""}, "stop"), chunk({"role": "assistant"}, "stop")],
)
def test_chunk_that_needs_no_split_is_the_same_object(payload):
    assert split_finish(payload) == (payload,)
    assert split_finish(payload)[0] is payload


def test_finish_reason_is_split_only_by_option():
    payload = chunk({"content": "a"}, "stop")
    assert repaired(ROLE, payload) == ([ROLE, payload], ())
    assert repaired(ROLE, payload, splits_finish=True) == ([ROLE, chunk({"content": "a"}), STOP], ("repair=split",))
    assert repaired(ROLE, STOP, splits_finish=True) == ([ROLE, STOP], ())


def test_unasked_usage_goes_with_the_finish_reason():
    out, adapted = repaired(ROLE, chunk({"content": "a"}, "stop", usage=USAGE), splits_finish=True)
    assert [one.get("usage") for one in out] == [None, None, USAGE]
    assert adapted == ("repair=split",)
