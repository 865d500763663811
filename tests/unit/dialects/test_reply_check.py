import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.dialects.reply_check import ReceivedReply, classify_document, classify_error, classify_head
from gatepass.errors import (
    UpstreamAuth,
    UpstreamEmpty,
    UpstreamErrorReply,
    UpstreamHtml,
    UpstreamInvalid,
    UpstreamRedirect,
)
from gatepass.json_body import BOM
from gatepass.protocols.chat import CHAT
from gatepass.protocols.client_protocol import RAW
from gatepass.protocols.embeddings import EMBEDDINGS
from gatepass.protocols.models import MODELS
from gatepass.protocols.rerank import RERANK
from gatepass.protocols.responses import RESPONSES
from gatepass.replies import content

SURFACES = (CHAT, EMBEDDINGS, RERANK, RESPONSES, MODELS, RAW)
JSON = ((b"content-type", b"application/json"),)
HTML = ((b"content-type", b"text/html; charset=utf-8"),)
EVENTS = ((b"content-type", b"text/event-stream"),)
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
}
CHOICE = {"message": {"role": "assistant", "content": "hi"}}
PAD = "x" * content.WHOLE_BYTES
"""Makes a document one of those that are not read whole."""
VECTORS = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}], "model": "m"}
LOGIN = b"<!DOCTYPE html><html><head><title>\n Sign in &amp; go </title></head><body>SECRET-PAGE</body></html>"


def fields_of(error):
    if error is None:
        return None
    error_fields = {
        "class": type(error),
        "status": error.http_status,
        "code": error.public_code,
        "message": error.message,
    }
    if isinstance(error, UpstreamErrorReply):
        more = {"kind": error.kind, "param": error.param, "retry_after_s": error.retry_after_s}
        error_fields |= {name: value for name, value in more.items() if value is not None}
    assert error.hop == "upstream:chat"
    return error_fields


def refusal(status, body, headers=JSON, **more):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return fields_of(classify_error(ReceivedReply("chat", status, headers, data, **more)))


def classified(body, headers=JSON, *, surface=CHAT, **more):
    return classify_document(ReceivedReply("chat", 200, headers, body, **more), surface)


