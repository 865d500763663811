"""Embeddings in several requests, vectors as they were asked for, and the quick check of a reply."""

import json
import struct
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.errors import UpstreamInvalid
from gatepass.normalize.embeddings_reply import (
    COUNTED_BYTES,
    INDEX,
    MOST_BYTES,
    MOST_MEMBERS,
    ORDER,
    PARSED_BYTES,
    usage_of_valid,
)
from gatepass.normalize.embeddings_request import counts_of, split
from gatepass.types import Call, EmbeddingsOptions
from tests.memory import traced_memory
from tests.rows import EMBEDDINGS
from tests.unit.normalize.calls import a_call, merge_replies
from tests.unit.protocols.json_texts import STRINGS, written


def call(inputs: Any, limit: int | None = None) -> Call:
    return a_call(json.dumps({"model": "e", "input": inputs, "user": "é"}).encode(), EMBEDDINGS, max_inputs=limit)


def vectors(*entries: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"object": "list", "data": entries, "model": "e", **more}).encode()


def entry(index: Any = None, embedding: Any = (0.5, -1), **more: Any) -> dict[str, Any]:
    return {**({} if index is None else {"index": index}), "embedding": embedding, **more}


def text(*numbers: float) -> str:
    return b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def answer(replies: Sequence[bytes], counts: Sequence[int], asked: EmbeddingsOptions, upstream: str) -> bytes:
    return merge_replies(replies, counts, asked, upstream)[0]


def fault(*replies: bytes, counts: Any = (1,), asked: EmbeddingsOptions | None = None) -> str:
    with pytest.raises(UpstreamInvalid) as caught:
        answer(replies, counts, asked or EmbeddingsOptions(1), "embed")
    return caught.value.message


def bodies(parts: Any) -> list[dict[str, Any]]:
    return [json.loads(parts[at].body) for at in range(len(parts))]


def inputs(parts: Any) -> list[Any]:
    return [body["input"] for body in bodies(parts)]


def test_a_limit_of_one_sends_plain_strings():
    assert inputs(split(call(["a", "b"], 1))) == ["a", "b"]
    assert inputs(split(call(["a"], 1))) == ["a"]
    assert inputs(split(call([[1, 2], [3]], 1))) == [[1, 2], [3]]


@pytest.mark.parametrize(
    ("given_inputs", "limit"), [(["a", "b"], None), (["a", "b"], 2), ("a", 1), ([1, 2, 3], 1), ([], 1), (None, 1)]
)
def test_call_within_the_limit_is_not_split(given_inputs, limit):
    whole = call(given_inputs, limit)
    assert split(whole) == (whole,)
    assert split(whole)[0] is whole


def test_parts_take_no_room_before_they_are_due():
    whole = call(["x" * 1000] * 500, 1)
    with traced_memory() as memory:
        parts = split(whole)
    assert memory.peak_bytes < len(whole.body)
    assert (len(parts), counts_of(parts, EmbeddingsOptions(500))) == (500, [1] * 500)


@given(st.data(), st.lists(STRINGS, min_size=1, max_size=8), st.integers(1, 5))
def test_parts_hold_all_inputs_once_and_none_too_many(data, texts, limit):
    body = data.draw(written({"a": texts, "input": texts, "model": "e"})).encode()
    parts = split(a_call(body, EMBEDDINGS, max_inputs=limit))
    listed = [part if isinstance(part, list) else [part] for part in inputs(parts)]
    assert [one for part in listed for one in part] == json.loads(body)["input"]
    assert max(len(part) for part in listed) <= limit
    assert counts_of(parts, EmbeddingsOptions(len(texts))) == [len(part) for part in listed]
    assert all(part["a"] == json.loads(body)["a"] for part in bodies(parts))


def test_a_lone_answer_that_is_right_is_the_same_object():
    reply = vectors(entry(0), entry(1), usage={"prompt_tokens": 2})
    assert answer([reply], [2], EmbeddingsOptions(2), "embed") is reply
    assert answer([reply], [2], EmbeddingsOptions(2, dimensions=2), "embed") is reply
    encoded = vectors(entry(0, text(0.5, -1)))
    assert answer([encoded], [1], EmbeddingsOptions(1, base64=True), "embed") is encoded


