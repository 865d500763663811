import json

import pytest

from gatepass.dialects.reply_check import ReceivedReply, classify_error
from gatepass.errors import UpstreamErrorReply
from gatepass.learning.absent_path import lacks_path
from gatepass.protocols.operations import call_of, match_operation
from gatepass.types import Call
from tests.unit.learning.rejections import STREAM


def a_call(operation: str, **members: object) -> Call:
    text = (
        {"input": "Weather?"} if operation == "responses" else {"messages": [{"role": "user", "content": "Weather?"}]}
    )
    return call_of(
        match_operation("POST", f"/v1/{operation}").operation, "gpt-9", {"model": "gpt-9", **text, **members}
    )


def is_absent(status: int, body: bytes, call: Call, kind: str = "application/json") -> bool:
    headers = ((b"content-type", kind.encode()),)
    error = classify_error(ReceivedReply("chat", status, headers, body, host="models.example"))
    assert isinstance(error, UpstreamErrorReply)
    return lacks_path(error, call, ("gpt-9", "m"))


@pytest.mark.parametrize(
    ("status", "message", "is_meant"),
    [
        (404, "Not Found", True),
        (405, "Method Not Allowed", True),
        (404, "Invalid URL (POST /v1/responses)", True),
        (404, "Cannot POST /v1/responses", True),
        (404, "No static resource v1/responses.", True),  # Spring
        (404, "No static resource v1/responses for request '/v1/responses'.", True),
        (404, "no Route matched with those values", True),  # Kong
        (404, "404 Route Not Found", True),  # APISIX
        (404, "No matching route found.", True),
        (501, "no handler for POST /v1/responses", True),
        (404, "The path /v1/responses is not supported", True),
        (400, "Unknown path: /v1/responses", True),
        (404, "The requested URL was not found on the server. If you entered the URL manually please check it.", True),
        (404, "No one answers here", True),
        (400, "Unsupported endpoint '/v1/responses' for provider vertex", True),
        (400, "Endpoint /v1/responses not supported. Use /v1/chat/completions.", True),
        (400, "当前渠道不支持 /v1/responses 接口", True),
        (400, "该模型服务暂不支持 responses 接口", True),
        (400, "不支持的接口：/v1/responses", True),
        (500, "接口 /v1/responses 未实现", True),
        (400, "This model does not support the Responses API.", True),
        (405, "unsupported operation: responses is not supported by cohere", True),
        (404, "store is not supported", False),
        (404, "No results for purple elephants in the attic", False),
        (400, "/v1/responses 不支持 store 参数", False),
        (404, "no route for the model m/responses", False),
        (404, "The model `gpt-9` does not exist", False),
        (404, "gpt-9 is gone", False),
        (404, "Previous response with id 'resp_1' not found.", False),
        (404, "The vector store vs_1 is gone", False),
        (500, "Not Found", False),
        (500, "worker died while serving /v1/responses", False),
        (502, "Invalid URL (POST /v1/responses)", False),
        (400, STREAM, False),
        (400, "Invalid value: '/responses'. Supported values are: 'x'.", False),
        (400, "body/responses/0/content/0/thinking must be string", False),
        (400, 'model "m" is not accessible via the /responses endpoint', False),
        (400, "Invalid URL in image_url", False),
        (400, "unsupported url ftp://a/responses", False),
        (400, "streaming is not supported for /v1/responses", False),
        (404, "Failed to fetch image: server answered with an HTML page", False),
        (400, "`store` is wrong: see https://docs.example/api/responses", False),
    ],
)
def test_an_error_is_about_the_path_or_about_something_else(status, message, is_meant):
    text = "Tell me all about purple elephants in the attic of the house"
    call = a_call("responses", input=text, safety_identifier="vs_1", stream=True, store=False)
    assert is_absent(status, json.dumps({"error": {"message": message}}).encode(), call) is is_meant


