"""A body that is read in slices is the same as one that is read at once."""

from __future__ import annotations

import json
import random
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatepass.errors import BodyTooComplex, GatepassError, InvalidJson
from gatepass.json_scan import COPY_BYTES, JsonScanner, ScannedBody, any_of, may_name, value_span
from gatepass.protocols.request import RequestBody
from gatepass.proxy import large_body
from gatepass.proxy.large_body import MOST_VALUES, Scan, scanned
from gatepass.types import EmbeddingsOptions
from tests.unit.protocols.json_texts import VALUES, written

SIZES = {
    "WINDOW_BYTES": 48,
    "FRAGMENT_BYTES": 40,
    "LARGEST_FRAGMENT_BYTES": 100_000,
    "STRING_BYTES": 30,
    "KEPT_BYTES": 10,
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch):
    """Cut small texts as large ones are."""
    for name, size in SIZES.items():
        monkeypatch.setattr(large_body, name, size)


def scan(body: bytes) -> ScannedBody:
    made = Scan(body)
    for _ in made.run():
        pass
    return made.result


def at_once(body: bytes) -> RequestBody | str:
    try:
        return RequestBody.read(body)
    except GatepassError as error:
        return error.message


def in_slices(body: bytes) -> RequestBody | str:
    try:
        return RequestBody.read(scan(body))
    except GatepassError as error:
        return error.message


def kind(found: RequestBody | str) -> object:
    return (found.model, found.stream, found.n) if isinstance(found, RequestBody) else "refused"


OBJECTS = st.dictionaries(
    st.sampled_from(["model", "stream", "n", "messages", "x", "é"]) | st.text(max_size=60), VALUES
)


BODIES = OBJECTS.flatmap(written).map(lambda text: text.encode("utf-8", "surrogatepass"))


def body_of(value: object, *, ascii_only: bool = True) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


@given(BODIES)
@example(body_of({"x": [[], {}, [[]], "a\\", '"', "\ud83d\ude00", "\n" * 50, 1.5, None] * 9}))
@example(body_of({"x": {f"k{number}": number for number in range(50)}}))
def test_a_valid_body_has_the_same_members(body):
    assert kind(in_slices(body)) == kind(at_once(body))
    if kind(at_once(body)) != "refused":
        sliced = scan(body)
        assert sliced == body
        assert list(JsonScanner(sliced).members()) == list(JsonScanner(body).members())
        for member in JsonScanner(body).members():
            assert JsonScanner(sliced).value_end(member.value) == member.end


MUTATIONS = [b"", b",", b"]", b"}", b"[", b"{", b'"', b"\\", b":", b"1", b"\n", b" "]


@given(BODIES, st.integers(0, 2**32))
@example(body_of({"x": [1, 2, 3] * 40}), 3)
def test_a_broken_body_is_refused_in_slices_too(body, seed):
    rng = random.Random(seed)
    broken = bytearray(body)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(broken) + 1)
        broken[at : at + rng.randint(0, 2)] = rng.choice(MUTATIONS)
    assert kind(in_slices(bytes(broken))) == kind(at_once(bytes(broken)))


BROKEN = [
    b'{"x":[%b,]}' % b",".join([b"12345"] * 30),
    b'{"x":[%b,,1]}' % b",".join([b"12345"] * 30),
    b'{"x":[,%b]}' % b",".join([b"12345"] * 30),
    b'{"x":[%b}' % b",".join([b"12345"] * 30),
    b'{"x":[%b]' % b",".join([b"12345"] * 30),
    b'{"x":[%b]}}' % b",".join([b"12345"] * 30),
    b'{"x":[%b]}x' % b",".join([b"[]"] * 90),
    b'{"x":"%b\\q"}' % (b"a" * 90),
    b'{"x":"%b\\ud83d"}' % (b"a" * 90),
    b'{"x":"%b\\ud83d %b"}' % (b"a" * 90, b"a" * 90),
    b'{"x":"%b\n"}' % (b"a" * 90),
    b'{"x":"%b' % (b"a" * 90),
    b'{"x":[%b {]}' % (b'"a",' * 30),
    b'{"x":%b1%b}' % (b"[" * 70, b"]" * 70),
    b'{"x":"%b\xff"}' % (b"a" * 90),
    b'{"model":"a","x":[%b],"model":"b"}' % b",".join([b"12345"] * 30),
    b'{"model":"a","x":[%b],"Model":"b"}' % b",".join([b"12345"] * 30),
    b'{"mod\\u0065l":"a","x":[%b]}' % b",".join([b"12345"] * 30),
    b"[1,2,3]",
    b" " * 60,
    b"\xef\xbb\xbf{}",
]


