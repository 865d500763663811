import pytest

from gatepass.config.model import Config
from gatepass.errors import ModelNotFound
from gatepass.proxy.routing import RouteTable
from gatepass.types import Target, Timeouts

UPSTREAMS = {name: {"base_url": f"http://127.0.0.1/{name}"} for name in ("chat", "embed", "azure")}


def table(**blocks) -> RouteTable:
    return RouteTable(Config.model_validate({"upstreams": UPSTREAMS, **blocks}))


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
def test_exact_name_overrides_glob_operation_and_star(operation, model, targets):
    assert FULL.route(operation, model).targets == targets


@pytest.mark.parametrize(
    ("model", "name"),
    [("gpt-4o", "gpt-4o"), ("gpt-4-turbo", "gpt-4*"), ("gpt-3", "gpt-*"), ("best", "best"), ("invented", None)],
)
def test_the_configured_name_of_a_model_is_its_own_or_its_pattern(model, name):
    assert FULL.configured_name(model) == name


def test_the_default_model_of_an_operation_is_configured():
    routes = table(operations={"embeddings": {"upstream": "embed", "model": "bge"}})
    assert [routes.configured_name(model) for model in ("bge", "", "invented")] == ["bge", None, None]


def test_the_error_for_an_unknown_model_lists_the_models():
    routes = table(models={f"m{n}": {"upstream": "chat"} for n in range(12)})
    with pytest.raises(ModelNotFound) as caught:
        routes.route("chat", "nope")
    assert "'nope'" in caught.value.message
    assert "m0, m1" in caught.value.message
    assert "m9, …" in caught.value.message
    assert "m10" not in caught.value.message
    assert caught.value.param == "model"


def test_the_error_for_an_unknown_model_lists_only_models_of_the_caller():
    routes = table(models={"mine": {"upstream": "chat"}, "theirs": {"upstream": "chat"}, "t*": {"upstream": "chat"}})
    error = routes.not_found("chat", "nope", may_see=lambda name: name == "mine")
    assert "Configured: mine. Correct" in error.message


def test_without_upstreams_there_are_mcp_servers_alone():
    servers = RouteTable(Config.model_validate({"mcp": {"search": {"url": "http://127.0.0.1/mcp"}}}))
    for model in ("gpt-4o", ""):
        with pytest.raises(ModelNotFound, match=r"serves MCP servers and no models\. Add `upstreams`"):
            servers.route("chat", model)


@pytest.mark.parametrize(
    ("entry", "names_targets"),
    [
        ({}, False),
        ({"retry": {}}, True),
        ({"breaker": {}}, True),
        ({"policy": "weighted"}, True),
    ],
)
def test_targets_are_named_only_where_a_policy_is_set(entry, names_targets):
    targets = [{"upstream": "chat"}, {"upstream": "azure"}]
    assert table(models={"m": {"targets": targets, **entry}}).route("chat", "m").names_targets is names_targets


OWN = table(
    operations={
        "responses": {"upstream": "azure"},
    },
    models={
        "m": {
            "upstream": "chat",
            "name": "deployed",
            "timeouts": {"idle_s": 30},
        },
        "gpt-*": {"upstream": "chat"},
        "*": {"upstream": "chat"},
    },
)
IDLE = Timeouts(idle_s=30)


@pytest.mark.parametrize(
    ("operation", "model", "targets"),
    [
        ("chat", "m", (Target("chat", "deployed", IDLE),)),
        ("responses", "m", (Target("chat", "deployed", IDLE),)),
        ("responses", "gpt-4", (Target("chat"),)),
        ("responses", "other", (Target("azure"),)),
        ("rerank", "other", (Target("chat"),)),
        ("chat", "other", (Target("chat"),)),
    ],
)
def test_the_model_beats_the_operation(operation, model, targets):
    assert OWN.route(operation, model).targets == targets


def test_each_timeout_has_its_setting():
    (target,) = OWN.route("rerank", "m").targets
    assert target.timeouts is not None
    found = (target.timeouts.settings["first_byte_s"], target.timeouts.settings["idle_s"])
    assert found == ("upstreams.chat.timeouts.first_byte_s", "models.m.timeouts.idle_s")


def test_an_operation_may_say_the_model_of_requests_that_name_none():
    routes = table(operations={"rerank": {"upstream": "chat", "model": "rr"}, "files": {"upstream": "chat"}})
    assert [routes.default_model(name) for name in ("rerank", "files", "chat")] == ["rr", "", ""]


def test_the_error_without_a_model_names_the_operation_the_setting_and_the_models():
    routes = table(models={"mine": {"upstream": "chat"}, "theirs": {"upstream": "chat"}, "t*": {"upstream": "chat"}})
    error = routes.not_found("rerank", "", may_see=lambda name: name == "mine")
    assert error.message == (
        "The request names no model, and gatepass has no route for such requests of rerank. Set `operations:"
        " {rerank: {upstream: NAME}}` in the gatepass configuration, with a NAME of `upstreams`, or name one of these"
        " models: mine."
    )


def test_the_error_for_an_operation_without_models_suggests_no_model():
    with pytest.raises(ModelNotFound, match=r"\{files: \{upstream: NAME\}\}.* with a NAME of `upstreams`\.$"):
        table(models={"mine": {"upstream": "chat"}}).route("files", "")


def test_the_listing_opens_what_wildcards_and_operations_open():
    assert FULL.listing() == (
        ("gpt-4o", "best"),
        (("embed", "*"), ("chat", "*"), ("chat", "gpt-4*"), ("azure", "gpt-*")),
    )
