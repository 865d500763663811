"""Every literal body is one that an upstream was seen to send, or that its documentation shows."""

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.replies import error_body
from gatepass.replies.error_body import clean, compact, quotable, read_error_body
from gatepass.types import UpstreamErrorBody
from tests.unit.learning.rejections import STREAM, VERIFY, openai, pydantic, relayed

FILTER_TEXT = (
    "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."
    " Please modify your prompt and retry."
)
CONTENT_FILTER = {
    "message": FILTER_TEXT,
    "type": None,
    "param": "prompt",
    "code": "content_filter",
    "status": 400,
    "innererror": {
        "code": "ResponsibleAIPolicyViolation",
        "content_filter_result": {"hate": {"filtered": True, "severity": "high"}},
    },
}
EXPIRED = {
    "error": {
        "code": 401,
        "message": "Request had invalid authentication credentials.",
        "status": "UNAUTHENTICATED",
        "details": [{"reason": "ACCESS_TOKEN_EXPIRED"}],
    }
}
GEMINI = [{"error": {"code": 400, "message": "Invalid value at 'n'", "status": "INVALID_ARGUMENT", "details": []}}]
MISTRAL = {
    "object": "error",
    "message": pydantic(["max_completion_tokens"]),
    "type": "invalid_request_error",
    "param": None,
    "code": None,
}
FASTAPI_LIST = {
    "detail": [
        {
            "type": "literal_error",
            "loc": ["body", "messages", 0, "role"],
            "msg": "Input should be 'system','user'",
            "input": "developer",
        },
        {"type": "missing", "loc": ["body", "model"], "msg": "Field required"},
    ]
}
CLOUDFLARE = {"success": False, "errors": [{"code": 7003, "message": "Could not route to /x"}], "result": None}
ZOD = {
    "error": [
        {
            "code": "unrecognized_keys",
            "keys": ["stream_options"],
            "path": [],
            "message": "Unrecognized key(s) in object: 'stream_options'",
        }
    ]
}
FOUNDRY = {
    "error": {
        "code": "Invalid input",
        "message": json.dumps(pydantic(["stream_options", "include_usage"])),
        "status": 422,
    }
}

Row = tuple[Any, UpstreamErrorBody]


def quoted_whole(document: Any, *expected: Any, **more: Any) -> Row:
    return document, replace(UpstreamErrorBody(*expected, **more), raw=document)


def quoted_error(document: Any, *expected: Any, **more: Any) -> Row:
    return document, replace(UpstreamErrorBody(*expected, **more), raw=document["error"])


