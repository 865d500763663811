"""Which path is which operation, and which profile it names."""

from itertools import product

import pytest
from msgspec.structs import replace

from gatepass.config.access import BUILT_IN_PROFILES, PLAIN
from gatepass.errors import MethodNotAllowed, UnknownPath
from gatepass.protocols.operations import (
    OPERATIONS,
    Match,
    base_url,
    match_operation,
    operation_at,
    route_of,
    select_profile,
    split_profile,
    unknown_path_error,
    upgrade_error,
)
from gatepass.types import ClientRequest

BY_NAME = {operation.name: operation for operation in reversed(OPERATIONS)}
CHAT, EMBEDDINGS, RERANK, RESPONSES, MODELS, MODEL = (
    BY_NAME[name] for name in ("chat", "embeddings", "rerank", "responses", "models", "model")
)


def row(method, path):
    (found,) = (operation for operation in OPERATIONS if (operation.method, operation.path) == (method, path))
    return found


def one_of(method, path, filled):
    return Match(replace(row(method, path), path=filled))


@pytest.mark.parametrize(
    ("method", "path", "found"),
    [
        ("POST", "/chat/completions", Match(CHAT)),
        ("POST", "/embeddings", Match(EMBEDDINGS)),
        ("POST", "/rerank", Match(RERANK)),
        ("POST", "/responses", Match(RESPONSES)),
        ("GET", "/files/file-a_1.b", one_of("GET", "/files/{id}", "/files/file-a_1.b")),
        ("POST", "/batches/b1/cancel", one_of("POST", "/batches/{id}/cancel", "/batches/b1/cancel")),
        ("GET", "/responses/r/input_items", one_of("GET", "/responses/{id}/input_items", "/responses/r/input_items")),
        ("POST", "/messages", Match(row("POST", "/messages"))),
        ("GET", "/models", Match(MODELS)),
        ("HEAD", "/models", Match(MODELS)),
        ("GET", "/models/gpt-4o", Match(MODEL, "gpt-4o")),
        ("GET", "/models/org/model:7b/x", Match(MODEL, "org/model:7b/x")),
        ("GET", "/models/v1/models", Match(MODEL, "v1/models")),
        ("GET", "/models/模 型", Match(MODEL, "模 型")),
    ],
)
def test_an_operation_is_found_under_each_of_its_paths(method, path, found):
    for base_path, prefix, slashes in product(("", "/llm"), ("/v1", "", "/v1/v1"), ("", "///")):
        whole = base_path + prefix + path + slashes
        assert match_operation(method, whole, base_path) == found, whole


UNKNOWN = (
    *("/v1/complete", "/v1/v1/v1", "/v2/chat/completions", "/v1/v1/v1/models", "/chat", "/v1/chat/completions/x"),
    *("/V1/models", "/v1/modelsx", "/v1/chat/completions?x"),
    # several slashes equal one
    *("//", "//v1", "//..//v1/models", "/v1//../models", "//v1//files//..//models", "//host:80/v1/models"),
    # an id is one plain word
    *("/v1/files/..", "/v1/files/a/b/content", "/v1/files/a%2Fb", "/v1/files/a?b", "/v1/files/a/contents"),
    *("/v1/responses/a/input_items/b", "/v1/batches/é", "/v2/files/a"),
)


@pytest.mark.parametrize("path", UNKNOWN)
def test_any_other_path_is_unknown(path):
    with pytest.raises(UnknownPath) as caught:
        match_operation("GET", path)
    reported = caught.value.message
    assert reported.startswith(f"No operation has the path {path}. The base URL is /v1.")
    assert len(reported) < 250, "a client without a key receives it: no list of paths"


@pytest.mark.parametrize("base_path", ["", "/llm"])
@pytest.mark.parametrize(
    ("method", "path", "found"),
    [
        ("POST", "//v1/chat/completions", Match(CHAT)),
        ("POST", "//v1", Match(RERANK, at_root=True)),
        ("GET", "//v1//models//", Match(MODELS)),
        ("GET", "//v1/models//data/llama//7b", Match(MODEL, "/data/llama//7b")),
        ("GET", "/v1/files//file-1//content", one_of("GET", "/files/{id}/content", "/files/file-1/content")),
    ],
)
def test_several_slashes_are_one_but_in_a_models_id(base_path, method, path, found):
    assert match_operation(method, base_path + path, base_path) == found
    assert match_operation(method, f"/{base_path}{path}", base_path) == found


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("/v1/chat/completions/chat/completions", "/v1/chat/completions"),
        ("/api/v1/chat/completions", "/api/v1"),
        ("/v1/v1/v1/completions", "/v1/v1/v1"),
    ],
)
def test_a_wrong_base_url_is_reported_beside_the_right_one(path, wrong):
    reported = unknown_path_error(path, "", "http://gw/v1").message
    assert reported == (
        f"No operation has the path {path}. The base URL is http://gw/v1."
        f" The base URL of this client seems to end in {wrong}."
    )


