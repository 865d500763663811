import pytest

from gatepass.dialects.base import PARAMETERS, Dialect, operation_url, path_segment, raw_request, with_query
from gatepass.errors import ModelNotFound
from gatepass.types import Call, OutboundRequest, Target, Timeouts
from tests.rows import CHAT, MODELS

TIMEOUTS = Timeouts(1.0, 2.0, 3.0, 4.0)
TARGET = Target("chat", "theirs")
CLIENT = ((b"authorization", b"Bearer client"), (b"accept", b"application/json"), (b"user-agent", b"u"))


def call(operation=CHAT, *, stream=False, headers=CLIENT, body=b'{"model": "m"}'):
    return Call("gp-1", operation, "ragflow", "m", body, headers, stream)


def test_stream_asks_for_events():
    request = Dialect().encode(call(stream=True), TARGET, "https://h/v1", TIMEOUTS)
    assert (b"accept", b"text/event-stream") in request.headers
    assert [name for name, _ in request.headers].count(b"accept") == 1


def test_configured_headers_are_forwarded_and_a_user_agent_is_added():
    headers = ((b"ai-resource-group", b"g"), (b"connection", b"accept"))
    request = Dialect().encode(call(headers=headers), TARGET, "https://h/v1", TIMEOUTS, ["AI-Resource-Group"])
    assert request.headers == (
        (b"ai-resource-group", b"g"),
        (b"accept", b"application/json"),
        (b"accept-encoding", b"identity"),
        (b"content-type", b"application/json"),
        (b"user-agent", b"gatepass"),
        (b"x-request-id", b"gp-1"),
    )


def test_the_upstream_receives_the_id_of_the_call_and_no_other():
    """The client's own field may not be usable in a log search. The call's id derives from it if possible."""
    headers = ((b"x-request-id", b"<theirs>"), (b"x-request-id", b"another"))
    request = Dialect().encode(call(headers=headers), TARGET, "https://h/v1", TIMEOUTS, ["X-Request-Id"])
    assert [value for name, value in request.headers if name == b"x-request-id"] == [b"gp-1"]


def test_get_sends_no_body_even_when_the_client_did():
    request = Dialect().encode(call(MODELS, body=b"{}"), TARGET, "https://h/v1", TIMEOUTS)
    assert (request.method, request.url, request.body) == ("GET", "https://h/v1/models", b"")
    assert b"content-type" not in dict(request.headers)


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("https://h", "https://h/chat/completions"),
        ("https://h/api/v3", "https://h/api/v3/chat/completions"),
        ("http://[::1]:8080/v1/?a=b", "http://[::1]:8080/v1/chat/completions?a=b"),
    ],
)
def test_path_goes_behind_the_base_and_before_its_query(base_url, expected):
    assert operation_url(base_url, CHAT.path) == expected


@pytest.mark.parametrize(
    ("name", "written"),
    [("gpt-4o", "gpt-4o"), ("a/../b", "a%2F..%2Fb"), ("a?b#c d", "a%3Fb%23c%20d"), ("ä", "%C3%A4"), ("...", "...")],
)
def test_a_name_is_one_segment_whatever_it_holds(name, written):
    assert path_segment(name) == written


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_model_that_cannot_be_a_path_segment_is_refused(name):
    with pytest.raises(ModelNotFound) as caught:
        path_segment(name)
    assert (caught.value.message, caught.value.param) == (
        f"{name!r} cannot be the name of a model.",
        "model",
    )


OWN = OutboundRequest("GET", "https://u.example/v1/files", ((b"accept", b"application/json"), (b"x-request-id", b"1")))


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        (b"", ""),
        (b"limit=2&after=file-1", "?limit=2&after=file-1"),
        (b"api_key=mine&purpose=batch", "?purpose=batch"),
        (b"include[]=logprobs", "?include[]=logprobs"),
        (b"include%5B%5D=reasoning.encrypted_content&Limit=2", "?include%5B%5D=reasoning.encrypted_content"),
        (
            b"stream=true&starting_after=7&include_obfuscation=false&a=b",
            "?stream=true&starting_after=7&include_obfuscation=false",
        ),
        (b"limit=" + b"9" * 600, ""),
        (b"api-version=1", ""),
    ],
)
def test_only_known_parameters_in_plain_letters_go_up(query, asked):
    assert with_query(OWN, query, PARAMETERS).url == OWN.url + asked


def test_query_parameters_follow_those_of_the_dialect():
    url = "https://u.example/openai/files?api-version=2024-10-21"
    assert with_query(OutboundRequest("GET", url), b"limit=2", PARAMETERS).url == url + "&limit=2"


def test_raw_request_forwards_media_types_but_no_cookie():
    headers = ((b"accept", b"audio/mpeg"), (b"content-type", b"multipart/form-data; boundary=b"), (b"cookie", b"a"))
    request = raw_request(OWN, headers, is_form=True)
    assert request.headers == (
        (b"x-request-id", b"1"),
        (b"accept", b"audio/mpeg"),
        (b"content-type", b"multipart/form-data; boundary=b"),
    )
    assert dict(raw_request(OWN, headers[1:]).headers) == {b"x-request-id": b"1", b"accept": b"*/*"}
