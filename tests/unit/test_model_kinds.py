"""What a model is for, by what the configuration says."""

import pytest

from gatepass.config.model import Config
from gatepass.model_kinds import Kinds

UPSTREAMS = {name: {"base_url": f"https://{name}.example/v1"} for name in ("chat", "embed", "rank")}


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
        ("own", ["chat"], "own___embedding"),
        ("seer", ["rank"], "seer___vision"),
        ("long", [], "long___embedding"),
    ],
)
def test_a_model_is_what_is_declared_of_it_or_what_its_upstream_alone_does(model, listed_by, name):
    models = {
        "own": {"upstream": "embed"},
        "seer": {"upstream": "chat", "capabilities": {"vision": True}},
        "long": {"upstream": "chat", "capabilities": {"dimensions": 3}},
    }
    assert kinds(operations=OPERATIONS, models=models).typed(model, listed_by) == name


@pytest.mark.parametrize("pattern", ["*", "e*"])
def test_an_upstream_that_serves_other_models_too_says_nothing_of_one(pattern):
    assert kinds(operations=OPERATIONS, models={pattern: {"upstream": "embed"}}).typed("corp", ["embed"]) == "corp"