@pytest.mark.parametrize(
    ("method", "path", "wrong"),
    [
        ("POST", "/v1/responses/responses", "/v1/responses"),
        ("GET", "/files/models", "/files"),
        ("POST", "/v1/models/chat/completions", "/v1/models"),
    ],
)
def test_a_base_url_that_ends_in_an_operation_with_ids_is_reported_too(method, path, wrong):
    with pytest.raises(UnknownPath, match=f"seems to end in {wrong}\\.$"):
        match_operation(method, path)


@pytest.mark.parametrize("path", ["/", "/v1", "/api/tags", "/v1/threads/1/runs", ""])
def test_a_path_without_a_base_url_gets_the_right_one(path):
    assert unknown_path_error(path, "/llm").message == f"No operation has the path {path}. The base URL is /llm/v1."


@pytest.mark.parametrize("path", ["/mcp", "/v1/mcp", "/mcp/", "/v1/mcp/tools", "/mcp/tools/mcp"])
def test_a_client_of_mcp_learns_where_its_servers_and_its_models_are(path: str):
    message = unknown_path_error(path, "", "http://gw/v1").message
    assert message == (
        f"There is no MCP server at {path}: one that `mcp` of the configuration names is at /mcp/NAME."
        " For its models, a host of MCP uses http://gw/v1 as the base URL."
    )
    with pytest.raises(UnknownPath, match="no MCP server at"):
        match_operation("POST", path)
    assert "is at /llm/mcp/NAME" in unknown_path_error(f"/llm{path}", "/llm").message


@pytest.mark.parametrize("base_path", ["", "/llm"])
@pytest.mark.parametrize("path", ["/v1/messages/nothing", "/v1//v1/messages/b/c/d", "/messages/batches/b-1/nothing"])
def test_a_path_below_messages_is_unknown_in_the_format_of_its_clients(path, base_path):
    with pytest.raises(UnknownPath, match="No operation has the path"):
        match_operation("POST", base_path + path, base_path)
    found = operation_at(base_path + path, base_path)
    assert found is not None
    assert found.name == "messages"


@pytest.mark.parametrize("name", ["compact", "input_tokens"])
@pytest.mark.parametrize("path", ["/v1/responses/{}", "/responses/{}/", "/llm/v1/responses/{}"])
def test_an_operation_on_responses_is_no_id_of_one(path, name):
    base_path, path = "/llm" if path.startswith("/llm") else "", path.format(name)
    assert match_operation("POST", path, base_path).operation.protocol == name
    with pytest.raises(MethodNotAllowed, match="use POST"):
        match_operation("GET", path, base_path)


@pytest.mark.parametrize(
    ("method", "offer", "is_refused"),
    [
        *(("GET", b"websocket", True), ("GET", b"h2c, WebSocket", True), ("GET", b"h2c", False), ("GET", b"", False)),
        *(("GET", b"websocketx", False), ("POST", b"websocket", False), ("HEAD", b"websocket", False)),
    ],
)
def test_a_websocket_handshake_is_a_get_with_an_offer(method, offer, is_refused):
    error = upgrade_error(request(method, "/v1/responses", upgrade=offer))
    assert (error is not None) == is_refused
    if error is not None:
        assert error.message == "gatepass does not support WebSockets. Send the request with POST to /v1/responses."


def request(method: str, path: str, **fields: bytes) -> ClientRequest:
    headers = tuple((name.encode(), value) for name, value in fields.items())
    return ClientRequest("id", method, path, headers, "127.0.0.1", 0.0)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        *(("/llm/v1/chat/completions", "chat"), ("/llm//models/a/b", "model"), ("/llm/files/f", "files")),
        *(("/llm/v1", None), ("/llm", None), ("/llm/x", None), ("/v1/models", None)),
    ],
)
def test_operation_at_finds_the_operation_for_any_method(path, name):
    found = operation_at(path, "/llm")
    assert (None if found is None else found.name) == name


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/v1//"])
def test_the_root_of_the_api_may_be_the_rerankers(path):
    assert match_operation("POST", "/llm" + path, "/llm") == Match(RERANK, at_root=True)
    with pytest.raises(UnknownPath):
        match_operation("GET", path)


