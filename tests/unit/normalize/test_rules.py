"""All built-in rules, one after the other, on what the surface decodes, and the declared rules of models."""

import itertools
import json
import tracemalloc
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gatepass.config.model import Config
from gatepass.config.routes import Model
from gatepass.errors import InvalidImage, InvalidRequest
from gatepass.normalize.rules import (
    BUILT_IN_RULES,
    CACHED_MODELS,
    FLOAT_VECTORS,
    STRAYS,
    STREAM_OPTIONS,
    ChangeRule,
    DeclaredModels,
    ModelName,
    apply_rules,
    normalize,
    with_model,
)
from gatepass.protocols.operations import match_operation
from gatepass.protocols.request import ROUTING, decode
from gatepass.types import ClientRequest, Target
from tests.memory import traced_memory
from tests.rows import CHAT, EMBEDDINGS, MODELS, RESPONSES
from tests.unit.normalize.calls import TARGET, a_call
from tests.unit.protocols.json_texts import VALUES, written

INBOUND = ClientRequest("id", "POST", "/v1/chat/completions", (), "127.0.0.1", 0.0)
PNG = b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4).decode()


def test_rules_are_in_their_documented_order():
    assert [rule.name for rule in BUILT_IN_RULES] == ["images", "strays", "stream_options", "vectors", "model"]


def test_each_rule_sees_what_the_one_before_made():
    body = b'{"model":"m","drop_params":true,"images":"http://h","messages":[{"role":"user"}],"model_type":"chat"}'
    adapted = normalize(a_call(body), Target("chat", "deployed"), BUILT_IN_RULES)
    assert adapted.body == (
        b'{"model":"deployed","messages":[{"role":"user","content":'
        b'[{"type":"image_url","image_url":{"url":"http://h"}}]}]}'
    )
    assert adapted.adapted == ("images=1", "drop=drop_params", "drop=model_type")


NAMES = st.one_of(st.sampled_from(["temperature", "metadata", "tools", "user", '"images"', "é"]), st.text(max_size=4))


@given(st.data())
def test_an_unconcerned_request_is_not_changed_by_a_byte(data):
    value = data.draw(st.dictionaries(NAMES, VALUES, max_size=4))
    value = {name: held for name, held in value.items() if name.lower() not in ROUTING}
    for name in ("drop_params", "model_type", "images", "messages"):
        value.pop(name, None)
    body = data.draw(written({**value, "model": "m"}, escaped_names=False)).encode()
    operation = data.draw(st.sampled_from([CHAT, EMBEDDINGS]))
    call = decode(INBOUND, operation, body, "k")
    assert normalize(call, TARGET, BUILT_IN_RULES) is call
    assert call.body is body


MENTIONS = [
    *(b'"drop_params":1', b'"model_type":"chat"', b'"stream_options":{}', b'"encoding_format":"base64"'),
    *(b'"images":["http://h"]', b'"messages":[{"role":"user","images":["http://h"]}]', b'"im\\u0061ges":["http://h"]'),
    *(b'"dr\\u006fp_params":1', b'"a":"images"', b'"a":"\\"images"', b'"a":"\\u00e9"', b'"input":"base64"'),
    *(b'"stream\\u005foptions":{}', b'"encoding_format":"b\\u0061se64"', b'"n":1', b'"a":"' + b"x" * 5000 + b'"'),
]


@pytest.mark.parametrize("operation", [CHAT, EMBEDDINGS, RESPONSES])
@pytest.mark.parametrize("stream", [b"true", b"false"])
def test_the_clients_own_top_level_decides_for_all_rules(operation, stream):
    for first, second in itertools.product(MENTIONS, MENTIONS):
        body = b'{%b,"model":"m",%b,"messages":[{"role":"user"}],"stream":%b}' % (first, second, stream)
        call = a_call(body, operation, stream=stream == b"true")
        for target in (TARGET, Target("chat", "deployed")):
            assert outcome(call, target, normalize) == outcome(call, target, apply_rules)