# documents that are errors with any HTTP status
ERRORS: dict[str, Row] = {
    "openai": (
        openai(STREAM, "stream", "unsupported_value"),
        UpstreamErrorBody(STREAM, 400, "invalid_request_error", "unsupported_value", "stream"),
    ),
    "vertex token expired": quoted_error(
        EXPIRED, "Request had invalid authentication credentials.", 401, "UNAUTHENTICATED", "401"
    ),
    "chatgpt token expired": quoted_whole(
        {"detail": {"code": "token_expired"}}, "token_expired", 401, code="token_expired"
    ),
    "baidu": quoted_whole(
        {"error_code": 110, "error_msg": "Access token invalid or no longer valid"},
        "Access token invalid or no longer valid",
        401,
        code="110",
    ),
    "ragflow": (
        {"code": 102, "message": "You have to provide messages."},
        UpstreamErrorBody("You have to provide messages.", 400, code="102"),
    ),
    "ragflow bad api key": (
        {"code": 401, "data": None, "message": "<Unauthorized '401: Unauthorized'>"},
        UpstreamErrorBody("<Unauthorized '401: Unauthorized'>", 401, code="401"),
    ),
    "siliconflow": (
        {"code": 20042, "message": "input batch size 136 > maximum allowed batch size 64", "data": None},
        UpstreamErrorBody("input batch size 136 > maximum allowed batch size 64", code="20042"),
    ),
    "openrouter verified organisation": quoted_error(
        relayed(json.dumps(openai(VERIFY, "stream", "unsupported_value"))),
        *(VERIFY, 400, "invalid_request_error", "unsupported_value", "stream"),
    ),
    "content filter": quoted_error(
        {"error": CONTENT_FILTER}, f"{FILTER_TEXT} (filtered: hate)", 400, code="content_filter", param="prompt"
    ),
    "content filter with several categories": quoted_error(
        {
            "error": {
                **CONTENT_FILTER,
                "innererror": {
                    "content_filter_result": {
                        "jailbreak": {"filtered": True, "detected": True},
                        "self_harm": {"filtered": True},
                        "violence": {"filtered": False, "severity": "safe"},
                        "Not a name": {"filtered": True},
                        "sexual": "odd",
                    }
                },
            }
        },
        f"{FILTER_TEXT} (filtered: jailbreak, self_harm)",
        400,
        code="content_filter",
        param="prompt",
    ),
    "gemini": (
        GEMINI,
        UpstreamErrorBody("Invalid value at 'n'", 400, "INVALID_ARGUMENT", "400", raw=GEMINI[0]["error"]),
    ),
    "vllm flat": (
        {"object": "error", "message": "too long", "type": "BadRequestError", "param": None, "code": 400},
        UpstreamErrorBody("too long", 400, "BadRequestError", "400"),
    ),
    "mistral": quoted_whole(
        MISTRAL,
        "body.max_completion_tokens: Extra inputs are not permitted",
        400,
        "invalid_request_error",
        "extra_forbidden",
        "max_completion_tokens",
    ),
    "fastapi text": quoted_whole({"detail": "Not authenticated"}, "Not authenticated"),
    "fastapi list": quoted_whole(
        FASTAPI_LIST,
        "body.messages.0.role: Input should be 'system','user'; body.model: Field required",
        code="literal_error",
        param="messages.0.role",
    ),
    "lm studio": (
        {"error": "'response_format.type' must be 'json_schema' or 'text'"},
        UpstreamErrorBody("'response_format.type' must be 'json_schema' or 'text'"),
    ),
    "ollama": (
        {"error": {"message": "does not support tools", "type": "api_error", "param": None, "code": None}},
        UpstreamErrorBody("does not support tools", 502, "api_error"),
    ),
    "apim": quoted_whole(
        {"statusCode": 401, "message": "Access denied due to missing subscription key."},
        "Access denied due to missing subscription key.",
        401,
    ),
    "cloudflare": quoted_whole(CLOUDFLARE, "Could not route to /x", code="7003"),
    "venice zod": quoted_whole(ZOD, "Unrecognized key(s) in object: 'stream_options'", code="unrecognized_keys"),
    "dashscope native": quoted_whole(
        {"code": "InvalidParameter", "message": "batch size is invalid", "request_id": "8f"},
        "batch size is invalid",
        400,
        code="InvalidParameter",
    ),
    "tgi": quoted_whole(
        {"error": "Input validation error: `temperature` must be strictly positive", "error_type": "validation"},
        "Input validation error: `temperature` must be strictly positive",
        kind="validation",
    ),
    "sap": quoted_whole(
        {"errorMessage": "no such deployment", "errorCode": "D1", "statusCode": 404},
        "no such deployment",
        404,
        code="D1",
    ),
    "rfc 6749": quoted_whole(
        {"error": "invalid_client", "error_description": "Client authentication failed"},
        "Client authentication failed",
        code="invalid_client",
    ),
    "rfc 6750 expired": quoted_whole(
        {"error": "invalid_token", "error_description": "The access token expired"},
        "The access token expired",
        401,
        code="invalid_token",
    ),
    "rfc 9457": quoted_whole(
        {"type": "about:blank", "title": "Forbidden", "status": 403, "detail": "Your plan ends here"},
        "Your plan ends here",
        403,
    ),
    "ray param object": quoted_error(
        {"error": {"message": "m", "type": "t", "param": {"a": 1}, "code": 500}}, "m", 500, "t", "500"
    ),
    "foundry wraps pydantic": quoted_error(
        FOUNDRY,
        "body.stream_options.include_usage: Extra inputs are not permitted",
        422,
        code="extra_forbidden",
        param="stream_options.include_usage",
    ),
    "relay with a request id": (
        {"error": {"message": "upstream is busy (request id: 2026112008)", "type": "new_api_error", "code": "x"}},
        UpstreamErrorBody("upstream is busy", kind="new_api_error", code="x"),
    ),
    "relay that wraps with a request id": (
        {
            "error": {
                "message": '{"error":{"message":"inner","code":"unsupported_value","param":"stream"}} (request id: 1)',
                "type": "upstream_error",
                "code": 400,
            }
        },
        UpstreamErrorBody("inner", 400, "upstream_error", "unsupported_value", "stream"),
    ),
    "litellm": (
        {
            "error": {
                "message": 'litellm.BadRequestError: AzureException - {"error":{"message":"inner","param":"n"}}. More',
                "type": None,
                "param": None,
                "code": "400",
            }
        },
        UpstreamErrorBody("inner", 400, code="400", param="n"),
    ),
    "beside choices": quoted_whole(
        {"error": {"message": "m", "code": 502}, "choices": [{"delta": {}, "finish_reason": "error"}]},
        "m",
        502,
        code="502",
    ),
    "beside an empty list of data": quoted_whole({"data": [], "code": 102, "message": "boom"}, "boom", 400, code="102"),
    "without words": quoted_error({"error": {"n": 1}}, '{"n":1}'),
}

