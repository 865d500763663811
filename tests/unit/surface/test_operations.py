"""Which path is which operation."""

import pytest

from gatepass.errors import MethodNotAllowed, UnknownPath
from gatepass.surface.operations import OPERATIONS, Match, match, openapi_paths

CHAT, EMBEDDINGS, MODELS, MODEL = OPERATIONS


@pytest.mark.parametrize("base_path", ["", "/llm", "/a/b"])
@pytest.mark.parametrize("prefix", ["/v1", "", "/v1/v1"])
@pytest.mark.parametrize("slashes", ["", "/", "///"])
@pytest.mark.parametrize(
    ("method", "path", "found"),
    [
        ("POST", "/chat/completions", Match(CHAT)),
        ("POST", "/embeddings", Match(EMBEDDINGS)),
        ("GET", "/models", Match(MODELS)),
        ("HEAD", "/models", Match(MODELS)),
        ("GET", "/models/gpt-4o", Match(MODEL, "gpt-4o")),
        ("GET", "/models/org/model:7b/x", Match(MODEL, "org/model:7b/x")),
        ("GET", "/models/v1/models", Match(MODEL, "v1/models")),
        ("GET", "/models/模 型", Match(MODEL, "模 型")),
    ],
)
def test_an_operation_is_found_under_each_of_its_paths(base_path, prefix, slashes, method, path, found):
    assert match(method, base_path + prefix + path + slashes, base_path) == found


@pytest.mark.parametrize(
    "path",
    [
        *("/", "", "/v1", "/v1/", "/v1/completions", "/v2/chat/completions", "/v1/v1/v1/models", "/chat"),
        *(
            "/v1/chat/completions/x",
            "//v1/models",
            "/v1//models",
            "/V1/models",
            "/v1/modelsx",
            "/v1/chat/completions?x",
        ),
    ],
)
def test_any_other_path_is_unknown(path):
    with pytest.raises(UnknownPath) as caught:
        match("POST", path)
    assert caught.value.message == (
        f"There is nothing at {path}. gatepass serves POST /v1/chat/completions, POST /v1/embeddings, "
        "GET /v1/models, GET /v1/models/{model}."
    )


@pytest.mark.parametrize("path", ["/v1/models", "/ll/v1/models", "/llmx/v1/models", "/llm", "/llm/"])
def test_what_is_not_below_the_base_path_is_unknown(path):
    with pytest.raises(UnknownPath) as caught:
        match("GET", path, "/llm")
    assert f"nothing at {path}. gatepass serves POST /llm/v1/chat/completions" in caught.value.message


def test_a_long_unknown_path_is_cut_in_the_message():
    with pytest.raises(UnknownPath) as caught:
        match("GET", "/" + "x" * 100_000)
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("HEAD", "/v1/embeddings", "POST"),
        ("OPTIONS", "/chat/completions/", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v1/v1/models/a/b", "GET, HEAD"),
        ("get", "/v1/models", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_the_right_one(method, path, allow):
    with pytest.raises(MethodNotAllowed) as caught:
        match(method, path)
    assert caught.value.allow == allow


def test_only_what_may_be_sent_twice_is_repeatable():
    assert [operation.name for operation in OPERATIONS if operation.repeatable] == ["embeddings", "models", "model"]


def test_the_openapi_fragment_has_each_operation_once():
    paths = openapi_paths("/llm")
    assert {(path, method) for path, methods in paths.items() for method in methods} == {
        ("/llm/v1/chat/completions", "post"),
        ("/llm/v1/embeddings", "post"),
        ("/llm/v1/models", "get"),
        ("/llm/v1/models/{model}", "get"),
    }
    operations = [operation for methods in paths.values() for operation in methods.values()]
    assert [operation["operationId"] for operation in operations] == ["chat", "embeddings", "models", "model"]
    assert [("requestBody" in operation, "parameters" in operation) for operation in operations] == [
        (True, False),
        (True, False),
        (False, False),
        (False, True),
    ]
    streams = ["text/event-stream" in operation["responses"]["200"]["content"] for operation in operations]
    assert streams == [True, False, False, False]