def outcome(call, target, rewrite):
    rules = [rule for rule in BUILT_IN_RULES if call.operation is CHAT or rule.name != "images"]
    rules = rules if target.model is not None else rules[:-1]
    try:
        adapted = rewrite(call, target, rules)
    except InvalidImage as refusal:
        return refusal.message
    return adapted.body, adapted.adapted, adapted is call


def test_a_large_image_is_copied_once_and_never_decoded():
    image = PNG.rstrip("=") + "A" * 4_000_000
    document = {"messages": [{"role": "user", "content": "what is it?"}], "images": [image], "model": "m"}
    call = decode(INBOUND, CHAT, json.dumps(document).encode(), "k")
    with traced_memory() as memory:
        adapted = normalize(call, TARGET, BUILT_IN_RULES)
    url = json.loads(adapted.body)["messages"][0]["content"][1]["image_url"]["url"]
    assert url == f"data:image/png;base64,{image}" + "=" * (-len(image) % 4)
    assert memory.peak_bytes < 1.1 * len(call.body)


@pytest.mark.parametrize("one", ["1", "{}", '""'])
def test_body_of_many_inputs_needs_little_memory(one: str):
    body = f'{{"model":"m","input":[{",".join([one] * 160_000)}]}}'.encode()
    with traced_memory() as memory:
        decode(INBOUND, EMBEDDINGS, body, "k")
    assert memory.peak_bytes < 2 * len(body) + 160_000 * 64  # a list that may be nested is opened


@pytest.mark.parametrize("operation", [CHAT, EMBEDDINGS])
def test_both_strays_go_and_are_named_once(operation):
    body = b'{"model_type":"chat","model":"m", "dr\\u006fp_params":true,"a" : 1 , "model_type":null}'
    adapted = normalize(a_call(body, operation, adapted=("images=1",)), TARGET, (STRAYS,))
    assert adapted.body == b'{"model":"m","a":1}'
    assert adapted.adapted == ("images=1", "drop=drop_params", "drop=model_type")


def test_options_of_streams_and_the_form_of_vectors_are_changed_where_they_apply():
    for call in (
        a_call(b'{"stream":true,"stream_options":{}}', stream=True),
        a_call(b'{"x":{"stream_options":{}}}'),
        a_call(b'{"encoding_format":"base64"}', CHAT),
        a_call(b'{"input":"base64"}', EMBEDDINGS),
        a_call(b'{"stream_options":{}}', EMBEDDINGS),
        a_call(b"", MODELS),
    ):
        for rule in (STREAM_OPTIONS, FLOAT_VECTORS):
            assert normalize(call, TARGET, (rule,)) is call
    adapted = normalize(a_call(b'{"model":"m","stream_options":{"include_usage":true}}'), TARGET, (STREAM_OPTIONS,))
    assert (adapted.body, adapted.adapted) == (b'{"model":"m"}', ("drop=stream_options",))
    adapted = normalize(a_call(b'{"input":"a","encoding_format":"base64"}', EMBEDDINGS), TARGET, (FLOAT_VECTORS,))
    assert adapted.body == b'{"input":"a","encoding_format":"float"}'
    assert adapted.adapted == ("set=encoding_format>float",)


MODERATIONS = match_operation("POST", "/v1/moderations").operation


LONG = b"x" * 600


@pytest.mark.parametrize(
    "more", [b'"t":"say \\"model\\":\\"m\\""', b'"a":[%b]' % LONG.replace(b"x", b"1"), b'"model2":"m"']
)
@pytest.mark.parametrize("pad", [b"", LONG, b'\\"model'])
@pytest.mark.parametrize("named", [b'"model":"m"', b'"model" :\t"\\u006d"', b'"model":"%b"' % LONG[:200]])
def test_the_models_value_changes_wherever_it_is(more, pad, named):
    more = b'%b,"metadata":{"model":"inner"},"pad":"%b"' % (more, pad)
    for listed in ([named, more], [more, named], [b'"b":[1,2]', more, named, b'"c":{"d":"%b"}' % LONG]):
        call = decode(INBOUND, CHAT, b"{%b}" % b",".join(listed), "me")
        adapted = normalize(call, Target("chat", "there"), (ModelName(),))
        assert adapted.body == call.body.replace(named, named[: named.rindex(b'"', 0, -1)] + b'"there"')
        assert adapted.opened().get("model") == "there"


