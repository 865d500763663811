import pytest

from gatepass.call import Target, Timeouts
from gatepass.config.model import Config
from gatepass.errors import ModelNotFound
from gatepass.routing.table import Listing, RouteTable

UPSTREAMS = {name: {"base_url": f"http://127.0.0.1/{name}"} for name in ("chat", "embed", "azure")}


def table(**blocks) -> RouteTable:
    return RouteTable.from_config(Config.model_validate({"upstreams": UPSTREAMS, **blocks}))


FULL = table(
    operations={"embeddings": {"upstream": "embed"}},
    models={
        "gpt-4o": {"upstream": "chat", "name": "gpt-4o-240806"},
        "gpt-*": {"upstream": "azure"},
        "gpt-4*": {"upstream": "chat"},
        "best": {"targets": [{"upstream": "chat", "name": "gpt-5"}, {"upstream": "azure"}]},
        "*": {"upstream": "chat"},
    },
)


@pytest.mark.parametrize(
    ("operation", "model", "targets"),
    [
        ("chat", "gpt-4o", (Target("chat", "gpt-4o-240806"),)),
        ("embeddings", "gpt-4o", (Target("chat", "gpt-4o-240806"),)),
        ("chat", "gpt-4-turbo", (Target("chat"),)),
        ("chat", "gpt-3", (Target("azure"),)),
        ("chat", "best", (Target("chat", "gpt-5"), Target("azure"))),
        ("chat", "other", (Target("chat"),)),
        ("embeddings", "other", (Target("embed"),)),
    ],
)
def test_exact_beats_longest_glob_beats_operation_beats_star(operation, model, targets):
    assert FULL.resolve(operation, model) == targets


def test_an_unknown_model_is_told_what_exists():
    routes = table(models={f"m{n}": {"upstream": "chat"} for n in range(12)})
    with pytest.raises(ModelNotFound) as caught:
        routes.resolve("chat", "nope")
    assert "'nope'" in caught.value.message
    assert "m0, m1" in caught.value.message
    assert "m11" not in caught.value.message
    assert caught.value.param == "model"


def test_an_unknown_model_tells_nobody_of_models_that_are_not_theirs():
    routes = table(models={"mine": {"upstream": "chat"}, "theirs": {"upstream": "chat"}, "t*": {"upstream": "chat"}})
    with pytest.raises(ModelNotFound, match=r"Configured: mine\.$"):
        routes.resolve("chat", "nope", may_see=lambda name: name == "mine")


def test_one_upstream_alone_needs_no_models():
    config = Config.model_validate({"upstreams": {"only": UPSTREAMS["chat"]}})
    assert RouteTable.from_config(config).resolve("embeddings", "any/thing") == (Target("only"),)


def test_two_upstreams_without_models_guess_nothing():
    with pytest.raises(ModelNotFound, match="none for this operation"):
        table().resolve("chat", "m")


def test_a_models_timeouts_replace_the_upstreams_one_by_one():
    routes = RouteTable.from_config(
        Config.model_validate(
            {
                "upstreams": {"chat": {**UPSTREAMS["chat"], "timeouts": {"idle_s": 7, "first_byte_s": 8}}},
                "models": {"slow": {"upstream": "chat", "timeouts": {"first_byte_s": 900}}},
            }
        )
    )
    assert routes.resolve("chat", "slow") == (Target("chat", None, Timeouts(first_byte_s=900, idle_s=7)),)


def test_the_listing_opens_what_wildcards_and_operations_open():
    assert FULL.listing() == Listing(
        names=("gpt-4o", "best"),
        open_upstreams=(("embed", "*"), ("chat", "*"), ("chat", "gpt-4*"), ("azure", "gpt-*")),
    )
