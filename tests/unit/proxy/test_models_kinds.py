"""The kind of a model, derived from the configuration."""

import pytest

from gatepass.config.model import Config
from gatepass.proxy.models import Kinds

UPSTREAMS = {name: {"base_url": f"https://{name}.example/v1"} for name in ("chat", "embed", "rank", "ears", "voice")}


def kinds(**blocks):
    return Kinds(Config.model_validate({"upstreams": UPSTREAMS, **blocks}))


OPERATIONS = {
    "chat": {"upstream": "chat"},
    "models": {"upstream": "embed"},
    "embeddings": {"upstream": "embed"},
    "rerank": {"upstream": "rank"},
}


@pytest.mark.parametrize(
    ("model", "listed_by", "name"),
    [
        ("corp", ["embed"], "corp___embedding"),
        ("corp", ["rank"], "corp___rerank"),
        ("bge-m3", ["embed"], "bge-m3"),
        ("corp", ["chat"], "corp"),
        ("corp", ["chat", "embed"], "corp"),
        ("corp", [], "corp"),
        ("own", ["embed"], "own"),
        ("seer", ["rank"], "seer___vision"),
        ("long", [], "long___embedding"),
    ],
)
def test_the_kind_is_declared_or_the_only_kind_of_the_upstream(model, listed_by, name):
    models = {
        "own": {"upstream": "chat"},
        "seer": {"upstream": "chat", "capabilities": {"vision": True}},
        "long": {"upstream": "chat", "capabilities": {"dimensions": 3}},
    }
    assert kinds(operations=OPERATIONS, models=models).typed(model, listed_by) == name


@pytest.mark.parametrize("pattern", ["*", "e*", "exact", "corp"])
def test_an_upstream_that_other_models_target_has_no_kind(pattern):
    assert kinds(operations=OPERATIONS, models={pattern: {"upstream": "embed"}}).typed("corp", ["embed"]) == "corp"


def test_an_operation_without_an_upstream_determines_no_kind():
    operations = {**OPERATIONS, "speech": {"rules": {"drop": ["user"]}}}
    assert kinds(operations=operations).typed("corp", ["rank"]) == "corp___rerank"


RERANK_AT_CHAT = {"rerank": {"upstream": "chat", "model": "rr"}}


@pytest.mark.parametrize("models", [{"gpt-5": {"upstream": "chat"}}, {"*": {"upstream": "chat"}}])
def test_a_chat_model_next_to_a_reranker_of_the_same_upstream_is_not_a_reranker(models):
    assert kinds(operations=RERANK_AT_CHAT, models=models).typed("gpt-5", ["chat"]) == "gpt-5"


@pytest.mark.parametrize("models", [{}, {"rr": {"upstream": "embed"}}, {"*": {"upstream": "chat"}}])
def test_the_default_model_of_an_operation_has_its_kind(models):
    assert kinds(operations=RERANK_AT_CHAT, models=models).typed("rr", ["chat", "embed"]) == "rr___rerank"


def test_a_single_upstream_for_all_operations_has_no_kind():
    config = Config.model_validate({"upstreams": {"u": UPSTREAMS["chat"]}, "operations": {"rerank": {"upstream": "u"}}})
    assert Kinds(config).typed("gpt-5", ["u"]) == "gpt-5"


HEARING = {name: {"upstream": "ears", "model": "scribe"} for name in ("transcriptions", "translations")}
SPEAKING = {"speech": {"upstream": "voice", "model": "reader"}}


@pytest.mark.parametrize(
    ("model", "listed_by", "name"),
    [
        ("corp", ["ears"], "corp___whisper"),
        ("corp", ["voice"], "corp___tts"),
        ("corp", ["ears", "voice"], "corp"),
        ("scribe", [], "scribe___whisper"),
        ("reader", [], "reader___tts"),
        ("whisper-1", ["ears"], "whisper-1"),
        ("tts-1", ["voice"], "tts-1"),
    ],
)
def test_speech_models_are_known_by_their_operations(model, listed_by, name):
    assert kinds(operations={**HEARING, **SPEAKING}).typed(model, listed_by) == name


def test_an_upstream_for_both_speech_operations_has_no_kind():
    operations = {"transcriptions": {"upstream": "ears"}, "speech": {"upstream": "ears"}}
    assert kinds(operations=operations).typed("corp", ["ears"]) == "corp"


@pytest.mark.parametrize(
    ("capabilities", "name"),
    [
        ({"kind": "asr"}, "m___whisper"),
        ({"kind": "tts"}, "m___tts"),
        ({"kind": "rerank"}, "m___rerank"),
        ({"kind": "embedding"}, "m___embedding"),
        ({"kind": "vision"}, "m___vision"),
        ({"kind": "chat"}, "m"),
        ({"kind": "chat", "dimensions": 3, "vision": True}, "m"),
    ],
)
def test_the_declared_kind_has_precedence(capabilities, name):
    models = {"m": {"upstream": "embed", "capabilities": capabilities}}
    operations = {**OPERATIONS, "rerank": {"upstream": "rank", "model": "m"}}
    assert kinds(operations=operations, models=models).typed("m", ["rank"]) == name


def test_the_default_model_of_two_operations_has_no_kind():
    both = {**RERANK_AT_CHAT, "chat": {"upstream": "chat", "model": "rr"}}
    assert kinds(operations=both, models={"*": {"upstream": "chat"}}).typed("rr", ["chat"]) == "rr"