# errors only with an HTTP status of an error
ONLY_WHEN_REFUSED: dict[str, Row] = {
    "kong": ({"message": "No API key found in request"}, UpstreamErrorBody("No API key found in request")),
    "title": quoted_whole({"title": "Bad"}, "Bad"),
    "text": ("Unauthorized", UpstreamErrorBody("Unauthorized")),
    "list of texts": quoted_whole(["a", "b"], "a; b"),
    "code of success": ({"code": 0, "message": "no"}, UpstreamErrorBody("no", code="0")),
}

FINE = {
    "completion": {"id": "c", "choices": [{"message": {"content": "hi"}}]},
    "embeddings with an odd code": {"code": 7, "message": "m", "data": [{}]},
    "usage of a stream": {"choices": [], "usage": {"total_tokens": 1}, "detail": "d"},
    "empty list with a code of success": {"code": 0, "message": "done", "choices": []},
    "empty list with an odd code and no words": {"code": 7, "choices": []},
    "wrapped success": {"code": 0, "data": {"choices": []}, "message": "detail"},
    "ok in words": {"code": 20000, "message": "OK", "status": True, "data": {}},
    "code without words": {"code": 500},
    "detail of a success": {"code": 0, "detail": "all well"},
    "ping": {},
    "usage": {"id": "c", "object": "chat.completion.chunk", "usage": {"total_tokens": 1}},
    "header of a success": {"header": {"code": 0, "message": "Success", "sid": "s"}},
    "false error": {"error": False, "id": "x"},
    "a state of success": {"status": "ok", "state": "done", "ok": True, "message": "fine", "choices": []},
    "nothing": None,
}


@pytest.mark.parametrize(("document", "expected"), ERRORS.values(), ids=ERRORS)
def test_error_is_read_whatever_the_status(document, expected):
    assert read_error_body(document) == expected
    assert read_error_body(document, refused=True) == expected


@pytest.mark.parametrize(("document", "expected"), ONLY_WHEN_REFUSED.values(), ids=ONLY_WHEN_REFUSED)
def test_mere_text_is_an_error_only_beside_an_error_status(document, expected):
    assert read_error_body(document) is None
    assert read_error_body(document, refused=True) == expected


@pytest.mark.parametrize("document", FINE.values(), ids=FINE)
def test_success_is_no_error(document):
    assert read_error_body(document) is None


@pytest.mark.parametrize(
    "says",
    [
        *({"status": "error"}, {"state": "FAILED"}, {"result": "fail"}, {"ok": False}, {"isError": True}),
        {"success": False, "data": {"x": 1}},
    ],
)
def test_an_envelope_says_in_everyday_words_that_it_failed(says):
    found = read_error_body({**says, "message": "Quota exceeded"})
    assert found is not None
    assert found.message == "Quota exceeded"
    assert read_error_body(says) is None, "without a reason it may be anything"


def test_error_always_has_a_message():
    quoted = ["\x00", "(request id: 1)", {"code": "\x00"}]
    messages = [found.message for one in quoted if (found := read_error_body({"error": one}))]
    assert messages == ["An error without a message.", "(request id: 1)", "An error without a message."]


DEEPEST = json.dumps({"error": {"message": "deepest", "param": {"name": "seed"}, "code": "unknown_parameter"}})


@pytest.mark.parametrize(
    "error",
    [
        {"message": json.dumps({"error": {"message": f"upstream: {DEEPEST}"}})},
        {"message": f"relay: {json.dumps({'detail': DEEPEST})}"},
        {"message": "failed", "cause": json.dumps({"body": DEEPEST})},
        json.dumps(DEEPEST),
        json.dumps(json.dumps(f"400 {DEEPEST}")),
    ],
    ids=str,
)
def test_the_innermost_error_is_read(error):
    found = read_error_body({"error": error}, refused=True)
    assert found is not None
    assert (found.message, found.param, found.code) == ("deepest", "seed", "unknown_parameter")


