"""Text that a client writes into a request causes no learned rule, wherever the upstream quotes it."""

import html
import json
import re
import time
from collections.abc import Callable
from itertools import product
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from gatepass.dialects.reply_check import ReceivedReply, with_hint
from gatepass.learning import quotes
from gatepass.learning.learned_rule import LearnedRule, RuleScope
from gatepass.learning.memory import MOST_OF_CALLER, Memory
from gatepass.learning.pointing import OF_NAMES, Refusal
from gatepass.learning.quotes import BEGINNING_BYTES, is_repeated, letters_of, sent_in
from gatepass.learning.rows import steps
from gatepass.learning.session import LearningSession
from gatepass.proxy.body_threads import INLINE_BYTES
from gatepass.replies.error_body import read_error_body
from gatepass.types import UpstreamErrorBody
from tests.attacks import generated
from tests.attacks.conftest import Attack
from tests.rows import CHAT, EMBEDDINGS
from tests.unit.learning import upstreams
from tests.unit.learning.rejections import ROWS
from tests.unit.learning.upstreams import Upstream, ask
from tests.unit.normalize.calls import a_call

MEMBERS: dict[str, Any] = {
    "model": "gpt-a",
    "messages": [{"role": "developer", "content": "x"}, {"role": "assistant", "content": None, "name": "n"}],
    "stream": True,
    "stream_options": {"include_usage": True},
    "seed": 1,
    "temperature": 0.3,
    "top_k": 4,
    "max_tokens": 9,
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
    "enable_thinking": True,
    "response_format": {"type": "json_object"},
}
TEXTS: dict[str, Any] = {"model": "e", "input": ["a", "b", "c"], "dimensions": 64, "encoding_format": "base64"}

# --- what a client writes ------------------------------------------------------------------------------------------


def is_compared(text: str) -> bool:
    """Return whether `text` is long enough to count, with a blank before it."""
    return is_repeated([f" {text}"], text)


SENTENCES = st.sampled_from([case.error_body.message for case in ROWS]).filter(is_compared)
DOCUMENTS = (
    *(json.dumps(case.body) for case in ROWS),
    '{"error":{"loc":["invalid seed"],"msg":"only x"}}',
    '{"error":{"message":"invalid seed: only x"}}',
    '{"error":{"type":"extra_forbidden","loc":["body","seed"],"msg":"Extra inputs are not permitted"}}',
    '{"error":{"message":"no","code":"unsupported\\u005fparameter","param":"seed"}}',
)
LONG = "The quick brown fox jumps over a lazy dog. " * 200

Placed = Callable[[str], dict[str, Any]]
PLACES: tuple[Placed, ...] = (
    lambda text: {"user": text},
    lambda text: {"seed": text},
    lambda text: {"metadata": {"topic": [text]}},
    lambda text: {"metadata": {text: 1}},
    lambda text: {"stop": [text]},
    lambda text: {"prediction": {"content": text + LONG}},
    lambda text: {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]},
    lambda text: {"safety_identifier": text + "!", "user": "?" + text},
)

# --- how an upstream quotes it -------------------------------------------------------------------------------------

SPELLINGS: tuple[Callable[[str], str], ...] = (
    str,
    str.upper,
    str.lower,
    str.title,
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(json.dumps(text))[1:-1],
    lambda text: "".join(f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else letter for letter in text),
    repr,
    ascii,
    lambda text: repr(text.encode("utf-8", "replace")),
    lambda text: html.escape(html.escape(text)),
    lambda text: "".join(f"&#{ord(letter)};" for letter in text),
    lambda text: "".join(f"&#x{ord(letter):X};" for letter in text),
    lambda text: quote(text, errors="replace"),
    lambda text: quote(quote(text, safe="", errors="replace")),
    lambda text: " ".join(text.split()),
    lambda text: text.replace("'", '"'),
)


def beginning(text: str) -> str:
    """Return the shortest part that counts as the whole."""
    cuts = (text[:at] for at in range(len(text)) if len(letters_of(text[:at])) >= BEGINNING_BYTES)
    return next(cuts, text) + "..."


