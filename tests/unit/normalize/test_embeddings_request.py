"""Changes of the inputs of embeddings."""

import json

import pytest

from gatepass.errors import InvalidRequest
from gatepass.normalize.embeddings_request import SplitInputs, TextsOnly, has_empty_text, has_token_ids
from gatepass.normalize.rules import FLOAT_VECTORS, apply_changes, normalize
from tests.rows import CHAT, EMBEDDINGS
from tests.unit.normalize.calls import TARGET, a_call


def limit(inputs: object, *changes: SplitInputs) -> int | None:
    call = a_call(json.dumps({"model": "m", "input": inputs}).encode(), EMBEDDINGS)
    changed, _ = apply_changes(call, changes)
    assert changed.body is call.body
    return changed.max_inputs


def test_more_inputs_than_fit_are_split():
    texts = ["a"] * 10
    assert limit(texts, SplitInputs(4)) == 4
    assert limit(texts, SplitInputs(10)) is None
    assert limit(texts, SplitInputs(4), SplitInputs(6)) == 4
    assert limit(texts, SplitInputs(6), SplitInputs(4)) == 4
    assert limit([[1, 2], [3]], SplitInputs(1)) == 1
    assert limit(texts, SplitInputs(37, is_share=True)) == 3
    assert limit(texts, SplitInputs(1, is_share=True)) == 1


def test_a_conversation_has_no_inputs():
    assert apply_changes(a_call(b'{"input":["a","b"]}', CHAT), [SplitInputs(1)])[1] == []


@pytest.mark.parametrize(
    ("body", "has"),
    [
        (b'{"input":[1,2]}', True),
        (b'{"model":"m", "input" : [ [ -1, 2 ] ] }', True),
        (b'{"input":["1"]}', False),
        (b'{"input":[]}', False),
        (b'{"input":"[1]"}', False),
        (b'{"x":{"input":[1]},"input":["a"]}', False),
        (b'{"input":["a"],"input":[1]}', True),
        (b'{"input":["\\"input\\":[1]"]}', False),
    ],
)
def test_token_ids_are_distinguished_from_texts(body, has):
    assert has_token_ids(a_call(body, EMBEDDINGS)) is has
    assert has_token_ids(a_call(body, CHAT)) is False


def test_token_ids_are_refused_with_what_to_do():
    with pytest.raises(InvalidRequest, match="check_embedding_ctx_length=False") as caught:
        normalize(a_call(b'{"input":[1]}', EMBEDDINGS), TARGET, (TextsOnly(),))
    assert caught.value.param == "input"
    for call in (a_call(b'{"input":["a"]}', EMBEDDINGS), a_call(b'{"input":[1]}', CHAT)):
        assert normalize(call, TARGET, (TextsOnly(),)) is call


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ('["a", "", "b"]', True),
        ('[" \\n"]', True),
        ('""', True),
        *((f'"{blank * 16_384}"', True) for blank in (" ", "\\n", 12 * " ")),
        (f'"{" " * 20_000}a"', False),
        ('["a"]', False),
        ('["a, \\"\\", b"]', False),
        ("[[1, 2]]", False),
    ],
)
def test_an_empty_text_in_the_input_is_found(given, found):
    body = f'{{"user":"","model":"m","input":{given},"x":""}}'.encode()
    assert has_empty_text(a_call(body, EMBEDDINGS)) is found


@pytest.mark.parametrize(
    ("members", "sent"),
    [
        ({}, "float"),
        ({"embed_dtype": "float32", "endianness": "little"}, "float"),
        ({"embed_dtype": "float16"}, "base64"),
        ({"endianness": "big"}, "base64"),
        ({"output_dtype": "int8"}, "base64"),
        ({"output_dtype": "float"}, "float"),
    ],
)
def test_base64_of_another_format_of_numbers_is_requested_as_it_is(members, sent):
    call = a_call(json.dumps({"input": ["a"], "encoding_format": "base64", **members}).encode(), EMBEDDINGS)
    changed = normalize(call, TARGET, (FLOAT_VECTORS,))
    assert json.loads(changed.body) == {"input": ["a"], "encoding_format": sent, **members}
    assert (changed is call) is (sent == "base64")


@pytest.mark.parametrize("wanted", ["bytes", "bytes_only"])
def test_a_reply_of_bytes_is_refused_with_what_to_request_instead(wanted):
    call = a_call(json.dumps({"input": ["a"], "encoding_format": wanted}).encode(), EMBEDDINGS)
    with pytest.raises(InvalidRequest, match="Request `base64`") as caught:
        normalize(call, TARGET, (FLOAT_VECTORS,))
    assert caught.value.param == "encoding_format"