OF_A_PROVIDER = {"message": "Provider returned error", "metadata": {"raw": "busy"}}


@pytest.mark.parametrize(
    ("error", "message", "raw"),
    [
        *((text, text, None) for text in ('cannot parse {"message": "hello", "role": "user"}', "{broken")),
        (OF_A_PROVIDER, "Provider returned error", OF_A_PROVIDER),
        ({"message": "m", "input": "x" * 5000}, "m", None),
        ('{"error":{"message":"bad \\u0054OKEN"}}', "bad ***", None),
    ],
    ids=["a quoted request", "no JSON", "metadata without JSON", "too large to keep", "a secret inside"],
)
def test_only_a_whole_error_in_json_inside_the_message_replaces_it(error, message, raw):
    own = error if isinstance(error, dict) else {"message": error}
    found = read_error_body({"error": own}, mask=lambda text: text.replace("TOKEN", "***"))
    assert found == UpstreamErrorBody(message, raw=raw)


def test_message_is_cut_after_masking():
    secret = "s3cret-token"
    found = read_error_body({"error": {"message": "x" * 1995 + secret}}, mask=lambda text: text.replace(secret, "***"))
    assert found is not None
    assert found.message == "x" * 1995 + "***"


def test_every_part_is_masked():
    error = {
        "message": "a TOKEN",
        "type": "TOKEN-t",
        "code": "TOKEN-c",
        "param": "TOKEN-p",
        "TOKEN": ["TOKEN", {"k": 1}],
    }
    found = read_error_body({"error": error}, mask=lambda text: text.replace("TOKEN", "***"))
    assert found == UpstreamErrorBody(
        "a ***",
        kind="***-t",
        code="***-c",
        param="***-p",
        raw={"message": "a ***", "type": "***-t", "code": "***-c", "param": "***-p", "***": ["***", {"k": 1}]},
    )


def test_deep_object_is_no_crash():
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert read_error_body({"error": {"message": deep, "detail": "d"}}) == UpstreamErrorBody("d")


NAMES = st.sampled_from(
    [
        *("error", "errors", "code", "message", "msg", "detail", "header", "object", "data", "choices", "status"),
        *("loc", "raw", "type", "param", "metadata", "success", "title", "error_code", "statusCode"),
        "error_description",
    ]
)
VALUES = st.sampled_from(["error", "{", '{"error":"x"}', "\ud800", "400", 400, 102, 10**20, -1, 1.5, True, "", "ok"])
ERROR_LIKE = st.recursive(
    st.none() | VALUES | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(NAMES, children, max_size=5),
    max_leaves=12,
)


@given(ERROR_LIKE, st.booleans())
def test_any_json_is_read_without_a_crash(document, refused):
    found = read_error_body(document, refused=refused)
    if found is None:
        return
    assert 0 < len(found.message) <= 2000
    assert found.status is None or 400 <= found.status <= 599
    assert all(isinstance(part, str | None) for part in (found.kind, found.code, found.param))
    for part in (found.message, found.kind, found.code, found.param):
        (part or "").encode()


@pytest.mark.parametrize("filler", [" ", "(request id:", "retry after ", "1s", "\n", "<title>", "{", "[{"])
def test_hostile_text_is_read_in_time(filler):
    began = time.process_time()
    read_error_body({"error": {"message": "a" + filler * (500_000 // len(filler)) + "b"}}, refused=True)
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((7, 7), ("007", 7), (-1, -1), ("9" * 12, 999999999999), ("9" * 13, None), (10**12, None), (True, None)),
        *(("-1", None), ("1.0", None), (1.0, None), (None, None), ("²", None), ("", None), ([], None)),
    ],
)
def test_code_is_read_as_a_number_if_it_is_one(value, expected):
    assert error_body.whole_number(value) == expected


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (102, "You have to provide messages.", 400),
        (102, "You don't own the chat x", 404),
        (102, "Chat NOT FOUND", 404),
        (102, "No authorization.", 404),
        *(
            (102, text, 429)
            for text in ("You exceeded your current quota", "账户额度已用完", "code: 429", "Rate-limit hit")
        ),
        *((102, text, 400) for text in ("The field quota is unknown", "配额参数非法", "额度字段缺失")),
        (100, "Exception('insufficient_quota')", 429),
        (101, "quota", 400),
        *((code, "", status) for code, status in ((100, 502), (101, 400), (103, 400), (105, 502), (106, 503))),
        *((108, "", 403), (109, "", 403)),
        *(("102", "", 400), (104, "", None), (None, "", None), ("x", "", None)),
    ],
)
def test_ragflow_code_has_its_status(code, text, expected):
    assert error_body.ragflow_status(code, text) == expected


