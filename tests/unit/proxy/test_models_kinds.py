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
MODELS = {
    "own": {"upstream": "chat"},
    "seer": {"upstream": "chat", "capabilities": {"vision": True}},
    "long": {"upstream": "chat", "capabilities": {"dimensions": 3}},
}
RANKER = {"rerank": {"upstream": "chat", "model": "rr"}}
EARS = {name: {"upstream": "ears", "model": "scribe"} for name in ("transcriptions", "translations")}
SPEECH = {**EARS, "speech": {"upstream": "voice", "model": "reader"}}
MIXED = {"transcriptions": {"upstream": "ears"}, "speech": {"upstream": "ears"}}


@pytest.mark.parametrize(
    ("operations", "models", "model", "listed_by", "name"),
    [
        # declared, or the only kind of the upstream
        (OPERATIONS, MODELS, "corp", ["embed"], "corp___embedding"),
        (OPERATIONS, MODELS, "corp", ["rank"], "corp___rerank"),
        (OPERATIONS, MODELS, "bge-m3", ["embed"], "bge-m3"),
        (OPERATIONS, MODELS, "corp", ["chat"], "corp"),
        (OPERATIONS, MODELS, "corp", ["chat", "embed"], "corp"),
        (OPERATIONS, MODELS, "own", ["embed"], "own"),
        (OPERATIONS, MODELS, "seer", ["rank"], "seer___vision"),
        (OPERATIONS, MODELS, "long", [], "long___embedding"),
        ({**OPERATIONS, "speech": {"rules": {"drop": ["user"]}}}, {}, "corp", ["rank"], "corp___rerank"),
        # other models target the upstream
        (OPERATIONS, {"*": {"upstream": "embed"}}, "corp", ["embed"], "corp"),
        (RANKER, {"*": {"upstream": "chat"}}, "gpt-5", ["chat"], "gpt-5"),
        # the default model of an operation
        (RANKER, {}, "rr", ["chat", "embed"], "rr___rerank"),
        (RANKER, {"rr": {"upstream": "embed"}}, "rr", ["chat", "embed"], "rr___rerank"),
        ({**RANKER, "chat": {"upstream": "chat", "model": "rr"}}, {"*": {"upstream": "chat"}}, "rr", ["chat"], "rr"),
        # speech
        (SPEECH, {}, "corp", ["ears"], "corp___whisper"),
        (SPEECH, {}, "scribe", [], "scribe___whisper"),
        (SPEECH, {}, "reader", [], "reader___tts"),
        (MIXED, {}, "corp", ["ears"], "corp"),
    ],
)
def test_the_kind_is_declared_or_the_only_one_that_the_configuration_determines(
    operations, models, model, listed_by, name
):
    assert kinds(operations=operations, models=models).typed(model, listed_by) == name


def test_a_single_upstream_for_all_operations_has_no_kind():
    config = Config.model_validate({"upstreams": {"u": UPSTREAMS["chat"]}, "operations": {"rerank": {"upstream": "u"}}})
    assert Kinds(config).typed("gpt-5", ["u"]) == "gpt-5"


@pytest.mark.parametrize(
    ("capabilities", "name"),
    [
        ({"kind": "asr"}, "m___whisper"),
        ({"kind": "vision"}, "m___vision"),
        ({"kind": "chat"}, "m"),
        ({"kind": "chat", "dimensions": 3, "vision": True}, "m"),
    ],
)
def test_the_declared_kind_has_precedence(capabilities, name):
    models = {"m": {"upstream": "embed", "capabilities": capabilities}}
    operations = {**OPERATIONS, "rerank": {"upstream": "rank", "model": "m"}}
    assert kinds(operations=operations, models=models).typed("m", ["rank"]) == name