@pytest.mark.parametrize("body", BROKEN)
def test_scan_refuses_a_body_with_the_parsers_message(body):
    whole = at_once(body)
    assert isinstance(whole, str)
    if body != b" " * 60:
        assert re.sub(r"byte \d+: a text", "a text", str(in_slices(body))) == re.sub(
            r"byte \d+: a text", "a text", whole
        )
    assert kind(in_slices(body)) == "refused"


@given(st.text(st.sampled_from(["a", "\n", '"', "\\", "é", "\U0001f600", "\ud83d"]), max_size=300), st.booleans())
def test_a_long_string_is_validated_in_pieces(text, ascii_only):
    body = body_of({"model": "m", "x": text}, ascii_only=ascii_only)
    assert kind(in_slices(body)) == kind(at_once(body))


def test_names_are_found_at_any_depth():
    body = body_of(
        {"model": "m", "messages": [{"role": "user", "images": ["x" * 100]}] * 3, "encoding_format": "base64"}
    )
    for name in ("images", "base64", "role", "x", "stream_options"):
        assert may_name(scan(body), any_of(name)) == may_name(body, any_of(name)), name
    spelled = body.replace(b'"images"', b'"im\\u0061ges"')
    assert may_name(scan(spelled), any_of("images"))


def test_the_span_of_a_value_is_the_last_ones():
    body = body_of({"x": "y" * 100, "model": "m"})
    assert value_span(scan(body), b'"model"') == value_span(body, b'"model"')


@pytest.mark.parametrize("inputs", [["a", "b" * 90] * 40, [1, 2] * 90, [[1, 2]] * 90, "a" * 100, []])
async def test_the_inputs_of_an_embeddings_request_are_counted(inputs):
    body = body_of({"model": "m", "input": inputs, "encoding_format": "base64"})
    assert RequestBody.read(await scanned(body, counts_inputs=True)).embeddings == EmbeddingsOptions.from_body(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"x":[%b1]}' % (b"1," * (MOST_VALUES + 1)),
        b'{"x":[%b1]}' % (b"[]," * (MOST_VALUES + 1)),
        b'{"x":{%b"y":1}}' % (b'"a":"",' * (MOST_VALUES // 2 + 1)),
        b"{%b}" % b",".join(b'"a%d":1' % number for number in range(1_001)),
        b'{"x":1%b}' % (b" " * 8_000_000),
        b'{"x":%b}' % (b"1" * 400_000),
    ],
    ids=["numbers", "lists", "members", "top level", "blanks", "digits"],
)
def test_too_much_structure_is_refused(body, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(BodyTooComplex, match="Send less structure"):
        scan(body)


def test_messages_may_hold_more(monkeypatch):
    monkeypatch.undo()
    body = b'{"model":"m","messages":[%b1]}' % (b"[]," * (MOST_VALUES + 1))
    assert scan(body) == body
    with pytest.raises(InvalidJson):
        scan(body[:-1])


@pytest.mark.parametrize("size_bytes", [0, COPY_BYTES - 20, 3 * COPY_BYTES])
def test_the_copy_of_a_body_is_made_in_slices(size_bytes: int):
    body = b' {"a":{"b":"%b"}}' % (b"x" * size_bytes)
    found = scan(body)
    copied = list(ScannedBody.create([], {}, b"", may_spell=False).fill(body))
    inner = found.inner("a")
    assert found == body
    assert found.start == 1
    assert inner == body[6:-1]
    assert len(copied) == -(-len(body) // COPY_BYTES)