@pytest.mark.parametrize(
    ("status", "message", "is_meant"),
    [
        (500, "messages is not supported by openai", True),
        (400, "This server does not support the Messages API.", True),
        (400, "不支持 messages 接口", True),
        (400, "messages: unknown role 'x'", False),
        (400, "system messages are not supported", False),
        (400, "messages are not supported with role tool", False),
        (400, "messages.1.content: unsupported block", False),
        (400, "不支持 messages 中的 system 角色", False),
        (400, "messages 不支持 system 角色", False),
        (404, "Unexpected value(s) `x/messages` for the `anthropic-beta` header.", False),
    ],
)
def test_the_name_of_the_operation_is_not_the_member_that_is_called_like_it(status, message, is_meant):
    call = a_call("messages", system="Be short.")
    assert is_absent(status, json.dumps({"error": {"message": message}}).encode(), call) is is_meant


@pytest.mark.parametrize(
    ("status", "body", "kind", "is_meant"),
    [
        (404, b"", "text/plain", True),
        (405, b"", "text/plain", True),
        (404, b"{}", "application/json", True),
        (404, b"<html><head><title>404 Not Found</title></head><body>nginx</body></html>", "text/html", True),
        (404, b"<html><body>Cannot POST /v1/responses</body></html>", "text/html", True),  # Express
        (404, b"<title>Seite nicht gefunden</title>", "text/html", True),
        (404, b"<title>Request Rejected</title>", "text/html", False),
        (404, b"404 page not found\n", "text/plain", True),
        (400, b"<html><title>Request Header Too Large</title></html>", "text/html", False),
        (500, b"<title>responses is not supported</title>", "text/html", False),
    ],
)
def test_a_reply_without_an_error_is_about_the_path_by_its_status(status, body, kind, is_meant):
    assert is_absent(status, body, a_call("responses"), kind) is is_meant


@pytest.mark.parametrize(
    "members",
    [
        {"previous_response_id": "resp_1"},
        {"prompt": {"id": "p"}},
        {"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": {"url": "https://a.example"}}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}], "user": "a" * 2_000_000},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://a.example/b.png"}]}]},
    ],
)
def test_a_request_that_names_an_object_may_lack_that_object(members):
    assert not is_absent(404, b'{"detail": "Not Found"}', a_call("responses", **members))


def test_what_is_null_or_sent_along_names_no_object():
    picture = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    asked = a_call("responses", previous_response_id=None, input=[{"role": "user", "content": [picture]}])
    assert is_absent(404, b'{"detail": "Not Found"}', asked)


@pytest.mark.parametrize("status", [400, 404])
@pytest.mark.parametrize(
    "word",
    [
        "a ",
        "a/",
        "no such ",
        "x",
        "/v1/",
        " ",
        "not supported ",
        "'\"",
        "Invalid URL a/",
        "不支持",
        "https://",
        "a-",
        "found ",
    ],
)
def test_a_hostile_text_is_read_in_linear_time(status, word):
    """Nothing is measured: a search that goes back would take minutes."""
    text = json.dumps({"error": {"message": (word * 64 * 1024)[: 64 * 1024]}}).encode()
    is_absent(status, text, a_call("responses"))


@pytest.mark.parametrize(
    ("operation", "status", "message", "is_meant"),
    [
        ("responses", 404, "There is no web service at this address. Please verify the address.", True),
        ("messages", 501, "UNIMPLEMENTED: unknown service", True),
        ("messages", 500, "Error: /v1/messages is not implemented for this provider", True),
        ("responses", 400, "The operation '/v1/responses' is unsupported.", True),
        ("responses", 500, "Timeout while calling https://10.0.0.1/v1/responses: not supported TLS version", False),
        ("messages", 400, "The messages API does not support the system role", False),
        ("messages", 404, "Your subscription has ended", False),
        ("messages", 404, "Weather? is a question without an answer", False),
        ("responses", 404, "Expecting ',' delimiter: line 1 column 9 (char 8)", False),
    ],
)
def test_other_words_and_other_causes(operation, status, message, is_meant):
    asked = json.dumps({"error": {"message": message}}).encode()
    assert is_absent(status, asked, a_call(operation, store=False)) is is_meant