def document(body, headers=JSON, *, surface=CHAT, **more):
    """The fields of the error. None for a good reply, which is then the same object."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = classified(data, headers, surface=surface, **more)
    if isinstance(found, bytes):
        assert found is data
        return None
    return fields_of(found)


def error_fields(error_class, status, code, message, **more):
    return {"class": error_class, "status": status, "code": code, "message": message, **more}


def replied(status, code, message, kind, **more):
    return error_fields(UpstreamErrorReply, status, code, message, kind=kind, **more)


def login_page(status, answered):
    message = (
        f'The upstream "chat" (h) answered {answered} with an HTML page titled "Sign in & go" instead of JSON,'
        " probably a login page or a portal. Check that upstreams.chat.base_url is the address of the API, and that its"
        " credential is right. If it worked before, send the page's title to the owner of the upstream."
    )
    return error_fields(UpstreamHtml, status, "upstream_html", message)


def invalid(message):
    return error_fields(UpstreamInvalid, 502, "upstream_invalid", message)


# --- the head ---------------------------------------------------------------------------------


def test_only_the_head_of_a_redirect_decides():
    assert [classify_head("chat", status, JSON) for status in (200, 299, 400, 599)] == [None] * 4
    assert all(isinstance(classify_head("chat", status, ()), UpstreamRedirect) for status in (300, 399))


@pytest.mark.parametrize(
    ("location", "target", "is_login"),
    [
        (b"https://user:pw@sso.corp.example:8443/login?session=s3cret#x", "sso.corp.example", True),
        (b"/login?next=/v1", "/login", True),
        (b"https://llm.corp.example/v1/chat/completions/", "https://llm.corp.example/v1/chat/completions/", False),
        (b"http://llm.corp.example:8080/v1/models/?token=s3cret", "http://llm.corp.example:8080/v1/models/", False),
        (b"/sso/ST-1234567-cas", "another path of the same host", True),
        (b"/s/0af7651916cd43dd8448eb211c80319c", "another path of the same host", False),
        (b"https://waf.corp.example/?support_id=4711-0815", "waf.corp.example (id 4711-0815)", True),
        (b"http://[bad", "an invalid URL", False),
        (None, "nowhere (no Location)", False),
    ],
)
def test_redirect_names_the_host_and_nothing_else_of_its_target(location, target, is_login):
    headers = () if location is None else ((b"location", location),)
    which, url = "which gatepass does not follow", "the final URL (https instead of http, the whole path)"
    if is_login:
        which, url = "which is not the API", "the API's own address, or correct the credential"
    assert fields_of(classify_head("chat", 302, headers, host="llm.corp.example")) == error_fields(
        UpstreamRedirect,
        502,
        "upstream_redirect",
        f'The upstream "chat" (llm.corp.example) answered 302 Found, a redirect to {target}, {which}.'
        f" Set upstreams.chat.base_url to {url}.",
    )


@pytest.mark.parametrize(
    "target", ["https://{}.evil/", "https://{}@evil/", "https://{}:1/", "//{}/x", "{}", "a://[{}]"]
)
@pytest.mark.parametrize("secret", ["AbCdEf-Secret", "AbCd/Ef:Secret@x", "Ab" * 80])
def test_redirect_shows_no_secret_in_any_case(target, secret):
    headers = ((b"location", target.format(secret).encode()),)
    error = classify_head("chat", 302, headers, mask=lambda text: text.replace(secret, "***"))
    assert "abcd" not in str(error).lower()
    assert "abab" not in str(error).lower()


@pytest.mark.parametrize(
    ("status", "shown"), [(101, "101 Switching Protocols"), (100, "100 Continue"), (600, "600"), (999, "999"), (0, "0")]
)
def test_interim_status_is_an_error(status, shown):
    assert fields_of(classify_head("chat", status, ())) == invalid(
        f'The upstream "chat" answered {shown}, an invalid status for a final reply.'
    )


# --- refusals ---------------------------------------------------------------------------------


def test_missing_credential_is_not_reported_as_a_rejected_one():
    error = classify_error(ReceivedReply("chat", 401, (), b'{"error": {"message": "who are you?"}}', key=None))
    assert error.message == 'The upstream "chat" requires a credential that gatepass does not send: who are you?'
    assert error.retryable is False


@pytest.mark.parametrize(
    ("body", "headers", "message"),
    [
        (b"no healthy upstream", HTML, "no healthy upstream"),
        (b'{"error":{"message":"cut sho', JSON, '{"error":{"message":"cut sho'),
        (b'{"a":1}', JSON, '{"a":1}'),
        (b"\xff\x00oops", (), "� oops"),
        (b"x" * 501, (), "x" * 499 + "…"),
        (b"\x00", (), 'The upstream "chat" answered 503 Service Unavailable with a body without text.'),
        (bytes(range(256)) * 8, (), 'The upstream "chat" answered 503 Service Unavailable with a body without text.'),
        (b"{}", JSON, 'The upstream "chat" answered 503 Service Unavailable with a body without a reason: {}'),
        (b"data: [DONE]\n\n", EVENTS, "data: [DONE]"),
        (b"<Error><Code>Busy</Code></Error>", ((b"content-type", b"text/xml"),), "<Error><Code>Busy</Code></Error>"),
        (b"<400> InternalError.Algo", (), "<400> InternalError.Algo"),
        (b'data: {"error":{"message":"as an event"}}\n\n', JSON, "as an event"),
    ],
)
def test_other_text_is_quoted(body, headers, message):
    assert refusal(503, body, headers) == replied(503, "upstream_error", message, "server_error")


BASE_URL = (
    " The upstream has no such path: upstreams.chat.base_url does not end with the version, such as https://host/v1, or"
    " it does not support this operation."
)


@pytest.mark.parametrize(("status", "shown"), [(503, "503 Service Unavailable"), (529, "529"), (404, "404 Not Found")])
def test_empty_body_gets_a_sentence(status, shown):
    advice = BASE_URL if status == 404 else ""
    assert refusal(status, b" \n", ())["message"] == f'The upstream "chat" answered {shown} with an empty body.{advice}'


def test_page_keeps_its_status_and_is_never_shown():
    assert refusal(403, LOGIN, HTML, host="h") == login_page(403, "403 Forbidden")
    bad_gateway = 'The upstream "chat" (h) answered 502 Bad Gateway with an HTML page titled "Bad gateway".'
    reported = refusal(502, b"<html><title>Bad gateway</title></html>", HTML, host="h")
    assert reported == replied(502, "upstream_html", bad_gateway, "server_error")
    not_found = f'The upstream "chat" answered 404 Not Found with an HTML page. It says: Nope.{BASE_URL}'
    reported = refusal(404, b"<h1>Nope</h1>", ())
    assert reported == replied(404, "upstream_html", not_found, "invalid_request_error")
    assert refusal(401, LOGIN, HTML)["class"] is UpstreamAuth


def test_echoed_token_is_masked_in_every_kind_of_body():
    def mask(text):
        return text.replace("s3cret-token", "***")

    for body, headers in [
        (b'{"error":{"message":"bad s3cret-token","request":{"authorization":"Bearer s3cret-token"}}}', JSON),
        (b'{"detail":[{"loc":["s3cret-token"],"msg":"s3cret-token","type":"s3cret-token"}]}', JSON),
        (b"x" * 490 + b"s3cret-token", ()),
        (b"<html><title>s3cret-token</title></html>", HTML),
        (b'{"nothing":"s3cret-token"}', JSON),
    ]:
        for status in (400, 401, 500):
            assert "s3cret" not in repr(refusal(status, body, headers, mask=mask))
        assert "s3cret" not in repr(document(body, headers, mask=mask))


# --- whole replies of a 200 -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "surface"),
    [
        (COMPLETION, CHAT),
        (b"\n\n \n" + json.dumps(COMPLETION).encode() + b"\n", CHAT),
        (b"\xef\xbb\xbf" + json.dumps(COMPLETION).encode(), CHAT),
        ({**COMPLETION, "error": None}, CHAT),
        (b'{"choices": [{"message": {"content": "\\ud83d"}}]}', CHAT),
        (b'{"choices": [{"message": {"content": ""}, "logprobs": -Infinity}]}', CHAT),
        ({"choices": [{"text": "", "finish_reason": "stop"}]}, CHAT),
        ({"choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}]}, CHAT),
        ({"choices": [{"message": {"content": "hi"}}, {"error": {"message": "boom"}}]}, CHAT),
        ({"choices": [{"message": {"content": PAD}}]}, CHAT),
        (
            {"choices": [{**CHOICE, "error": {"message": "boom"}}, {"message": {"content": PAD}}]},
            CHAT,
        ),
        (VECTORS, EMBEDDINGS),
        (BOM + json.dumps({**COMPLETION, "x": "x" * content.WHOLE_BYTES}).encode(), CHAT),
        ({"data": []}, MODELS),
        ([{"id": "m"}], MODELS),
        ({"id": "m", "object": "model"}, MODELS),
    ],
)
@pytest.mark.parametrize("headers", [JSON, HTML])
def test_good_reply_is_fine_whatever_its_label(body, surface, headers):
    assert document(body, headers, surface=surface) is None


@pytest.mark.parametrize("body", [b"", b"\n\n  \r\n", b"\xef\xbb\xbf"])
def test_empty_body_is_an_error(body):
    assert document(body, host="h") == error_fields(
        UpstreamEmpty, 502, "upstream_empty", 'The upstream "chat" (h) answered 200 OK with an empty body.'
    )


@pytest.mark.parametrize("headers", [HTML, EVENTS])
def test_login_page_is_an_error(headers):
    assert document(LOGIN, headers, host="h") == login_page(502, "200 OK")


LIES = {
    "openrouter": (
        {"error": {"code": 429, "message": "slow down, try again in 2s"}},
        replied(429, "429", "slow down, try again in 2s", "rate_limit_error", retry_after_s=2.0),
    ),
    "expired": (
        {"code": 401, "msg": "token expired"},
        error_fields(
            UpstreamAuth,
            401,
            "upstream_auth",
            'The upstream "chat" does not accept the credential that gatepass sends: token expired',
            kind="authentication_error",
        ),
    ),
    "beside choices": (
        {**COMPLETION, "error": "boom"},
        replied(502, "upstream_error", "boom", "server_error"),
    ),
    "event": (
        b': ping\n\ndata: {"error":{"message":"boom","code":503}}\n\n',
        replied(503, "503", "boom", "server_error"),
    ),
    "large error beside choices": (
        {**COMPLETION, "error": {"message": "m" * content.WHOLE_BYTES}},
        replied(502, "upstream_error", "…", "server_error"),
    ),
    "beside an empty list": (
        {"choices": [], "code": 102, "message": "boom"},
        replied(400, "102", "boom", "invalid_request_error"),
    ),
    "large": (
        {"code": 102, "message": "no", "echo": "x" * content.WHOLE_BYTES},
        replied(400, "102", "no", "invalid_request_error"),
    ),
}


@pytest.mark.parametrize(("body", "expected"), LIES.values(), ids=LIES)
def test_error_in_a_200_gets_its_true_status(body, expected):
    for surface in SURFACES:
        assert document(body, surface=surface) == expected, surface


@pytest.mark.parametrize("headers", [JSON, EVENTS])
def test_events_are_not_a_document(headers):
    body = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\ndata: [DONE]\n\n'
    for events in (body, b": ping\n\n", b"data: {}"):
        assert document(events, headers) == invalid(
            'The upstream "chat" answered 200 OK with an event stream, which is not an answer to this request.'
        )


WRAPPED = [
    (b' {"code": 0, "msg": "ok", "data" : %b , "trace": 1}', CHAT, COMPLETION),
    (b'{"code":"200","message":"success","data":%b}', EMBEDDINGS, VECTORS),
    (b'{"success":true,"data":%b}', CHAT, {**COMPLETION, "x": "x" * content.WHOLE_BYTES}),
    (b'\xef\xbb\xbf{"data":%b}', CHAT, COMPLETION),
]


@pytest.mark.parametrize(("envelope", "surface", "inside"), WRAPPED)
def test_an_answer_is_taken_out_of_its_envelope_byte_for_byte(envelope, surface, inside):
    document = json.dumps(inside, indent=1).encode()
    assert classified(envelope % document, surface=surface) == document


@pytest.mark.parametrize(
    ("body", "surface", "expected"),
    [
        ({"code": 0, "data": {"choices": []}}, CHAT, "upstream_empty"),
        ({"code": 0, "data": {"choices": [], "error": "boom"}}, CHAT, "upstream_error"),
        ({"code": 0, "data": {"data": COMPLETION}}, CHAT, "upstream_invalid"),
        ({"code": 0, "data": None}, CHAT, "upstream_invalid"),
        ({"code": 500, "message": "boom", "data": COMPLETION}, CHAT, "500"),
        ({"code": 0, "data": COMPLETION}, MODELS, None),
    ],
)
def test_content_of_the_envelope_is_classified_too(body, surface, expected):
    found = document(body, surface=surface)
    assert (None if found is None else found["code"]) == expected


@pytest.mark.parametrize(
    ("body", "surface", "what"),
    [
        ({"id": 1, "object": "x"}, CHAT, 'with JSON that has no list "choices" (it has id, object)'),
        ({}, CHAT, 'with JSON that has no list "choices" (it is empty)'),
        (
            {f"n{n}": 1 for n in range(9)},
            EMBEDDINGS,
            'with JSON that has no list "data" (it has n0, n1, n2, n3, n4, n5, n6, n7, …)',
        ),
        *(({"choices": one}, CHAT, 'with a list "choices" that holds no objects') for one in ([None], [1], [PAD])),
        *(({"data": one}, EMBEDDINGS, 'with a list "data" that holds no objects') for one in ([None], [1], [PAD])),
        ([1], CHAT, "with JSON that is not an object"),
        (b"null", MODELS, "with JSON that is neither an object nor a list"),
        (
            b"OK",
            CHAT,
            "with a text instead of JSON: OK",
        ),
        (
            b'{"choices": [',
            CHAT,
            "with a body that is not JSON or was cut short (Input data was truncated)",
        ),
        (
            b'{"choices": [' + b"[" * 100_000,
            CHAT,
            "with a body that is not JSON or was cut short (the JSON is nested too deeply)",
        ),
    ],
)
def test_reply_without_the_wanted_list_of_objects_is_an_error(body, surface, what):
    assert document(body, surface=surface) == invalid(f'The upstream "chat" answered 200 OK {what}.')


@pytest.mark.parametrize(
    ("body", "surface", "expected"),
    [
        ({"choices": []}, CHAT, "without a choice"),
        ({"data": []}, EMBEDDINGS, "without a vector"),
    ],
)
def test_reply_whose_list_is_empty_is_an_empty_one(body, surface, expected):
    assert document(body, surface=surface) == error_fields(
        UpstreamEmpty, 502, "upstream_empty", f'The upstream "chat" answered 200 OK {expected}.'
    )


@pytest.mark.parametrize(("body", "surface"), [(COMPLETION, CHAT), (VECTORS, EMBEDDINGS)])
def test_reply_cut_anywhere_never_looks_finished(body, surface):
    whole = json.dumps(body).encode()
    assert [cut for cut in range(len(whole)) if document(whole[:cut], surface=surface) is None] == []


FRAGMENTS = st.sampled_from(
    [
        *(b"{", b"}", b"[", b"]", b'"error"', b'"choices"', b'"data"', b"data: ", b":", b",", b"\n", b"null", b"1"),
        *(b"<html>", b'"message"', b'"\\ud800"', b"\xef\xbb\xbf", b"NaN", b"<title>", b"</title>", b'"code"', b"429"),
        b'"object":"error"',
    ]
)


@given(
    st.lists(FRAGMENTS, max_size=12).map(b"".join), st.integers(400, 1100), st.sampled_from([JSON, HTML, EVENTS, ()])
)
def test_any_pieces_of_errors_are_classified_without_a_crash(body, status, headers):
    error = classify_error(ReceivedReply("chat", status, headers, body))
    assert 400 <= error.http_status <= 599
    assert len(error.message) < 3000
    error.message.encode()
    for surface in SURFACES:
        classified(body, headers, surface=surface)


@pytest.mark.parametrize(
    ("fields_of", "is_one"),
    [
        ({"object": "response", "output": [], "error": None}, True),
        ({"output": []}, True),
        ({"id": "1"}, False),
        ({"object": "response", "error": {"message": "no"}}, False),
    ],
)
def test_a_response_is_one_by_its_name_or_its_output(fields_of, is_one):
    found = document(fields_of, surface=RESPONSES)
    assert (found is None) == is_one


SILENT_CHOICES = [{}, {"message": None}, {"message": {}}, {"finish_reason": "stop"}, {"text": None}]
NO_MESSAGE = "with a choice that has neither a message nor a text"
IN_LARGE = [{}, {"x": PAD}]
"""Other members of a choice: none, or one that makes it too large to build."""


def _no_answer(body, code, what):
    error_fields = document(body, surface=CHAT)
    assert error_fields is not None
    assert error_fields["code"] == code
    assert what in error_fields["message"]


@pytest.mark.parametrize("within", IN_LARGE, ids=["beside", "within"])
@pytest.mark.parametrize("choice", SILENT_CHOICES)
def test_an_empty_choice_is_not_an_answer_however_large_the_reply(choice, within):
    _no_answer({"choices": [choice]}, "upstream_invalid", NO_MESSAGE)
    _no_answer({"choices": [{**choice, **within}], "x": PAD}, "upstream_invalid", NO_MESSAGE)
    inside = {"choices": [{**choice, **within}], "x": PAD}
    _no_answer({"code": 0, "data": inside}, "upstream_invalid", NO_MESSAGE)


@pytest.mark.parametrize("text", ["par", PAD], ids=["small", "large"])
def test_chunk_is_not_a_whole_answer(text):
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    _no_answer({"choices": [choice]}, "upstream_invalid", "with a part of a stream instead of a whole answer")


@pytest.mark.parametrize("more", [{}, {"message": {"role": "assistant", "content": ""}, "finish_reason": "error"}])
@pytest.mark.parametrize("within", IN_LARGE, ids=["small", "large"])
def test_the_error_in_a_choice_is_the_upstreams(more, within):
    """As OpenRouter reports that a provider failed."""
    choice = {**more, **within, "error": {"code": 503, "message": "Provider is overloaded"}}
    error_fields = document({"choices": [choice]}, surface=CHAT)
    assert error_fields is not None
    assert (error_fields["class"], error_fields["status"]) == (UpstreamErrorReply, 503)
    assert "Provider is overloaded" in error_fields["message"]


LARGE_VECTORS = (
    b'{"object":"list","data":[' + b",".join(b'{"index":%d,"embedding":[0.1,-2e-3]}' % n for n in range(2_000)) + b"]}"
)


@pytest.mark.parametrize("damage", [b"\x00", b"}", b"]", b'"', b"<html>"])
def test_invalid_large_list_is_an_error(damage):
    middle = LARGE_VECTORS.index(b"0.1", len(LARGE_VECTORS) // 2)
    garbled = LARGE_VECTORS[:middle] + damage + LARGE_VECTORS[middle + len(damage) :]
    assert classify_document(ReceivedReply("chat", 200, JSON, LARGE_VECTORS), EMBEDDINGS) is LARGE_VECTORS
    assert isinstance(classify_document(ReceivedReply("chat", 200, JSON, garbled), EMBEDDINGS), UpstreamInvalid)


def test_a_reply_with_bytes_that_are_not_utf_8_is_relayed_as_it_came():
    body = b'{"choices":[{"message":{"role":"assistant","content":"a\xff"}}]}'
    assert classify_document(ReceivedReply("chat", 200, JSON, body), CHAT) is body
