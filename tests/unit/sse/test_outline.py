"""A large event is read without its long texts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.sse import outline
from gatepass.sse.outline import KEPT_BYTES, WINDOW_BYTES, outlined, shortened
from tests.unit.protocols.json_texts import STRINGS, written

SCALARS = st.none() | st.booleans() | st.integers()
SIGNS = STRINGS | st.sampled_from([", [", ',"', "\\", '\\"', '"', "{}[],"]).map(lambda text: text * 3)


@given(st.data(), st.sampled_from([1, 7, 64]), st.integers(0, 9))
def test_only_strings_that_fill_a_window_are_shortened(data, window_bytes, kept_bytes):
    longer = st.builds(str.__mul__, SIGNS, st.integers(1, 12)) | SIGNS
    value = data.draw(st.lists(st.one_of(longer, st.lists(SCALARS | longer, max_size=3)), max_size=6))
    text = data.draw(written(value)).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outline, "WINDOW_BYTES", window_bytes)
        patch.setattr(outline, "KEPT_BYTES", kept_bytes)
        short = shortened(text, len(text)) or b""
    assert _is_shortened(
        json.loads(short, object_pairs_hook=list), json.loads(text, object_pairs_hook=list), window_bytes
    )


def _is_shortened(short, value, window_bytes):
    if isinstance(value, str) and short != value:
        is_long = 3 * len(value.encode("utf-16-le", "surrogatepass")) > window_bytes  # an escape: six bytes for two
        return is_long and short.endswith("…") and value.startswith(short[:-1])
    if isinstance(value, list | tuple):
        pairs = zip(short, value, strict=True)
        return type(short) is type(value) and all(_is_shortened(one, other, window_bytes) for one, other in pairs)
    return short == value


def value_of(text):
    found = []

    def turns():
        found.append((yield from outlined(memoryview(text))))

    list(turns())
    return found[0][0]


def test_texts_are_shortened_within_limits():
    long, medium = b'"%b"' % (b"A" * 1_000_000), b'"%b"' % (b"B" * 1_000)
    text = b"[%b,%b]" % (long, b",".join([medium] * 100))
    short = b'["%b\xe2\x80\xa6",%b]' % (b"A" * KEPT_BYTES, b",".join([medium] * 100))
    assert shortened(text, 4 * WINDOW_BYTES) == short
    assert shortened(text, 2 * WINDOW_BYTES) is None


@pytest.mark.parametrize("colon", [b":", b" \n:"])
def test_a_long_name_is_not_read(colon):
    name = b'"%b"' % (b"a" * 3 * WINDOW_BYTES)
    assert value_of(b'{"x":{%b%b1}}' % (name, colon)) is None
    assert value_of(b'{"x":[%b]}' % name) is not None


@pytest.mark.parametrize("more", [0, 1])
def test_an_outline_has_a_limit_of_commas_and_brackets(more):
    text = b'{"x":["%b"%b]}' % (b"AB" * WINDOW_BYTES, b",1" * (outline.MOST_VALUES - 4 + more))
    assert (value_of(text) is None) is bool(more)


@pytest.mark.parametrize("escape", [r"\/", r"é", r"\ud83d\ude00", r"\\", r"\""])
def test_a_shortened_text_keeps_its_escapes_and_cuts_none(escape):
    """A secret with an escape that was cut before it was not masked."""
    text = f'["{escape}{"x" * (KEPT_BYTES - 20)}{escape * 20}{"y" * 4 * WINDOW_BYTES}"]'.encode()
    (value,), (whole,) = json.loads(shortened(text, len(text)) or b""), json.loads(text)
    assert len(value) > KEPT_BYTES - 40
    assert whole.startswith(value.removesuffix("…"))