@pytest.mark.parametrize("text", ["insufficient_quota", "Insufficient balance", "余额不足", "账户额度已用完", "欠费"])
def test_an_exhausted_account_behind_ragflow_has_the_code_that_ends_retries(text):
    found = read_error_body({"code": 102, "message": f"**ERROR**: {text}"})
    assert found is not None
    assert (found.status, found.code) == (429, "insufficient_quota")
    limited = read_error_body({"code": 102, "message": "限流"})
    assert limited is not None
    assert (limited.status, limited.code) == (429, "102")


def test_statuses_are_errors_and_have_a_kind():
    numbers = (None, 399, 400, 599, 600)
    assert [error_body.is_http_error(number) for number in numbers] == [False, False, True, True, False]
    assert [error_body.is_error(status) for status in (200, 399, 400, 599, 999)] == [False, False, True, True, True]
    kinds = {status: error_body.error_kind(status) for status in (400, 401, 403, 429, 500, 503)}
    own = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    assert kinds == own | {400: "invalid_request_error", 500: "server_error", 503: "server_error"}


def test_success_is_distinguished_from_failure():
    fine = [0, "0", 200, "200", 201, "000000", "success", " OK ", "", None, True, False, [], 0.5]
    failed = [1, 102, 199, 300, 401, -1, "1", "401", "InvalidParameter", "no"]
    assert [error_body.is_success(code) for code in fine] == [True] * len(fine)
    assert [error_body.is_success(code) for code in failed] == [False] * len(failed)


@pytest.mark.parametrize("code", ["InvalidParameter", "DataInspectionFailed", "data_inspection_failed"])
def test_a_refused_request_inside_a_200_is_no_fault_of_the_server(code):
    assert error_body.STATUS_OF_CODE[code.lower()] == 400
    found = read_error_body({"code": code, "message": "no", "request_id": "1"})
    assert found is not None
    assert found.status == 400


def test_text_keeps_its_lines_loses_invisible_characters_and_is_cut_with_a_sign():
    quoted = "  first\t\tline\r\nsecond \x00\x1b[31m line\r\r\r\rthird\u2028 \n"
    assert clean(quoted, str) == "first line\nsecond [31m line\n\nthird"
    assert [clean(text, str, 6) for text in ("abcdef", "abcdefg", "abcd  fgh")] == ["abcdef", "abcde…", "abcd…"]
    assert clean("a\ud800b", str) == "a?b"


UNSEEN = [*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]


@pytest.mark.parametrize("char", [*map(chr, UNSEEN)], ids=[f"U+{code:04X}" for code in UNSEEN])
def test_no_control_character_and_no_change_of_direction_of_an_errors_text_is_shown(char):
    """C1 begins a terminal's sequences as ESC does, and a changed direction makes a text look like another one."""
    assert clean(f"one{char}two", str) == "one two"
    found = read_error_body({"error": {"message": f"no{char}model", "type": f"a{char}b", "code": f"c{char}"}})
    assert found is not None
    assert char not in f"{found.message}{found.kind}{found.code}{found.param}"
    assert quotable({f"a{char}": [char]}, str) == {"a ": [" "]}
    for text in (char, f"\\u{ord(char):04x}"):
        assert error_body.public_object(b'{"a": "%b"}' % text.encode(), str) is None, "gatepass words it"


def test_only_an_object_without_secrets_and_doubled_names_is_public():
    def mask(text: str) -> str:
        return text.replace("s3cret", "***")

    assert error_body.public_object(b'{"a": [1, "b"]}', mask) == {"a": [1, "b"]}
    hidden = (b'{"a": "s3cret"}', b'{"a": "\\u00733cret"}', b'{"a": 1, "a": 2}')
    for body in (*hidden, b'{"a": NaN}', b"[1]", b"{", b'{"a":"%b"}' % (b"x" * error_body.PUBLIC_BYTES)):
        assert error_body.public_object(body, mask) is None, body[:20]