@pytest.mark.parametrize("path", ["/v1-openai/embeddings", "/v1/v1-openai/embeddings/"])
def test_gpustacks_path_of_embeddings_is_served(path):
    assert match_operation("POST", path).operation.name == "embeddings"


def test_a_long_unknown_path_is_cut_in_the_message():
    for path in ("/" + "x" * 100_000, "/" * 100_000 + "x", "/" + "x" * 100_000 + "/models", "/v1/files/" + "x" * 257):
        with pytest.raises(UnknownPath) as caught:
            match_operation("GET", path)
        assert len(caught.value.message) < 330


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("PATCH", "/v1/files", "POST, GET, HEAD"),
        ("POST", "/v1/files/f", "GET, HEAD, DELETE"),
        ("GET", "/v1/responses/r/cancel", "POST"),
        ("get", "/v1/models", "GET, HEAD"),
    ],
)
def test_a_wrong_method_gets_the_right_one(method, path, allow):
    with pytest.raises(MethodNotAllowed) as caught:
        match_operation(method, path)
    assert caught.value.allow == allow
    assert f" is not possible at {path}; use " in caught.value.message


@pytest.mark.parametrize(
    ("path", "base_path", "found"),
    [
        ("/for/dify/v1/chat/completions", "", ("dify", "/v1/chat/completions")),
        ("/llm/for/dify/v1/models", "/llm", ("dify", "/llm/v1/models")),
        ("/for/dify", "", ("dify", "/")),
        ("/for//dify//v1/models", "", ("dify", "/v1/models")),
        ("/for/dify/v1/models//data/llama", "", ("dify", "/v1/models//data/llama")),
        ("/v1/models/a/for/b", "", (None, "/v1/models/a/for/b")),
        ("/v1/for/dify", "", (None, "/v1/for/dify")),
        ("/for/dify/v1/models", "/llm", (None, "/for/dify/v1/models")),
    ],
)
def test_path_is_split_into_profile_and_rest(path, base_path, found):
    assert split_profile(path, base_path) == found


def test_path_overrides_the_key_and_both_override_plain():
    assert select_profile(BUILT_IN_PROFILES, "dify", "ragflow") is BUILT_IN_PROFILES["dify"]
    assert select_profile(BUILT_IN_PROFILES, None, "ragflow") is BUILT_IN_PROFILES["ragflow"]
    assert select_profile(BUILT_IN_PROFILES, None, None) is PLAIN


@pytest.mark.parametrize("name", ["", "rag", "x" * 5000])
def test_unknown_profile_is_reported_with_the_known_ones(name):
    with pytest.raises(UnknownPath) as caught:
        select_profile(BUILT_IN_PROFILES, name, "ragflow")
    assert "ragflow" in caught.value.message
    assert len(caught.value.message) < 400


HOST = (b"host", b"gw")


@pytest.mark.parametrize(
    ("headers", "more", "shown"),
    [
        *(
            (((b"host", host),), (), f"http://{host.decode()}/v1")
            for host in (b"h:8080", b"gate_pass:80", b"[::1]:8080")
        ),
        *((((b"host", host),), (), "/v1") for host in (b"", b"evil.example/x?", b"a\x1b[31m", b"a" * 300)),
        *((headers, (), "/v1") for headers in ((), ((b"host", b"a"), (b"host", b"b")))),
        ((HOST, (b"x-forwarded-proto", b"https")), (), "https://gw/v1"),
        *(((HOST, (b"x-forwarded-proto", proto)), (), "http://gw/v1") for proto in (b"http", b"javascript")),
        ((HOST,), ("/llm", "dify"), "http://gw/llm/for/dify/v1"),
        ((), ("/llm",), "/llm/v1"),
    ],
)
def test_base_url_has_the_clients_valid_host_the_base_path_and_the_profile(headers, more, shown):
    assert base_url(headers, *more) == shown


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("POST", "/v1/responses", "/v1/responses"),
        ("POST", "/for/dify/v1/responses/compact", "/v1/responses/compact"),
        ("GET", "/v1/responses/resp_1", "/v1/responses/{id}"),
        ("GET", "/v1/files/f/content", "/v1/files/{id}/content"),
        ("POST", "/v1/images/edits", "/v1/images/edits"),
        ("GET", "/v1/models/org/m", "/v1/models/{model}"),
        ("GET", "/v1/responses", ""),
        ("POST", "/x", ""),
    ],
)
def test_the_route_is_that_of_the_path(method, path, route):
    assert route_of(method, path, "/llm" if path.startswith("/llm") else "") == route
