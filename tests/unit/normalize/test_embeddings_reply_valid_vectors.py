"""The quick check of an embeddings reply."""

import json
from typing import Any

import pytest

from gatepass.errors import UpstreamInvalid
from gatepass.normalize.embeddings_reply import COUNTED_BYTES, PARSED_BYTES, has_valid_vectors
from gatepass.types import EmbeddingsOptions
from tests.unit.normalize.calls import merge_replies

LONG = ", ".join(["-0.0123"] * 1536)


def reply(*vectors: str) -> bytes:
    listed = ", ".join(f'{{"index": {at}, "embedding": {vector}}}' for at, vector in enumerate(vectors))
    return f'{{"object": "list", "data": [{listed}], "model": "e"}}'.encode()


def check_refused(reported: bytes, asked: EmbeddingsOptions) -> None:
    assert not has_valid_vectors(reported, asked), reported[:200]
    with pytest.raises(UpstreamInvalid):
        merge_replies([reported], [asked.count], asked, "embed")


MALFORMED = ["1,,2", "1, ,2", "1 2", ",1", "1,", "1;2", "1.2.3", "--1", "+1", "01", ".5", "1.", "1e", "0x1", "1-2"]


def test_numbers_that_are_not_json_are_refused_and_found_at_both_ends_of_a_long_vector():
    for numbers in MALFORMED:
        for at in range(3):
            vectors = ["[1, 2]"] * 3
            vectors[at] = f"[{numbers}]"
            check_refused(reply(*vectors), EmbeddingsOptions(3))
        check_refused(reply(f"[{numbers}]"), EmbeddingsOptions(1))
        check_refused(reply(f"[{LONG}, {numbers}, {LONG}]"), EmbeddingsOptions(1))  # a lone one is read whole
        for written in (f"[{{}}, {LONG}]", f"[{LONG}, {{}}]"):
            vectors = [written.format("1, 2")] * 18
            assert has_valid_vectors(reply(*vectors), EmbeddingsOptions(18))
            vectors[9] = written.format(numbers)
            check_refused(reply(*vectors), EmbeddingsOptions(18))
    assert has_valid_vectors(reply(f"[{LONG}, {LONG}]"), EmbeddingsOptions(1))


@pytest.mark.parametrize("written", ["[{}]", "[ {} ]", "[\n{}\n]"])
@pytest.mark.parametrize("sep", [" ", "  ", "\n", ";", " , , "])
def test_vector_without_commas_is_refused_at_any_length(written: str, sep: str):
    vector = written.format(LONG.replace(", ", sep))
    check_refused(reply(*[vector] * 18), EmbeddingsOptions(18))


@pytest.mark.parametrize("odd", ["[0.123456789012]", "[1, 2, 3]"])
def test_short_vector_of_another_length_is_refused_at_any_position(odd: str):
    vectors = ["[0.5, 1]", odd, "[0.1234567890123456, 0.1234567890123456]"]
    for turned in range(3):
        check_refused(reply(*vectors[turned:], *vectors[:turned]), EmbeddingsOptions(3))


@pytest.mark.parametrize("asked", [EmbeddingsOptions(18), EmbeddingsOptions(18, dimensions=1536)])
@pytest.mark.parametrize("odd", ["[0.5]", f"[{LONG}, {LONG}]"])
def test_one_much_shorter_or_longer_is_refused_among_long_ones(odd: str, asked: EmbeddingsOptions):
    check_refused(reply(*[f"[{LONG}]"] * 9, odd, *[f"[{LONG}]"] * 8), asked)


@pytest.mark.parametrize("vector", [[0.5] * 3000, [1e-7, -2.5e10] * 1000, list(range(2000))])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n  ", " : ")])
@pytest.mark.parametrize("count", [1, 2, 20])
def test_long_vectors_are_right_in_every_notation(vector: Any, separators: tuple[str, str], count: int):
    data = [{"embedding": vector, "index": at} for at in range(count)]
    reported = json.dumps({"data": data, "usage": {"total_tokens": 1}}, separators=separators).encode()
    assert len(reported) > max(PARSED_BYTES, COUNTED_BYTES / 4)
    assert has_valid_vectors(reported, EmbeddingsOptions(count))
    assert not has_valid_vectors(reported, EmbeddingsOptions(count, dimensions=len(vector) + 1))