def test_an_object_is_quoted_up_to_its_size_and_depth():
    deep: list[object] = []
    for _ in range(64):
        deep = [deep]
    for kept in ({"a": "x" * 4088}, deep):
        assert quotable(kept, str) == kept
    for dropped in ({"a": "x" * 4089}, [deep]):
        assert quotable(dropped, str) is None
    assert quotable({"a\ud800": "\ud800"}, str) == {"a?": "?"}
    assert (compact({"a": [1, "ü"]}), compact({1: {2, 3}})) == ('{"a":[1,"ü"]}', None)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"httpStatus": 400, "messages": [{"errorCode": "paas-2", "message": "The model is not deployed"}]},
            "The model is not deployed",
        ),
        ({"timestamp": 1, "faults": [{"msg": "no quota"}, {"msg": "no region"}]}, "no quota; no region"),
        ({"violations": [{"field": "n", "message": "must be 1"}]}, "must be 1"),
        (
            {"status": 400, "errors": {"$.seed": ["is odd", "is wrong"], "n": "is 3"}},
            "$.seed: is odd; is wrong; n: is 3",
        ),
    ],
)
def test_errors_under_other_names_are_read_beside_an_error_status(document, message):
    found = read_error_body(document, refused=True)
    assert found is not None
    assert found.message == message
    assert read_error_body(document) is None


@pytest.mark.parametrize(
    ("document", "message", "code"),
    [
        ({"choices": None, "base_resp": {"status_code": 1008, "status_msg": "no balance"}}, "no balance", None),
        ({"Response": {"Error": {"Code": "Failed.X", "Message": "engine failed"}}}, "engine failed", "Failed.X"),
        ({"resultCode": "E500", "resultMsg": "超时", "result": None}, "超时", "E500"),
        ({"retcode": 10001, "errmsg": "denied"}, "denied", "10001"),
        ({"fault": {"faultstring": "Body too large", "detail": {"errorcode": "TooBig"}}}, "Body too large", None),
        ({"meta": {"code": 401, "message": "no"}}, "no", "401"),
        ({"meta": {"code": 200, "message": "fine"}}, None, None),
        ({"errcode": " E1 ", "errmsg": "denied"}, "denied", "E1"),
        ({"base_resp": {"status_code": 0, "status_msg": "success"}, "reply": "hi"}, None, None),
        ({"success": False, "errorCode": "A1", "errorMsg": "login expired"}, "login expired", "A1"),
        ({"Response": {"Choices": [], "RequestId": "r"}}, None, None),
    ],
)
def test_an_envelope_of_another_vendor_is_an_error_in_a_200(document, message, code):
    found = read_error_body(document)
    assert (found and found.message, found and found.code) == (message, code)


@pytest.mark.parametrize(("code", "status"), [(1002, 429), (1004, 401), (1008, 402), (1026, 400), (1000, None)])
def test_an_error_of_minimax_in_a_200_has_the_status_of_its_code(code, status):
    found = read_error_body({"base_resp": {"status_code": code, "status_msg": "no"}, "choices": None})
    assert found is not None
    assert found.status == status