def test_answers_are_joined_in_order_with_their_places_and_the_sum_of_their_usage():
    first = vectors(
        entry(0, [1]), entry(1, [2]), usage={"prompt_tokens": 3, "total_tokens": 3, "details": {"x": 1}}, id="one"
    )
    second = vectors(entry(0, [3], extra=True), usage={"prompt_tokens": 4, "total_tokens": 4, "details": {"x": 2}})
    assert json.loads(answer([first, second], [2, 1], EmbeddingsOptions(3), "embed")) == {
        "object": "list",
        "data": [entry(0, [1]), entry(1, [2]), entry(2, [3], extra=True)],
        "model": "e",
        "id": "one",
        "usage": {"prompt_tokens": 7, "total_tokens": 7, "details": {"x": 1}},
    }


def test_missing_usage_is_not_added_up():
    mixed = [vectors(entry(0), usage=None), vectors(entry(0), usage={"prompt_tokens": 2, "tier": "a", "b": True})]
    joined = json.loads(answer(mixed, [1, 1], EmbeddingsOptions(2), "embed"))
    assert joined["usage"] == {"prompt_tokens": 2, "tier": "a", "b": True}
    assert (
        json.loads(answer([vectors(entry(0), usage=None)] * 2, [1, 1], EmbeddingsOptions(2), "embed"))["usage"] is None
    )
    assert "usage" not in json.loads(answer([vectors(entry(0))] * 2, [1, 1], EmbeddingsOptions(2), "embed"))


@pytest.mark.parametrize(
    ("places", "order", "names"),
    [
        ((2, 0, 1), (1, 2, 0), (ORDER,)),
        *((places, (2, 1, 0), (ORDER, INDEX)) for places in (("2", "1", "0"), (2.0, 1.0, 0.0))),
        *((places, (0, 1), (INDEX,)) for places in ((None, None), (0, 0), (5, 6), (0, None), ("a", 1))),
        *((places, (0, 1), (INDEX,)) for places in (("0", "1"), (0.0, 1.0))),
    ],
)
def test_indexes_define_the_order_and_what_is_wrong_with_them_is_named(places, order, names):
    reply, count = vectors(*(entry(place, [at]) for at, place in enumerate(places))), len(places)
    joined, reported = merge_replies([reply], [count], EmbeddingsOptions(count), "embed")
    assert json.loads(joined)["data"] == [entry(at, [place]) for at, place in enumerate(order)]
    assert reported == names


@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_bytes_are_swapped_on_a_machine_of_the_other_order(monkeypatch, byteorder):
    monkeypatch.setattr("gatepass.normalize.embeddings_reply.sys.byteorder", byteorder)
    joined = json.loads(answer([vectors(entry(0, [0.5]))], [1], EmbeddingsOptions(1, base64=True), "embed"))
    order = "<" if byteorder == "little" else ">"
    assert joined["data"][0]["embedding"] == b64encode(struct.pack(f"{order}f", 0.5)).decode()


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_there_and_back_is_the_same_vector(numbers):
    there = answer([vectors(entry(0, numbers))], [1], EmbeddingsOptions(1, base64=True), "embed")
    back = json.loads(answer([there], [1], EmbeddingsOptions(1), "embed"))
    assert back["data"][0]["embedding"] == numbers


REWRITTEN = b'{"data":[{"embedding":[0.5]%b}]%b}'
AS_BASE64, OF_256 = EmbeddingsOptions(1, base64=True), EmbeddingsOptions(1, dimensions=256)
FAULTS: list[tuple[tuple[bytes, ...], tuple[int, ...], EmbeddingsOptions, str]] = [
    ((vectors(entry(0)),), (2,), EmbeddingsOptions(2), "the reply has 1 vector for 2 inputs"),
    (
        (vectors(entry(0)), vectors(entry(0), entry(1))),
        (1, 1),
        EmbeddingsOptions(2),
        "the reply has 2 vectors for 1 input",
    ),
    *(
        ((vectors(*map(entry, places)),), (3,), EmbeddingsOptions(3), '"index" contradicts')
        for places in ((1, 0, None), (9, 5, 1), (1, 1, 0), (3, 2, 1))
    ),
    *(
        ((vectors(entry(0, vector)),), (1,), OF_256, "asks for 256 dimensions and a vector has 2")
        for vector in ([0.5, 1], text(0.5, 1))
    ),
    ((vectors(entry(0, [1, None])),), (1,), AS_BASE64, "not a number"),
    *(((vectors(entry(0, [number])),), (1,), AS_BASE64, "beyond float32") for number in (1e39, -1e39)),
    *(
        ((REWRITTEN % parts,), (1,), asked, "the reply is not UTF-8")
        for parts in ((b',"x":"\xff"', b""), (b"", b',"model":"\xff"'))
        for asked in (EmbeddingsOptions(1), AS_BASE64)
    ),
    *(
        ((REWRITTEN % (b"", b',"usage":%b' % odd), *more), counts, asked, 'its "usage" cannot be read')
        for odd in (b"1e999", b"1E400", b"9" * 5000, b'"\xff"', b'{"prompt_tokens":1e999}')
        for more, counts in (((), (1,)), ((vectors(entry(0, [1])),), (1, 1)))
        for asked in (EmbeddingsOptions(len(counts)), EmbeddingsOptions(len(counts), base64=True))
    ),
]


