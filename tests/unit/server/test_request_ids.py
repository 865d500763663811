"""The names of requests."""

import socket

import pytest

from gatepass.protocols.error_objects import REPLAYED
from gatepass.server.cycle import RequestIds, ids_begin


def test_ids_are_unique_in_a_process_and_differ_between_processes():
    first, second = RequestIds(), RequestIds()
    ids = [ids.of(None) for ids in (first, second) for _ in range(1_000)]
    assert len(set(ids)) == len(ids)
    assert {len(one) for one in ids} == {24}
    assert ids[0][:16] != ids[-1][:16]
    assert {one[:4] for one in ids} == {ids_begin(socket.gethostname())}
    assert len({ids_begin(f"gatepass-{number}") for number in range(10)}) == 10


def test_no_id_has_a_digit_or_a_word_for_which_ragflow_repeats_a_request():
    ids = RequestIds()
    assert not any(REPLAYED.search(ids.of(None)) for _ in range(0x600))
    assert ids.of(None).isalpha()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (b"req_0123", "req_0123"),
        (b"a.b:c-1", "a.b:c-1"),
        (b"a b", None),
        (b"", None),
        (b"x" * 129, None),
        (b"\xff", None),
    ],
)
def test_clients_own_id_is_used_if_it_is_a_plain_word(given, kept):
    name = RequestIds().of(given)
    assert name == kept if kept is not None else name.endswith("bbbbbbbc")
