"""What a model is for, by what the configuration says."""

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
def test_a_model_is_what_is_declared_of_it_or_what_its_upstream_alone_does(model, listed_by, name):
    models = {
        "own": {"upstream": "chat"},
        "seer": {"upstream": "chat", "capabilities": {"vision": True}},
        "long": {"upstream": "chat", "capabilities": {"dimensions": 3}},
    }
    assert kinds(operations=OPERATIONS, models=models).typed(model, listed_by) == name


@pytest.mark.parametrize("pattern", ["*", "e*", "exact", "corp"])
def test_an_upstream_that_serves_other_models_too_says_nothing_of_one(pattern):
    assert kinds(operations=OPERATIONS, models={pattern: {"upstream": "embed"}}).typed("corp", ["embed"]) == "corp"


def test_an_upstream_to_which_one_operation_of_a_model_leads_serves_other_models_too():
    models = {"m": {"upstream": "chat", "operations": {"responses": {"upstream": "embed"}}}}
    assert kinds(operations=OPERATIONS, models=models).typed("corp", ["embed"]) == "corp"


def test_an_operation_without_an_upstream_tells_no_kind():
    operations = {**OPERATIONS, "speech": {"rules": {"drop": ["user"]}}}
    assert kinds(operations=operations).typed("corp", ["rank"]) == "corp___rerank"


RERANK_AT_CHAT = {"rerank": {"upstream": "chat", "model": "rr"}}


@pytest.mark.parametrize("models", [{"gpt-5": {"upstream": "chat"}}, {"*": {"upstream": "chat"}}])
def test_a_chat_model_beside_a_reranker_of_the_same_upstream_is_no_reranker(models):
    assert kinds(operations=RERANK_AT_CHAT, models=models).typed("gpt-5", ["chat"]) == "gpt-5"


@pytest.mark.parametrize("models", [{}, {"rr": {"upstream": "embed"}}, {"*": {"upstream": "chat"}}])
def test_a_model_that_an_operation_names_is_of_that_kind(models):
    assert kinds(operations=RERANK_AT_CHAT, models=models).typed("rr", ["chat", "embed"]) == "rr___rerank"


def test_an_only_upstream_that_gets_everything_says_nothing_of_a_model():
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
def test_what_hears_and_what_speaks_is_known_by_its_operations(model, listed_by, name):
    assert kinds(operations={**HEARING, **SPEAKING}).typed(model, listed_by) == name


def test_an_upstream_that_hears_and_speaks_says_nothing_of_a_model():
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
def test_what_is_declared_of_a_model_counts_first(capabilities, name):
    models = {"m": {"upstream": "embed", "capabilities": capabilities}}
    operations = {**OPERATIONS, "rerank": {"upstream": "rank", "model": "m"}}
    assert kinds(operations=operations, models=models).typed("m", ["rank"]) == name


def test_a_model_that_two_operations_name_has_no_kind():
    both = {**RERANK_AT_CHAT, "chat": {"upstream": "chat", "model": "rr"}}
    assert kinds(operations=both, models={"*": {"upstream": "chat"}}).typed("rr", ["chat"]) == "rr"