def test_a_fault_of_the_vectors_or_their_usage_is_reported():
    for replies, counts, asked, expected in FAULTS:
        reported = fault(*replies, counts=counts, asked=asked)
        assert reported.startswith("The embeddings of the upstream 'embed' are invalid: "), reported
        assert expected in reported, reported


def test_vectors_above_the_limit_of_a_reply_name_its_setting_and_variable(monkeypatch):
    monkeypatch.setenv("GATEPASS_UPSTREAM_URL", "https://llm.example/v1")
    with pytest.raises(UpstreamInvalid) as caught:
        merge_replies([vectors(entry(0), entry(1))], [2], EmbeddingsOptions(2), "embed", 4)
    assert (caught.value.case, caught.value.of_request) == ("reply_too_large", True)
    assert caught.value.message.endswith(
        "all vectors together are larger than a reply may be (base64 is smaller). Raise limits.reply_bytes"
        " (GATEPASS_LIMITS_REPLY_BYTES), or ask for less in one call."
    )


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (vectors(), "the reply has 0 vectors for 1 input"),
        (b"[]", "the reply is not a JSON object"),
        (b"{", "the reply is not a JSON object"),
        (b'{"data":{}}', 'no list "data"'),
        (b'{"data":[1]}', 'no list "data"'),
        (b'{"data":%b}' % (b"[" * 400_000 + b"]" * 400_000), "the reply is not a JSON object"),
        (vectors({"index": 0}), "an entry has no vector"),
        (vectors(entry(0, None)), "an entry has no vector"),
        (vectors(entry(0, [])), "a vector is empty"),
        (vectors(entry(0, "no base64!")), "not base64"),
        (vectors(entry(0, "é")), "not base64"),
        (vectors(entry(0, b64encode(b"abc").decode())), "something other than float32"),
        (vectors(entry(0, text(float("inf")))), "not finite"),
    ],
)
def test_an_invalid_reply_is_reported(reply, expected):
    assert expected in fault(reply)


@pytest.mark.parametrize(
    "vector", [[None, None], [1, None], [1, True], [False], ["a"], [1, "2"], [[1, 2], 3], [1, [2]], [{}], [1, {"a": 1}]]
)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_vector_that_is_not_of_numbers_is_reported(vector, indent):
    reply = json.dumps({"data": [entry(0, vector)]}, indent=indent).encode()
    assert not usage_of_valid(reply, EmbeddingsOptions(1))
    assert "not a number" in fault(reply)


@pytest.mark.parametrize("asked", [EmbeddingsOptions(2), EmbeddingsOptions(2, base64=True)])
def test_vectors_of_different_lengths_are_reported(asked):
    for other in ([0.5], text(0.5)):
        reply = vectors(entry(0), entry(1, other))
        assert not usage_of_valid(reply, asked)
        assert "one vector has 1 numbers and another 2" in fault(reply, counts=[2], asked=asked)
    assert "one vector has 1 numbers and another 2" in fault(
        vectors(entry(0)), vectors(entry(0, [1])), counts=[1, 1], asked=asked
    )