ENDS: tuple[Callable[[str], str], ...] = (str, beginning, lambda text: text + " is not allowed")


def openai(message: str, **fields: Any) -> Any:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **fields}}


TEMPLATES: dict[str, Callable[[str], Any]] = {
    "openai": openai,
    "openai, quoted": lambda text: openai(f"'{text}' is too long.", code="string_above_max_length"),
    "openai, value": lambda text: openai(f"Invalid value: '{text}'. Supported values are: 'low'.", param="user"),
    "openai, honest": lambda text: openai(f"Unknown parameter: 'top_k'. Received: {text}"),
    "openai, honest value": lambda text: openai(
        f"Unsupported value: 'temperature' does not support 0.3 with this model. {text}", code="unsupported_value"
    ),
    "azure": lambda text: {"error": {"code": "BadRequest", "message": text}},
    "vllm": lambda text: {"object": "error", "message": text, "type": "BadRequestError", "code": 400},
    "vllm, list": lambda text: openai(f"[{{'type': 'x', 'loc': ('body', 'user'), 'msg': '{text}'}}]"),
    "vllm, honest": lambda text: openai(
        "[{'type': 'extra_forbidden', 'loc': ('body', 'top_k'), 'msg': 'Extra inputs are not permitted',"
        f" 'input': '{text}'}}]"
    ),
    "pydantic's text": lambda text: openai(
        f"1 validation error for ChatRequest\nuser\n  Value error [type=value_error, input_value='{text}']"
    ),
    "pydantic": lambda text: {"detail": [{"type": "x", "loc": ["body", "user"], "msg": text, "input": text}]},
    "pydantic, honest": lambda text: {
        "detail": [{"type": "extra_forbidden", "loc": ["body", "top_k"], "msg": "Extra inputs are not permitted"}],
        "input": text,
    },
    "litellm": lambda text: openai(f"litellm.BadRequestError: OpenAIException - {text}"),
    "litellm, json": lambda text: openai(f"litellm.BadRequestError: {json.dumps(openai(text))}"),
    "tgi": lambda text: {"error": text, "error_type": "validation"},
    "tgi, prefix": lambda text: {"error": f"Input validation error: `{text}`", "error_type": "validation"},
    "openrouter": lambda text: {"error": {"message": "Provider returned error", "metadata": {"raw": text}}},
    "chinese": lambda text: {"error": {"code": "1214", "message": f"{text}参数非法"}},
    "chinese, envelope": lambda text: {"code": 400, "msg": text},
    "go": lambda text: {"error": f"invalid user [{text}]"},
    "words before": lambda text: openai(f"400: Bad request. You sent {text}"),
    "between words": lambda text: openai(f"the model does not take {text} today"),
}


def harmless(text: str) -> str:
    """A value of the same shape that names nothing."""
    return re.sub(r"[A-Za-z]", "x", re.sub(r"[0-9]", "7", re.sub(r"[^\x00-\x7f]", "\u6c49", text)))


Quotation = Callable[[str], str]


def rules(body: dict[str, Any], document: Any) -> set[LearnedRule]:
    """Return the rules that the refusal `document` of the request `body` leads to, in any step."""
    operation = EMBEDDINGS if "input" in body else CHAT
    sent = a_call(json.dumps(body).encode(), operation, stream=bool(body.get("stream")))
    refusal = Refusal.of(operation.members, 400, read_error_body(document, refused=True), sent.body)
    return set() if refusal is None else {rule for step in steps(refusal, sent) for rule in step}


def forms(found: set[LearnedRule]) -> set[LearnedRule]:
    """Return the rules without the values of the request, which differ."""
    return {replace(rule, values=frozenset()) for rule in found}


def holds(text: str, place: Placed, spell: Quotation, template: Callable[[str], Any]) -> bool:
    """Return whether both kinds of request learn no more from `text` than from a harmless value at its position."""
    other = harmless(text)
    for members in (MEMBERS, TEXTS):
        honest = forms(rules({**members, **place(other)}, template(spell(other))))
        if not honest.issuperset(forms(rules({**members, **place(text)}, template(spell(text))))):
            return False
    return True


