import html
import json
import re
from itertools import product
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from gatepass.json_body import decoded
from gatepass.observability.redaction import KEPT, MASK, Redactor


def test_a_short_value_masks_no_ordinary_words():
    redactor = Redactor()
    redactor.learn("key")
    assert redactor.mask("the key is missing") == "the key is missing"


@pytest.mark.parametrize("spelled", ["tok\\u002bAb/9=x\\u0026y", "tok\\u002BAb/9=x\\u0026y"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_value_in_json_as_net_writes_it_is_masked(spelled: str, times: int):
    redactor = Redactor()
    redactor.learn("tok+Ab/9=x&y")
    text = f"bad: {spelled} end"
    assert redactor.mask(text if times == 1 else json.dumps(text)) == (
        "bad: *** end" if times == 1 else '"bad: *** end"'
    )


def test_last_values_of_an_owner_and_configured_values_are_masked():
    redactor = Redactor()
    redactor.learn("configured-secret")
    for number in range(1_000):
        redactor.learn(f"token-{number:05}", "token")
        redactor.learn(f"proof-{number:05}", ("corp", 0))
    for kind in ("token", "proof"):
        rotated = " ".join(f"{kind}-{number:05}" for number in range(1_000))
        assert redactor.mask(rotated) == rotated.split(f"{kind}-{1_000 - KEPT:05}")[0] + " ".join([MASK] * KEPT)
    assert redactor.mask("configured-secret") == MASK


def test_a_value_that_comes_again_is_the_newest():
    redactor = Redactor()
    for number in range(KEPT):
        redactor.learn(f"token-{number}", "token")
    redactor.learn("token-0", "token")
    redactor.learn("token-new", "token")
    assert redactor.mask("token-0 token-1 token-new") == f"{MASK} token-1 {MASK}"


def test_a_value_of_two_owners_is_masked_while_one_of_them_has_it():
    redactor = Redactor()
    for owner in ("chat", "embeddings"):
        redactor.learn("the-same-key", owner)
    for number in range(KEPT):
        redactor.learn(f"key-{number:05}", "chat")
    assert redactor.mask("the-same-key") == MASK
    for number in range(KEPT):
        redactor.learn(f"key-{number:05}", "embeddings")
    assert redactor.mask("the-same-key") == "the-same-key"


def test_a_value_that_is_learned_while_another_thread_collects_the_spellings_is_masked():
    class Learning(dict[str, Any]):
        def values(self):
            redactor._owned[None] = dict(self)
            redactor.learn("the-second-secret")  # as the event loop does while spans are exported
            return super().values()

    redactor = Redactor()
    redactor.learn("the-first-secret")
    redactor._owned[None] = Learning(redactor._owned[None])
    assert redactor.mask("the-first-secret") == MASK
    assert redactor.mask("the-second-secret") == MASK


def test_a_value_that_is_a_part_of_another_one_leaves_nothing_of_it():
    redactor = Redactor()
    redactor.learn("secret")
    redactor.learn("secret-and-more", "token")
    assert redactor.mask("secret-and-more, secret") == f"{MASK}, {MASK}"


def test_text_without_a_secret_is_only_cut():
    redactor = Redactor()
    redactor.learn("s3cret-value")
    assert redactor.beginning("hello world", 5) == "hello"
    assert redactor.beginning("hello", 5) == "hello"
    assert redactor.beginning("", 5) == ""
    assert redactor.beginning("hello s3cret-value", 6) == "hello "


def test_a_body_of_wide_characters_has_more_than_a_quarter_of_nul_bytes():
    assert [decoded(body) for body in (b"a\0bc", b"a\0b\0")] == ["a\0bc", "ab"]


LINE = '{"a":"%s","b":"&quot;,&quot;x&quot;:&quot;1&#x202E;"}'


@pytest.mark.parametrize("spelled", ["a&quot;b&amp;cdef", "a&#34;b\\u0026amp;cdef", "a&amp;quot;b&amp;amp;cdef"])
def test_a_line_of_json_whose_references_hide_a_secret_stays_one(spelled: str):
    redactor = Redactor()
    redactor.learn('a"b&cdef')
    line = json.loads(redactor.mask(LINE % spelled))
    assert line["a"] == MASK
    assert [*line] == ["a", "b"]
    assert redactor.mask(LINE % "none") == LINE % "none"


TWO = ('Sub"scr\\key&77xxQ', 'cs3cr+t/w=1&"q\\zzTop')


ENCODERS = (
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text)[1:-1].replace("&", "\\u0026").replace("/", "\\/"),
    lambda text: re.sub("[^A-Za-z0-9]", lambda char: f"\\u{ord(char[0]):04X}", text),
    html.escape,
    lambda text: re.sub("[^A-Za-z0-9]", lambda char: f"&#{ord(char[0])};", text),
    lambda text: "".join(f"&#x{ord(char):x}" for char in text) + ";",
    quote,
    quote_plus,
)


@pytest.mark.parametrize("encoders", [*product(ENCODERS, repeat=2)])
def test_a_secret_is_masked_however_it_was_encoded_beside_another(encoders):
    for secret in (*TWO, "pa\\nword&x<y>9", 'x%2Fy&lt;zz99 "q ä€', 'a\tb"\\"cd-ef&amp;gh', "p\\u0026q\\\\r'&&t1"):
        redactor, spelled = Redactor(), secret
        for encode in (*encoders, html.escape):
            spelled = encode(spelled)
        for known in (*TWO, secret):
            redactor.learn(known)
        for other in (TWO[0], html.escape(html.escape(TWO[1]))):
            text = f"one: {other} two: {spelled}. &amp;\\n"
            assert redactor.mask(text) == "one: *** two: ***. &amp;\\n"
            assert redactor.holds(text)
