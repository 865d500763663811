"""Errors as gateways, clouds and corporate platforms write them in a 200, and ordinary replies that look like them."""

import json
from dataclasses import dataclass
from typing import Any

from tests.integration.answers import COMPLETION

ECHO = "<the secret that gatepass sent>"


@dataclass(frozen=True, slots=True)
class Envelope:
    """An error in the shape of one sender. `words` is its own text, which must arrive."""

    name: str
    content: Any
    words: str
    status: int
    """The status with which the sender also sends it."""
    can_be_ordinary: bool = False
    """Within a stream it can also be a notice beside the chunks, so that passing it on unchanged is right too."""

    def body(self, sent: str) -> bytes:
        """The bytes, with the secret `sent` where the sender repeats it."""
        return json.dumps(self.content, ensure_ascii=False).replace(ECHO, sent).encode()


ENVELOPES = (
    Envelope(
        "status and message",
        {"status": "error", "message": "Quota exceeded for application billing-7"},
        "Quota exceeded for application billing-7",
        400,
    ),
    Envelope(
        "state and reason",
        {"state": "failed", "reason": f"The pool gpu-west is draining ({ECHO})", "data": {}},
        "The pool gpu-west is draining",
        503,
    ),
    Envelope(
        "ok is false, with description",
        {"ok": False, "error_code": 400, "description": "Bad Request: the conversation is longer than 512 turns"},
        "the conversation is longer than 512 turns",
        400,
    ),
    Envelope(
        "success is false, with errorMsg",
        {
            "success": False,
            "data": None,
            "errorCode": "MODEL_NOT_OPEN",
            "errorMsg": "当前部门未开通该模型，请联系平台管理员",
            "traceId": "0a1b2c3d4e5f",
        },
        "当前部门未开通该模型，请联系平台管理员",
        403,
    ),
    Envelope(
        "success is false beside data that holds the text",
        {"success": False, "data": {"message": "Prompt blocked by the rule DLP-12", "rule": 12}},
        "Prompt blocked by the rule DLP-12",
        422,
    ),
    Envelope(
        "result and reason",
        {"result": "error", "reason": "The budget of cost centre 4711 is spent", "timestamp": 1764403200123},
        "The budget of cost centre 4711 is spent",
        402,
    ),
    Envelope(
        "isError and content",
        {"isError": True, "content": [{"type": "text", "text": "The tool gateway lost its backend search-3"}]},
        "The tool gateway lost its backend search-3",
        502,
    ),
    Envelope(
        "Tencent Cloud",
        {
            "Response": {
                "Error": {
                    "Code": "FailedOperation.EngineServerError",
                    "Message": f"引擎服务内部错误，实例 hunyuan-9 无响应 {ECHO}",
                },
                "RequestId": "8f4c2d9e-1111-4f0e-9d4b-0c6b6f3c0001",
            }
        },
        "引擎服务内部错误，实例 hunyuan-9 无响应",
        500,
    ),
    Envelope(
        "Volcengine",
        {
            "ResponseMetadata": {
                "RequestId": "20251129101010ABCDEF",
                "Action": "ChatCompletions",
                "Version": "2024-01-01",
                "Service": "ark",
                "Error": {
                    "CodeN": 100010,
                    "Code": "SignatureDoesNotMatch",
                    "Message": f"The signature of key {ECHO} does not match endpoint ep-20",
                },
            }
        },
        "does not match endpoint ep-20",
        403,
    ),
    Envelope(
        "MiniMax",
        {
            "id": "06234",
            "choices": None,
            "base_resp": {"status_code": 1008, "status_msg": "insufficient balance of group 88"},
        },
        "insufficient balance of group 88",
        402,
    ),
    Envelope(
        "iFlytek Spark",
        {"header": {"code": 10013, "message": "输入内容审核不通过，涉嫌违规", "sid": "cht000b41d5", "status": 2}},
        "输入内容审核不通过，涉嫌违规",
        400,
    ),
    Envelope(
        "errcode and errmsg",
        {"errcode": 40164, "errmsg": "invalid ip 10.20.30.40, not in whitelist, rid: 65f0-11"},
        "invalid ip 10.20.30.40, not in whitelist",
        403,
    ),
    Envelope(
        "error_code and error_msg",
        {"error_code": 336003, "error_msg": "the max input characters is 20000", "id": "as-7x1"},
        "the max input characters is 20000",
        400,
    ),
    Envelope(
        "Apigee",
        {
            "fault": {
                "faultstring": f"Rate limit violation by the app {ECHO}. Identifier : northwind-app",
                "detail": {"errorcode": "policies.ratelimit.QuotaViolation"},
            }
        },
        "Identifier : northwind-app",
        429,
    ),
    Envelope(
        "AWS",
        {
            "__type": "com.amazon.coral.service#AccessDeniedException",
            "Message": "User arn:aws:iam::42:user/rag is not authorized to perform: bedrock:InvokeModel",
        },
        "is not authorized to perform: bedrock:InvokeModel",
        400,
    ),
    Envelope(
        "a list of errors",
        {
            "result": {},
            "success": False,
            "errors": [{"code": 7003, "message": "No route to the model of account c0ffee"}],
            "messages": [],
        },
        "No route to the model of account c0ffee",
        404,
    ),
    Envelope(
        "GraphQL",
        {
            "data": None,
            "errors": [
                {
                    "message": "Variable $input got an invalid value at input.temperature",
                    "locations": [{"line": 1, "column": 9}],
                    "path": ["chat"],
                    "extensions": {"code": "BAD_USER_INPUT"},
                }
            ],
        },
        "Variable $input got an invalid value at input.temperature",
        400,
    ),
    Envelope(
        "RFC 9457",
        {
            "type": "https://errors.example.com/out-of-credit",
            "title": "You do not have enough credit.",
            "status": 403,
            "detail": "Your balance is 30, but that costs 50.",
            "instance": "/account/12345/msgs/abc",
        },
        "Your balance is 30, but that costs 50",
        403,
    ),
    Envelope(
        "Spring",
        {
            "timestamp": "2025-11-29T08:15:30.123+00:00",
            "status": 500,
            "error": "Internal Server Error",
            "message": "Connection pool shut down while calling inference-a",
            "path": "/v1/chat/completions",
        },
        "Connection pool shut down while calling inference-a",
        500,
    ),
    Envelope(
        "OData",
        {
            "error": {
                "code": "/IWBEP/CM_MGW_RT/020",
                "message": {"lang": "en", "value": f"Resource group Z_LLM is locked for {ECHO}"},
                "innererror": {"transactionid": "5F1D", "errordetails": []},
            }
        },
        "Resource group Z_LLM is locked for",
        400,
    ),
    Envelope(
        "JSON-RPC",
        {
            "jsonrpc": "2.0",
            "id": None,
            "error": {
                "code": -32000,
                "message": "The session pool of tenant 12 is exhausted",
                "data": {"retry": False},
            },
        },
        "The session pool of tenant 12 is exhausted",
        400,
    ),
    Envelope(
        "retCode and retMsg",
        {"retCode": "9001", "retMsg": f"应用未授权访问该接口：chat-v2 {ECHO}", "data": None},
        "应用未授权访问该接口：chat-v2",
        403,
    ),
    Envelope(
        "resultCode and resultMsg",
        {"resultCode": "E5001", "resultMsg": "Downstream LLM cluster 6 refused the job", "resultData": {}},
        "Downstream LLM cluster 6 refused the job",
        500,
    ),
    Envelope(
        "rtnCode and rtnMsg",
        {"rtnCode": -1, "rtnMsg": "模型实例正在扩容，排队号 17", "timestamp": "2025-11-29 16:15:30"},
        "模型实例正在扩容，排队号 17",
        503,
    ),
    Envelope(
        "respCode and respMsg",
        {"respCode": "9999", "respMsg": "system busy at node SH-02", "respData": None, "traceId": "t-1"},
        "system busy at node SH-02",
        500,
    ),
    Envelope(
        "a code of letters and msg",
        {"code": "A0230", "msg": "用户登录已过期，来自 7 号门户", "data": None},
        "用户登录已过期，来自 7 号门户",
        400,
    ),
    Envelope(
        "meta",
        {"meta": {"code": 422001, "message": "Unknown tenant header acme-9"}, "data": {}},
        "Unknown tenant header acme-9",
        422,
    ),
    Envelope(
        "FastAPI",
        {
            "detail": [
                {
                    "type": "missing",
                    "loc": ["body", "tenant"],
                    "msg": "Field required: the calling team's tenant",
                    "input": {"authorization": ECHO},
                }
            ]
        },
        "Field required: the calling team's tenant",
        422,
    ),
    Envelope(
        "Okta",
        {
            "errorCode": "E0000011",
            "errorSummary": f"Invalid token provided: {ECHO}, zone eu-5",
            "errorLink": "E0000011",
            "errorId": "oaeQ",
            "errorCauses": [],
        },
        "Invalid token provided",
        403,
    ),
    Envelope(
        "a message alone",
        {"message": "no Route matched with those values", "request_id": "2d9a5f"},
        "no Route matched with those values",
        404,
        can_be_ordinary=True,
    ),
)

EMBEDDINGS = {
    "object": "list",
    "model": "m",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}],
    "usage": {"prompt_tokens": 1, "total_tokens": 1},
}
QUOTED = json.dumps({"status": "error", "message": "Quota exceeded", "code": 429})
ANSWERED = {
    **COMPLETION,
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": QUOTED}}],
}

ORDINARY = {
    "status": {**COMPLETION, "status": "success"},
    "state": {**COMPLETION, "state": "completed", "reason": "stop"},
    "code 0": {**COMPLETION, "code": 0, "message": "ok"},
    "code 200": {**COMPLETION, "code": 200, "msg": "success", "success": True, "traceId": "0a1b"},
    "ok": {**COMPLETION, "ok": True, "error": None, "errors": []},
    "base_resp": {**COMPLETION, "base_resp": {"status_code": 0, "status_msg": ""}},
    "errcode 0": {**COMPLETION, "errcode": 0, "errmsg": "ok", "header": {"code": 0, "message": "Success"}},
    "retCode 0": {**COMPLETION, "retCode": "0000", "retMsg": "处理成功", "result": "success", "isError": False},
    "an answer that quotes an error": ANSWERED,
}
"""Answers to a chat, which pass unchanged whole and, as chunks, in a stream."""