@pytest.mark.parametrize(
    ("listed", "asked", "expected"),
    [
        ([entry(0), entry(1)], EmbeddingsOptions(2), True),
        ([entry(0, [1e-7, 2.5e10, -3]), entry(1, [1e-7, 2.5e10, -3])], EmbeddingsOptions(2), True),
        ([entry(0), entry(1)], EmbeddingsOptions(2, dimensions=3), False),
        ([entry(0), entry(1)], EmbeddingsOptions(2, base64=True), False),
        ([entry(0), entry(0)], EmbeddingsOptions(2), False),
        ([entry(0, [])], EmbeddingsOptions(1), False),
        ([entry(0, text(0.5))], EmbeddingsOptions(1), False),
    ],
)
def test_a_correct_reply_is_recognised_in_one_pass(listed, asked, expected):
    for indent in (None, 2):
        reply = json.dumps({"object": "list", "data": listed, "model": "e"}, indent=indent).encode()
        assert bool(usage_of_valid(reply, asked)) is expected
        if expected:
            assert answer([reply], [asked.count], asked, "embed") is reply


VECTOR = "0.5," * 200 + "1"


@pytest.mark.parametrize("spelled", ['"embedding"', '"\\u0065mbedding"', '"embedding"' + " " * 99])
@pytest.mark.parametrize("vector", [f"[{VECTOR}]", f'"{text(0.5, 1)}"', "[ ]", f"[{VECTOR}, [1]]", "[12]", "null"])
@pytest.mark.parametrize(
    "beside", ["1", '{"embedding":[12]}', f'[{{"embedding":[{VECTOR}]}}]', '"\\"embedding\\":[1]"']
)
def test_vectors_are_those_of_the_entries_wherever_others_are(spelled, vector, beside):
    entries = (f'{{"x":{beside},{spelled}:{one},"index":{at}}}' for at, one in enumerate((vector, f"[{VECTOR}]")))
    written = f'{{"y":{beside},"data":[{",".join(entries)}],"embedding":{beside}}}'.encode()
    read = json.loads(vector)
    if isinstance(read, list) and len(read) == 201:
        assert answer([written], [2], EmbeddingsOptions(2), "embed") is written
        listed = json.loads(answer([written] * 2, [2, 2], EmbeddingsOptions(4), "embed"))["data"]
        assert [one["embedding"] for one in listed] == [read, json.loads(f"[{VECTOR}]")] * 2
    else:
        check_refused(written, EmbeddingsOptions(2))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (vectors(entry(0), x="x" * MOST_BYTES), "more than 3 MiB beside the vectors of 1 input"),
        (vectors(entry(0), x=[{}] * MOST_MEMBERS), "more than 100000 members and objects"),
        (vectors(*[entry(at, [0.5] * 200_000) for at in range(9)]), "the reply has 2 vectors for 1 input"),
        (vectors(entry(1)).replace(b'"model"', b'"mod\xffel"'), "the reply is not UTF-8"),
    ],
)
def test_a_reply_with_too_much_beside_its_vectors_is_refused(written, expected):
    assert not usage_of_valid(written, EmbeddingsOptions(1))
    assert expected in fault(written)


LONG = ", ".join(["-0.0123"] * 1536)


def reply(*vectors: str) -> bytes:
    listed = ", ".join(f'{{"index": {at}, "embedding": {vector}}}' for at, vector in enumerate(vectors))
    return f'{{"object": "list", "data": [{listed}], "model": "e"}}'.encode()


def check_refused(reported: bytes, asked: EmbeddingsOptions) -> None:
    assert not usage_of_valid(reported, asked), reported[:200]
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
        for form in (f"[{{}}, {LONG}]", f"[{LONG}, {{}}]"):
            vectors = [form.format("1, 2")] * 18
            assert usage_of_valid(reply(*vectors), EmbeddingsOptions(18))
            vectors[9] = form.format(numbers)
            check_refused(reply(*vectors), EmbeddingsOptions(18))
    assert usage_of_valid(reply(f"[{LONG}, {LONG}]"), EmbeddingsOptions(1))


@pytest.mark.parametrize("written", ["[{}]", "[ {} ]", "[\n{}\n]"])
@pytest.mark.parametrize("sep", [" ", "  ", "\n", ";", " , , "])
def test_vector_without_commas_is_refused_at_any_length(written: str, sep: str):
    vector = written.format(LONG.replace(", ", sep))
    check_refused(reply(*[vector] * 18), EmbeddingsOptions(18))


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
    assert usage_of_valid(reported, EmbeddingsOptions(count))
    assert not usage_of_valid(reported, EmbeddingsOptions(count, dimensions=len(vector) + 1))