def test_without_another_name_or_a_body_the_call_is_the_same():
    for call, target in (
        (a_call(b'{"model":"m"}'), Target("chat")),
        (a_call(b'{"model":"\\u006d"}'), Target("chat", "m")),
        (a_call(b"", MODELS), Target("chat", "other")),
    ):
        assert normalize(call, target, (ModelName(),)) is call


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"input":["a"]}', b'{"model":"m","input":["a"]}'),
        (b' \n{ "x" : {"model":"inner"} }\t', b' \n{"model":"m", "x" : {"model":"inner"} }\t'),
        (b"{}", b'{"model":"m"}'),
        (b" { \n} ", b' {"model":"m" \n} '),
    ],
)
def test_a_body_that_names_no_model_gets_one_and_keeps_its_bytes(body, named):
    call = with_model(a_call(body, EMBEDDINGS), "m")
    assert (call.body, call.adapted) == (named, ("default=model",))
    assert json.loads(call.body)["model"] == "m"


def test_call_without_a_model_gets_the_targets_model():
    call = replace(a_call(b'{"input":"a"}', MODERATIONS), model="")
    adapted = normalize(call, Target("chat", "there"), (ModelName(),))
    assert (adapted.body, adapted.adapted) == (b'{"model":"there","input":"a"}', ("default=model",))
    assert normalize(call, Target("chat"), (ModelName(),)) is call


def test_call_without_models_has_a_named_model_replaced_and_none_added():
    batch = match_operation("POST", "/v1/batches").operation
    for model in ("", "dm"):
        call = replace(a_call(b'{"input_file_id":"f"}', batch), model=model)
        assert normalize(call, Target("chat", "there"), (ModelName(),)) is call
    named = normalize(a_call(b'{"model":"m"}', batch), Target("chat", "there"), (ModelName(),))
    assert (named.body, named.adapted) == (b'{"model":"there"}', ())


def config(**blocks: Any) -> Config:
    return Config.model_validate({"upstreams": {"chat": {"base_url": "https://h/v1"}}, **blocks})


def model(**members: Any) -> Model:
    return Model.model_validate({"upstream": "chat", **members})


RULES: dict[str, Any] = {
    "rename": {"max_tokens": "max_completion_tokens"},
    "drop": ["temperature", "messages[].name"],
    "default": {"seed": 7, "user": "é"},
    "set": {"extra_body.think": False, "seed": 8},
    "clamp": {"top_p": {"min": 0.1, "max": 1}},
    "roles": {"developer": "system"},
    "text_content": True,
    "merge_roles": True,
}


def test_rules_are_made_in_their_order_and_named():
    (revision,) = DeclaredModels(config(models={"m": model(rules=RULES, stream=False)})).rules("chat", "m")
    body = {
        "model": "m",
        "stream": True,
        "max_tokens": 5,
        "temperature": 1,
        "top_p": 0,
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "d"}]},
            {"role": "user", "content": "a", "name": "n"},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "call_abc"}]},
        ],
    }
    adapted = normalize(a_call(json.dumps(body).encode(), stream=True), TARGET, [revision])
    assert json.loads(adapted.body) == {
        "model": "m",
        "stream": False,
        "max_completion_tokens": 5,
        "top_p": 0.1,
        "seed": 8,
        "user": "é",
        "extra_body": {"think": False},
        "messages": [
            {"role": "system", "content": "d"},
            {"role": "user", "content": "a\n\nb"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "call_abc"}]},
        ],
    }
    assert not adapted.stream
    assert adapted.adapted == (
        *("stream=synth", "rename=max_tokens>max_completion_tokens", "drop=temperature", "drop=messages[].name"),
        *("default=seed", "default=user", "set=extra_body.think", "set=seed", "clamp=top_p"),
        *("role=developer>system", "content=text", "roles=merged"),
    )


