from __future__ import annotations

import pytest

from tests.unit.sse.repair_streams import ROLE, STOP, USAGE, repaired
from tests.unit.sse.streams import chunk

ONCE = ("repair=usage",)
ALONE = chunk(None, usage=USAGE)


def text(content, **more):
    return chunk({"content": content}, **more)


def early(number):
    return {"prompt_tokens": 11, "completion_tokens": number, "total_tokens": 11 + number}


def usages(chunks):
    return [(len(one["choices"]), one.get("usage")) for one in chunks]


# --- the client asked for it ----------------------------------------------------------------------


def test_separate_usage_at_the_end_is_unchanged():
    payload = [ROLE | {"usage": None}, text("a", usage=None), STOP, ALONE]
    assert repaired(*payload, include_usage=True) == (payload, ())


def test_usage_in_every_chunk_is_sent_once_and_last():
    payload = [ROLE | {"usage": early(0)}, text("a", usage=early(1)), STOP | {"usage": USAGE}]
    out, adapted = repaired(*payload, include_usage=True)
    assert usages(out) == [(1, None), (1, None), (1, None), (0, USAGE)]
    assert out[-1] == ALONE
    assert adapted == ONCE


def test_usage_in_chunks_and_separately_is_sent_once():
    payload = [ROLE | {"usage": early(0)}, text("a", usage=early(1)), STOP | {"usage": early(2)}, ALONE]
    out, adapted = repaired(*payload, include_usage=True)
    assert (usages(out), adapted) == ([(1, None), (1, None), (1, None), (0, USAGE)], ONCE)


def test_repeated_separate_usage_is_sent_once():
    payload = [ROLE, chunk(None, usage=early(0)), text("a"), STOP, ALONE, chunk(None, usage=early(9))]
    out, adapted = repaired(*payload, include_usage=True)
    assert out == [ROLE, text("a"), STOP, ALONE]
    assert adapted == ("repair=usage", "repair=choices")


def test_early_separate_usage_is_sent_at_the_end():
    out, adapted = repaired(ROLE, chunk(None, usage=USAGE), text("a"), STOP, include_usage=True)
    assert (out, adapted) == ([ROLE, text("a"), STOP, ALONE], ("repair=usage", "repair=choices"))


def test_usage_of_a_stream_that_ends_without_done_is_sent():
    out, _ = repaired(ROLE, STOP | {"usage": USAGE}, include_usage=True, done=False)
    assert usages(out) == [(1, None), (1, None), (0, USAGE)]


# --- the client did not ask for it ----------------------------------------------------------------


@pytest.mark.parametrize("nothing", [None, {}])
def test_empty_usage_is_left_unchanged(nothing):
    payload = [ROLE | {"usage": nothing}, text("a", usage=nothing), STOP]
    assert repaired(*payload) == (payload, ())


def test_usage_beside_the_last_finish_reason_stays():
    payload = [ROLE, text("a"), STOP | {"usage": USAGE}]
    assert repaired(*payload) == (payload, ())


def test_usage_in_every_chunk_is_kept_with_the_last_finish_reason_only():
    payload = [ROLE | {"usage": early(0)}, text("a", usage=early(1)), STOP | {"usage": USAGE}, ALONE]
    out, adapted = repaired(*payload)
    assert out == [ROLE, text("a"), STOP | {"usage": USAGE}]
    assert adapted == ("repair=usage", "repair=choices")


def test_usage_of_two_choices_stays_beside_the_one_that_ends_last():
    payload = [
        ROLE,
        chunk({"content": "b"}, index=1),
        STOP | {"usage": early(1)},
        chunk({}, "stop", index=1, usage=USAGE),
    ]
    out, adapted = repaired(*payload)
    assert usages(out) == [(1, None), (1, None), (1, None), (1, USAGE)]
    assert adapted == ONCE


def test_unrequested_separate_usage_is_dropped():
    assert repaired(ROLE, STOP, ALONE) == ([ROLE, STOP], ("repair=usage", "repair=choices"))


def test_usage_is_unchanged_for_a_client_that_requests_all_of_it():
    payload = [ROLE | {"usage": early(0)}, text("a", usage=early(1)), STOP | {"usage": USAGE}, ALONE]
    assert repaired(*payload, include_usage=None) == (payload, ())