def _spelled(draw: st.DrawFn) -> Quotation:
    spell, end = draw(st.sampled_from(SPELLINGS)), draw(st.sampled_from(ENDS))
    return lambda text: spell(end(text))


@st.composite
def quotations(draw: st.DrawFn) -> tuple[str, Placed, Quotation, str]:
    text = draw(st.one_of(SENTENCES, SENTENCES, SENTENCES, st.sampled_from(DOCUMENTS)))
    return text, draw(st.sampled_from(PLACES)), _spelled(draw), draw(st.sampled_from(sorted(TEMPLATES)))


@pytest.mark.attack("learning: a value that is quoted")
@generated
@given(quotations())
def test_a_quoted_value_causes_no_rule(attack: Attack, case: tuple[str, Placed, Quotation, str]) -> None:
    text, place, spell, template = case
    with attack.on_loop():
        held = holds(text, place, spell, TEMPLATES[template])
    attack.check(held, (text, PLACES.index(place), template, spell(text)))


ATTEMPTS = (
    "Unsupported parameter: 'seed'",
    "Unsupported parameter: 'seed' is not supported with this model.",
    "Unknown parameter: 'seed'.",
    "Unrecognized request argument supplied: seed",
    "seed: Extra inputs are not permitted",
    "Extra inputs are not permitted, field: 'seed'",
    'json: unknown field "seed"',
    "Unsupported value: 'temperature' does not support 0.3 with this model.",
    "invalid seed: only integers",
    "seed 参数非法",
    "Streaming is not supported",
    "This model does not support streaming",
    "角色信息不正确",
    "roles must alternate",
    "Invalid value: 'developer'. Supported values are: 'system', 'user', 'assistant'.",
    "Invalid enum value. Expected 'system' | 'user' | 'assistant', received 'developer'",
    "invalid role 'developer', must be one of: system, user, assistant",
    "Input tag 'developer' found using 'role'",
    "x', 'loc': ('body', 'seed'), 'msg': 'Extra inputs are not permitted'",
    "seed\n  Extra inputs are not permitted [type=extra_forbidden]",
    "property 'seed' is unsupported",
    "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
    "at most 1 requests can be in one batch",
    "batch size is invalid, it should not be larger than 1",
    *DOCUMENTS[-4:],
)


@pytest.mark.attack("learning: a value that is quoted")
@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_recorded_attacks_lead_to_no_rule(attack: Attack, template: str) -> None:
    for text in ATTEMPTS:
        for place in PLACES:
            attack.check(holds(text, place, str, TEMPLATES[template]), (text, PLACES.index(place), template))


SHORT = ("top_k", "no top_k", "top_k!", "bad seed", "seed: x", "no stream", "stream", "use system", "max_tokens 5")
"""Shorter than the beginning of a sentence that counts, because a name alone points at a member."""


@pytest.mark.attack("learning: a value that is quoted")
@pytest.mark.parametrize("text", SHORT)
def test_a_short_text_that_is_quoted_leads_to_no_rule(attack: Attack, text: str) -> None:
    for place in (PLACES[0], PLACES[6]):
        for template in sorted(TEMPLATES):
            attack.check(holds(text, place, str, TEMPLATES[template]), (text, PLACES.index(place), template))


@pytest.mark.attack("learning: a value that is quoted")
@pytest.mark.parametrize("spell", SPELLINGS, ids=range(len(SPELLINGS)))
def test_recorded_attacks_lead_to_no_rule_in_any_spelling(attack: Attack, spell: Quotation) -> None:
    for text in ATTEMPTS:
        for end in ENDS:

            def spelled(one: str, end: Quotation = end) -> str:
                return spell(end(one))

            attack.check(holds(text, PLACES[1], spelled, openai), text)