@pytest.mark.parametrize(
    ("code", "status"),
    [
        *((code, None) for code in (50508, "50603", 41800, 40600, 451000, 59900, 52900)),
        *((code, code // 100) for code in (40001, 40101, 40203, 40301, 40400, 40801, 40900, 41300, 42201, 42900)),
        *((code, code // 100) for code in (50000, 50201, 50300, 50400)),
        *((code, code) for code in (418, 451, 505, 529)),
        ("500001", 500),
        (5005, None),
    ],
)
def test_a_longer_code_begins_with_a_status_only_if_upstreams_write_that_one(code, status):
    found = read_error_body({"code": code, "message": "System is too busy now."})
    assert found is not None
    assert (found.status, found.written_status, found.code) == (status, status, str(code))
    told = read_error_body({"code": code, "success": False, "data": "System is too busy now."})
    assert told is not None
    assert (told.message, told.status) == (found.message, status)


CONTEXT = "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens."


@pytest.mark.parametrize(
    ("document", "status"),
    [
        *(({"code": code, "message": CONTEXT}, 400) for code in (5001, 1001, 20015, -1, "E1")),
        ({"code": 20042, "message": "input must have less than 512 tokens", "data": None}, 400),
        ({"code": 20015, "message": "The parameter is invalid. Please check again.", "data": None}, 400),
        ({"code": 20015, "message": "length of prompt_tokens (8193) must be less than max_seq_len (8192)."}, 400),
        ({"code": 1001, "msg": "参数错误"}, 400),
        ({"success": False, "errorCode": "A1", "errorMsg": "请求参数无效"}, 400),
        ({"code": "invalid_parameter", "message": "No."}, 400),
        ({"error": {"message": CONTEXT}}, 400),
        ({"base_resp": {"status_code": 4711, "status_msg": "context window exceeds limit"}}, 400),
        # a number or a code that gatepass knows
        ({"code": 100, "message": CONTEXT}, 502),
        ({"code": 102, "message": "参数错误"}, 400),
        ({"code": 50300, "message": CONTEXT}, 503),
        ({"code": "rate_limit_exceeded", "message": "参数错误"}, 429),
        ({"code": "content_filter", "message": CONTEXT}, 400),
        # a client's text in it
        ({"code": 5001, "message": 'Cannot store "参数错误怎么办"'}, None),
        ({"code": 5001, "message": "The worker died at 'why is the prompt is too long?'"}, None),
        ({"code": 5001, "message": "服务异常：「参数无效」"}, None),
        ({"code": 5001, "message": "Internal fault."}, None),
    ],
    ids=str,
)
def test_words_about_the_request_decide_where_a_code_says_nothing(document, status):
    found = read_error_body(document)
    assert found is not None
    assert found.status == status


def test_an_ordinary_reply_with_such_words_is_no_error():
    for document in ({"code": 0, "message": "参数错误"}, {"choices": [{"message": {"content": CONTEXT}}]}):
        assert read_error_body(document) is None


def test_the_prompt_that_an_error_repeats_is_not_its_message():
    assert read_error_body({"messages": [{"role": "user", "content": "Hi"}]}, refused=True) is None


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("Quota exceeded for this minute", 429, None),
        ("请求过于频繁", 429, None),
        ("账户余额不足", 429, "insufficient_quota"),
        ("The quota page has moved", None, None),
    ],
)
def test_a_text_about_a_limit_without_a_code_is_a_429(text, status, code):
    found = read_error_body({"status": "error", "message": text})
    assert found is not None
    assert (found.status, found.code) == (status, code)
    coded = read_error_body({"code": "E7", "message": text})
    assert coded is not None
    assert (coded.status, coded.code) == (None, "E7"), "a code says more than a word"


ANSWER = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "The answer."}]}


@pytest.mark.parametrize(
    "document",
    [
        *({"results": [], "meta": {"code": code, "message": "请求成功"}} for code in (0, 200, 20000, "20000", 200000)),
        {"object": "response", "output": [], "meta": {"code": 20000, "msg": "操作成功！"}},
        {"object": "file", "status": {"code": 10000, "description": "Ok"}},
        *(ANSWER | odd for odd in ({"ok": False}, {"success": False}, {"isError": True}, {"status": "failed"})),
        *(ANSWER | odd for odd in ({"state": "failed"}, {"result": "fail"}, {"code": 404}, {"code": "40101"})),
        {"object": "batch", "status": "failed", "result": {"message": "see the file"}},
        {"err": {"code": 0, "msg": "ok"}, "results": []},
    ],
)
def test_a_good_reply_beside_odd_members_is_no_error(document):
    assert read_error_body(document) is None


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"status": "FAILED", "data": "The rule DLP-1 refused it"}, "The rule DLP-1 refused it"),
        ({"status": "error", "content": "No tenant"}, "No tenant"),
        ({"result": "failure", "data": {"errors": [{"message": "No region"}]}}, "No region"),
        ({"code": 500, "success": "false", "data": {"error": {"message": "No engine"}}}, "No engine"),
        ({"error": {"code": 400, "errors": [{"message": "No seed"}]}}, "No seed"),
        ({"ret": -1, "msg": "No shard"}, "No shard"),
        ({"errno": 110, "errmsg": "No quota left"}, "No quota left"),
        ({"err_no": 4, "err_msg": "No app"}, "No app"),
        ({"success": 0, "message": "No key"}, "No key"),
        ({"err": {"msg": "No backend"}}, "No backend"),
    ],
)
def test_the_words_of_an_envelope_are_found_where_it_keeps_them(document, words):
    found = read_error_body(document)
    assert found is not None
    assert found.message == words