def test_the_entry_is_the_one_that_the_route_takes():
    marks = {
        name: model(rules={"drop": [mark]}) for name, mark in (("gpt", "a"), ("gpt*", "b"), ("g*", "c"), ("*", "d"))
    }
    declared = DeclaredModels(config(models=marks, operations={"embeddings": {"upstream": "chat"}}))

    for operation, name, drops in (
        *(("chat", "gpt", ["drop=a"]), ("chat", "gpt-4o", ["drop=b"]), ("chat", "gemini", ["drop=c"])),
        *(("chat", "other", ["drop=d"]), ("chat", "*", ["drop=d"]), ("embeddings", "gpt", ["drop=a"])),
        ("embeddings", "bge", []),
    ):
        assert entries(declared, operation, name) == drops
    assert declared.model("chat", "other") == marks["*"]
    assert declared.model("embeddings", "bge") is None
    assert DeclaredModels(config()).model("chat", "m") is None


def test_token_ids_are_refused_for_a_model_without_them():
    entry = model(capabilities={"token_ids": False}, rules={"drop": ["user"]})
    declared = DeclaredModels(config(models={"m": entry, "*": model()}))
    call = a_call(b'{"model":"m","input":[1,2],"user":"u"}', EMBEDDINGS)
    with pytest.raises(InvalidRequest, match="token_ids: false"):
        normalize(call, TARGET, declared.rules("embeddings", "m"))
    assert normalize(call, TARGET, declared.rules("embeddings", "other")) is call
    assert [rule.name for rule in declared.rules("embeddings", "m")] == ["texts", "rules"]
    chat = a_call(b'{"model":"m","input":[1,2]}')
    assert normalize(chat, TARGET, declared.rules("chat", "m")) is chat


def test_thousands_of_model_names_need_bounded_memory():
    declared = DeclaredModels(config(models={"*": model(rules={"drop": ["user"]})}))
    expected, held_bytes = declared.rules("chat", "*"), []
    tracemalloc.start()
    try:
        for number in range(4 * CACHED_MODELS):
            assert declared.rules("chat", f"m{number:05}") == expected
            held_bytes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held_bytes[-1] < 2 * held_bytes[CACHED_MODELS]


def entries(declared: DeclaredModels, operation: str, name: str) -> list[str]:
    rules = [rule for rule in declared.rules(operation, name) if isinstance(rule, ChangeRule)]
    return [change.entry for rule in rules for change in rule.changes]


def test_an_operations_rules_are_for_all_its_models_and_are_not_those_of_another_operation():
    found = DeclaredModels(
        config(
            models={
                "own": {"upstream": "chat"},
                "both": {"upstream": "chat", "rules": {"rename": {"a": "b"}, "clamp": {"a": {"max": 1}}}},
                "g*": {"upstream": "chat", "rules": {"set": {"user": "g"}}},
                "*": {"upstream": "chat", "rules": {"drop": ["seed"]}},
            },
            operations={
                "rerank": {"upstream": "chat", "rules": {"drop": ["user"]}},
                "embeddings": {"rules": {"drop": ["user"], "split": 10}},
            },
        )
    )
    assert entries(found, "rerank", "own") == ["drop=user"]
    assert entries(found, "rerank", "gpt") == ["set=user"]
    assert entries(found, "rerank", "x") == ["drop=user"]
    assert entries(found, "embeddings", "x") == ["drop=user", "drop=seed", "split=10"]
    assert entries(found, "chat", "own") == []
    assert entries(found, "chat", "both") == ["rename=a>b", "clamp=b"]
    assert entries(found, "chat", "x") == ["drop=seed"]
    assert found.model("rerank", "x") is None
    assert [found.entry("rerank", name) for name in ("own", "gpt", "x")] == ["own", "g*", None]