@pytest.mark.attack("learning: a value that is quoted")
@pytest.mark.parametrize(
    "value",
    [
        "Unsup\u200bported para\u00admeter: 'se\ufeffed'",
        quote(quote(quote("Unsupported parameter: 'seed'", safe=""), safe=""), safe=""),
    ],
)
def test_error_text_changed_by_an_upstream_causes_no_rule(attack: Attack, value: str) -> None:
    attack.check(not rules({**MEMBERS, "user": value}, openai("Unsupported parameter: 'seed'")), value)


@pytest.mark.attack("learning: a value that is quoted")
@pytest.mark.parametrize("separator", ["\x85", "\u2028", "\u2029", "\xa0", "\u2003", "\u3000"])
def test_blanks_that_an_error_text_loses_cause_no_rule(attack: Attack, separator: str) -> None:
    value = f"seed{separator}\u53c2\u6570\u975e\u6cd5{separator}"
    texts = [value.replace(separator, other) for other in (separator, " ", "")]
    for text in texts:
        attack.check(not rules({**MEMBERS, "user": value}, openai(text)), (value, text))


def test_rejected_value_causes_no_rule_about_other_values() -> None:
    """GLM's sentence names the member and does not say that the model rejects each of its values."""
    body = {"error": {"code": "1214", "message": "temperature\u53c2\u6570\u975e\u6cd5\u3002"}}
    upstream = Upstream([upstreams.Refusal(lambda sent: sent.get("temperature", 0) > 1, body)])
    memory = Memory()
    for temperature in (7, 0.3):
        outcome = ask(memory, upstream, a_call(json.dumps({**MEMBERS, "temperature": temperature}).encode(), CHAT))
        assert outcome.error is None
    assert [sent.get("temperature") for sent in upstream.seen] == [7, None, 0.3]
    assert [one.rule.values for one in memory.records(0.0, 0.0)] == [{"7"}]


def test_a_client_that_is_quoted_is_refused_and_nothing_is_remembered() -> None:
    upstream = Upstream([upstreams.Refusal(lambda body: isinstance(body.get("seed"), str), openai(ATTEMPTS[1]))])
    memory = Memory()
    outcome = ask(memory, upstream, a_call(json.dumps({**MEMBERS, "seed": ATTEMPTS[1]}).encode(), CHAT))
    assert outcome.error is not None
    assert len(upstream.seen) == 1
    assert memory.records(0.0, 0.0) == []


def test_a_client_that_is_quoted_from_a_header_is_refused() -> None:
    upstream = Upstream([upstreams.Refusal(lambda body: "seed" in body, openai(ATTEMPTS[1]))])
    sent = a_call(json.dumps(MEMBERS).encode(), CHAT)
    assert ask(Memory(), upstream, sent).error is None
    quoting = msgspec.structs.replace(sent, headers=((b"user-agent", ATTEMPTS[1].encode()),))
    assert ask(Memory(), upstream, quoting).error is not None


HIDDEN = {
    "seed": "Unsupported parameter: 'seed'",
    "stream": "Streaming is not supported with this model",
    "role": "system is not one of ['user']",
}


def _hidden(sentence: str) -> dict[str, tuple[dict[str, Any], str]]:
    """Bodies that hold `sentence`, and how an upstream repeats it at the beginning of its error."""
    middle = sentence.index(" ", 8)
    cuts = {"two": [sentence[:middle], sentence[middle + 1 :]], "many": sentence.split()}
    far = {f"behind {name}": fill + sentence for name, fill in FILLS.items()}
    spread: dict[str, tuple[dict[str, Any], str]] = {
        f"{name} texts": ({"stop": parts}, " ".join(parts)) for name, parts in cuts.items()
    }
    pieces = [sentence[at : at + 9] for at in range(0, len(sentence), 9)]
    spread["inputs without blanks"] = ({"input": pieces}, sentence)
    return {name: ({"user": text}, text) for name, text in far.items()} | spread


FILLS = {"blanks": "* " + " " * 2_100, "escaped blanks": "&#32;" * 500, "prefixes": "[1] <400> " + "\n" * 3_000}


@pytest.mark.attack("learning: a value that is quoted")
@pytest.mark.parametrize("sentence", HIDDEN.values(), ids=HIDDEN)
def test_a_sentence_that_is_far_from_its_beginning_or_in_parts_causes_no_rule(attack: Attack, sentence: str) -> None:
    for name, (body, quoted) in _hidden(sentence).items():
        for shown in (quoted, html.unescape(quoted), " ".join(quoted.split())):
            attack.check(not rules({**MEMBERS, **body}, openai(shown)), (name, shown[:80]))


@pytest.mark.attack("learning: a value that is quoted")
@pytest.mark.parametrize("code", [*sorted(OF_NAMES), "unsupported_value", "Unsupported_Parameter"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("place", ["seed", "metadata"])
def test_an_object_that_is_quoted_as_json_causes_no_rule(
    attack: Attack, code: str, indent: int | None, place: str
) -> None:
    """Its strings are plain, so that none of them is a sentence."""
    error = {"message": "x", "code": code, "param": "seed", "keys": ["seed"], "path": []}
    members = {**MEMBERS, place: {"error": error}}
    reported = json.dumps(members[place], indent=indent)
    attack.check(not rules(members, openai(f"Invalid value: {reported}")), (code, reported))
    attack.check(not rules(members, reported), (code, reported))


@pytest.mark.attack("learning: a value that is quoted")
@pytest.mark.parametrize("members", ['"seed":{0},"seed":1', '"metadata":{{"a":{0},"b":{{}},"a":1}}'])
def test_each_value_of_a_repeated_member_is_a_value(attack: Attack, members: str) -> None:
    """Some upstreams read, and quote, the first one."""
    for text in ATTEMPTS:
        body = "{" + members.format(json.dumps(text)) + ',"messages":[]}'
        sent = sent_in(body.encode())
        attack.check(sent is not None and is_repeated(sent.texts, text), (text, body))


def test_a_structured_error_causes_a_rule_where_the_body_is_too_long_to_compare() -> None:
    long = {**MEMBERS, "user": "a b " * (quotes.BODY_BYTES // 4)}
    refusal = openai("Unsupported parameter: 'seed'", code="unsupported_parameter", param="seed")
    assert rules(long, refusal) == {LearnedRule("drop", "seed")}
    assert not rules(long, openai("Unsupported parameter: 'seed'"))


def test_beside_a_quoted_text_only_the_code_and_the_param_are_read() -> None:
    text = "Streaming is not supported"
    assert rules({**MEMBERS, "user": text}, TEMPLATES["pydantic, honest"](text)) == {LearnedRule("drop", "top_k")}
    assert rules({**MEMBERS, "user": text}, TEMPLATES["openai, honest"](text)) == set()


def test_plain_values_and_short_texts_do_not_count() -> None:
    names = {"user": "temperature", "model": "messages[].reasoning_content", "tools": [{"name": "parallel_tool_calls"}]}
    error = "Unsupported parameter: 'parallel_tool_calls', 'temperature', messages[].reasoning_content, 'is not'"
    sent = sent_in(json.dumps({**names, "stop": ["is not", "with this"]}).encode())
    assert sent is not None
    assert not is_repeated(sent.texts, error)


@pytest.mark.attack("learning: a value that is quoted")
@pytest.mark.parametrize(
    "make_values",
    [
        lambda: ["Unsupported parameter: 'seed' " * (quotes.BODY_BYTES // 31)],
        lambda: [f"Unsupported {at}" for at in range(100_000)],
        lambda: ["&lt;" * (quotes.BODY_BYTES // 5)],
        lambda: [[]] * 600_000,
        lambda: ["Ä ß " * (quotes.BODY_BYTES // 8)],
        lambda: [0] * (quotes.MOST_SEPARATORS - 100),
        lambda: [{f"{at:x}": 0} for at in range(quotes.MOST_SEPARATORS // 2 - 100)],
        lambda: [int("1" * 4300)] * (quotes.BODY_BYTES // 4301 - 1),
    ],
    ids=range(8),
)
@pytest.mark.parametrize("text", ["Unsupported parameter: 'seed' " * 66, "%41" * 660])
def test_a_comparison_is_short(attack: Attack, make_values: Callable[[], list[Any]], text: str) -> None:
    body = json.dumps({**MEMBERS, "metadata": make_values()}, ensure_ascii=False, separators=(",", ":")).encode()
    error_body = read_error_body(openai(text), refused=True)
    began_s = time.thread_time()
    Refusal.of(CHAT.members, 400, error_body, body)
    took_s = time.thread_time() - began_s
    if len(body) <= INLINE_BYTES:  # a larger one is compared in a thread
        attack.loop_s = max(attack.loop_s, took_s)
    attack.check(took_s < 0.5, took_s)


@example("'" * 2000, "\\" * 1000)
@example("%25" * 600, "%25" * 600)
@example("\\ud800\\U00110000&#xffffff;&#1114112;", "\\ud800\\U00110000&#xffffff;&#1114112;")
@given(st.text(), st.text())
def test_any_text_can_be_compared(text: str, value: str) -> None:
    assert len(letters_of(value)) < 12 or is_repeated([f" {value}\n"], f"{text} {value} {text}")


RUNS = ("\\", "\\\\u", "&amp;", "&", "%25", "%", "\\x4", "\\u00", "\u200b", "\u0130")
"""Units of which a long run begins many escapes, or none."""


@pytest.mark.attack("learning: runs of escapes")
@pytest.mark.parametrize("unit", RUNS)
def test_a_run_of_escapes_does_not_hold_the_interpreter(attack: Attack, unit: str) -> None:
    run = unit * (quotes.MOST_ESCAPES // len(unit))
    with attack.on_loop():
        is_repeated([f" {run}"], run[: quotes.MOST_ERROR_CHARS])


MANY_CHARS = 3_000
"""About as long a text as is read of an error's message, with a little from its details."""
PIECES = (
    *("max_tokens ", "system ", "temperature 'x' ", "user: ", "content must be a ", "one of: ", "messages.1 ", "\n"),
    *("9", "1 + 2 > ", "1,000", "99 tokens in ", "context length ", "参数不支持", "tool 'f' ", "property '", "_", "a"),
    *("'", "' ", "“", "\\", "'loc': ('a'), 'msg': 'a", '"a" at \'', "a.b[", "-", "x1 "),
)
"""Words that are looked up, and signs at which a search may begin again and again."""
WIDE: dict[str, Any] = {**MEMBERS, **{f"member_{at}": {"depth": 1} for at in range(100)}}
"""A request in which one name has many paths."""


def _read(members: dict[str, Any], text: str) -> None:
    """Read an error as an attempt does: what it points at, whether it is known, and the changes that it may need."""
    sent = a_call(json.dumps(members).encode(), CHAT, stream=True)
    error_body = UpstreamErrorBody(text[:MANY_CHARS], raw={"error": {"message": text[MANY_CHARS:]}})
    if (refusal := Refusal.of(CHAT.members, 400, error_body, sent.body)) is not None:
        steps(refusal, sent)
        assert refusal.is_same(refusal)
        assert refusal.signature == refusal.signature


@pytest.mark.attack("learning: texts of names and signs")
@pytest.mark.parametrize(("first", "second"), [*product(PIECES, PIECES)])
def test_a_text_of_names_and_signs_is_read_in_bounded_time(attack: Attack, first: str, second: str) -> None:
    with attack.on_loop():
        _read(MEMBERS, ((first * 3 + second * 2) * 2_000)[: 2 * MANY_CHARS])


@pytest.mark.attack("learning: texts of names and signs")
@pytest.mark.parametrize("text", ["depth is wrong. ", "`depth` ", "field depth\n", "a.depth: b\n"])
def test_a_name_that_has_many_paths_is_read_in_bounded_time(attack: Attack, text: str) -> None:
    for times in (3, 40):
        with attack.on_loop():
            _read(WIDE, (text * times)[:MANY_CHARS])


@pytest.mark.attack("learning: an error that names many members")
@pytest.mark.parametrize("count", [60, 900])
def test_an_error_with_many_names_is_read_and_compared_in_bounded_time(attack: Attack, count: int) -> None:
    names = [f"member_{number}" for number in range(count)]
    sent = a_call(json.dumps({"messages": [], **dict.fromkeys(names, 1)}).encode(), CHAT)
    text = f"Unrecognized request arguments supplied: {', '.join(names)}"
    found: list[Refusal | None] = []
    with attack.on_loop():
        found.append(Refusal.of(frozenset(names), 400, UpstreamErrorBody(text), sent.body))
    (read,) = found
    assert read is not None
    with attack.on_loop():
        steps(read, sent)
    reply = ReceivedReply("chat", 400, (), operation="responses")
    with attack.on_loop():
        with_hint(UpstreamErrorBody(text), 400, reply)


HEAVY: dict[str, dict[str, Any]] = {
    "types of tools": {"tools": [{"type": f"hosted_{at}", "name": f"n{at}"} for at in range(600)]},
    "tools of one type": {"tools": [{"type": "web_search"}] * 600},
    "schemas": {"tools": [{"type": "function", "function": {"parameters": {"title": "x"}}}] * 200},
    "roles": {"messages": [{"role": "developer", "content": None}] * 400},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 2}] * 200},
    "empty members": {f"empty_{at}": None for at in range(600)},
    "flags": {f"flag_{at}": True for at in range(600)},
    "long digits": {"max_tokens": 10**4_000, "temperature": 10**4_000},
}
"""Requests below INLINE_BYTES whose refusals may lead to many steps. Each step opens the request again."""
EVERYTHING = (
    "tools: tool type web_search, role developer, system, user, content null, stream, batch, token, thinking, "
    "schema `title` `default` `format` `pattern` `examples`, max_tokens 99, temperature, top_k, seed, stream_options"
)


@pytest.mark.attack("learning: requests with many steps")
@pytest.mark.parametrize("members", HEAVY.values(), ids=HEAVY)
@pytest.mark.parametrize("text", [EVERYTHING, "tools.0.type", "messages.3.content.0", "null", "`tools` web_search"])
def test_the_steps_of_a_small_request_are_found_in_bounded_time(
    attack: Attack, members: dict[str, Any], text: str
) -> None:
    body = json.dumps({**MEMBERS, **members}, separators=(",", ":"))
    assert len(body) <= INLINE_BYTES
    names = " ".join(re.findall(r"(?:hosted|empty|flag)_\d+", body)[:200])
    for shown in (text, f"{text} {names}"):
        with attack.on_loop():
            _read({**MEMBERS, **members}, shown)


@pytest.mark.attack("learning: requests of a caller with many rules")
@pytest.mark.parametrize("count", [1, 1_800])
def test_a_request_of_a_caller_with_as_many_rules_as_are_kept_is_noted_in_bounded_time(
    attack: Attack, count: int
) -> None:
    memory, scope = Memory(), RuleScope("a", "chat", "m", CHAT.name)
    for at in range(MOST_OF_CALLER):
        rule = LearnedRule("drop", f"flag_{at}", values=frozenset(("true",)))
        memory.commit(scope, rule, "x", 0.0)
    body = json.dumps({**MEMBERS, **{f"other_{at}": True for at in range(count)}}, separators=(",", ":")).encode()
    session = LearningSession(memory, scope, CHAT.members)
    with attack.on_loop():
        session.recall(1.0)
    with attack.on_loop():
        session.revise(a_call(body, CHAT))
    with attack.on_loop():
        session.succeeded(1.0)


@pytest.mark.attack("learning: an error that names many members")
@pytest.mark.parametrize("name", ["p", "9", "_", "é"])
def test_unknown_keys_at_a_long_path_are_read_in_bounded_time(attack: Attack, name: str) -> None:
    """zod repeats names that a client chose. The path stands once in its error, and before each key in the text."""
    issue = {"code": "unrecognized_keys", "path": [name * 1_800], "keys": ["a"] * 500, "message": "x"}
    sent = a_call(json.dumps(MEMBERS).encode(), CHAT, stream=True)
    with attack.on_loop():
        Refusal.of(CHAT.members, 400, UpstreamErrorBody("x", raw=[issue]), sent.body)
