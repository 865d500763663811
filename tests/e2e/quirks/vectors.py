"""Rows 17 to 21: embeddings."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Any

from tests.e2e.quirks.replies import Reply, Request, Serve, error, json_reply
from tests.e2e.quirks.row import DIMENSIONS, EMBED, Failure, Row, Vectors, vector_of


def inputs_of(request: Request) -> list[Any]:
    given = request.body.get("input")
    return given if isinstance(given, list) else [given]


def base64_of(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def embeddings(
    request: Request, form: Callable[[list[float]], Any] | None = None, order: int = 1, index: bool = True
) -> Reply:
    """Return the right vectors, encoded by `form`, or as the request asks: numbers or base64."""
    in_base64 = request.body.get("encoding_format") == "base64"
    write = form or (base64_of if in_base64 else list)
    entries = [
        {"object": "embedding", "embedding": write(vector_of(text))} | ({"index": at} if index else {})
        for at, text in enumerate(inputs_of(request))
    ]
    tokens = len(entries)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_reply({"object": "list", "data": entries[::order], "model": "canned", "usage": usage})


def strict(when: Callable[[Request], bool], document: Any, status: int = 400) -> Serve:
    return lambda request: json_reply(document, status) if when(request) else embeddings(request)


def limited(most: int, text: str, status: int = 400, **about: Any) -> Serve:
    def serve(request: Request) -> Reply:
        count = len(inputs_of(request))
        return embeddings(request) if count <= most else json_reply(error(text.format(count), **about), status)

    return serve


def is_base64(request: Request) -> bool:
    return request.body.get("encoding_format") == "base64"


def holds_tokens(request: Request) -> bool:
    return any(not isinstance(text, str) for text in inputs_of(request))


def bare_string(request: Request) -> Reply:
    if isinstance(request.body.get("input"), list):
        return json_reply({"error": {"code": "1214", "message": "input参数非法"}}, 400)
    return embeddings(request)


NO_BASE64 = {"object": "error", "message": "base64 encoding is not currently supported", "type": "BadRequestError",
             "param": None, "code": 400}  # fmt: skip
NO_DIMENSIONS = {"object": "error", "message": "dimensions is currently not supported", "type": "BadRequestError",
                 "param": None, "code": 400}  # fmt: skip
NO_MATRYOSHKA = error(
    'Model "canned" does not support matryoshka representation, changing output dimensions will lead to poor results.',
    kind="BadRequestError",
)
DASHSCOPE = (
    "<400> InternalError.Algo.InvalidParameter: Value error, batch size is invalid, it should not be larger than 10.:"
    " input.contents"
)
GEMINI = [{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": (
    "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch\n")}}]  # fmt: skip
TEI = "batch size {0} > maximum allowed batch size 32"


def tei(status: int) -> Serve:
    def serve(request: Request) -> Reply:
        count = len(inputs_of(request))
        refused = {"error": TEI.format(count), "error_type": "Validation"}
        return embeddings(request) if count <= 32 else json_reply(refused, status)

    return serve


ROWS = (
    Row(17, "base64-refused", "rejects base64 (old vLLM)", strict(is_base64, NO_BASE64), Vectors(), modes=EMBED),
    Row(17, "base64-ignored", "sends numbers for base64 (LM Studio, infinity)",
        lambda request: embeddings(request, list), Vectors(), modes=EMBED),
    Row(17, "base64-empty", "a 200 without vectors for base64 (OpenRouter)",
        lambda request: json_reply({"object": "list", "data": [],
        "model": "canned"}) if is_base64(request) else embeddings(request),
        Vectors(), modes=EMBED),
    Row(17, "base64-always", "base64 although numbers were requested",
        lambda request: embeddings(request, base64_of), Vectors(), modes=EMBED),
    Row(17, "no-index", "vectors without `index`", lambda request: embeddings(request, index=False), Vectors(),
        modes=EMBED),
    Row(17, "unordered", "vectors in the wrong order", lambda request: embeddings(request, order=-1), Vectors(),
        modes=EMBED),
    Row(18, "batch-dashscope", "ten inputs at most (DashScope)",
        limited(10, DASHSCOPE, code="invalid_parameter_error"), Vectors(), modes=EMBED, texts=40),
    Row(18, "batch-tei-413", "32 inputs at most, 413 (TEI)", tei(413), Vectors(), modes=EMBED, texts=40),
    Row(18, "batch-tei-422", "the same with 422", tei(422), Vectors(), modes=EMBED, texts=40),
    Row(18, "batch-siliconflow", "64 inputs at most (SiliconFlow)",
        lambda request: embeddings(request) if len(inputs_of(request)) <= 64 else json_reply(
            {"code": 20042, "message": f"input batch size {len(inputs_of(request))} > maximum allowed batch size 64",
             "data": None}, 400), Vectors(), modes=EMBED, texts=100),
    Row(18, "batch-azure", "16 inputs at most (old Azure)",
        limited(16, "Too many inputs. The max number of inputs is 16.  We hope to increase the number of inputs per"
                    " request soon."), Vectors(), modes=EMBED, texts=40),
    Row(18, "batch-azure-one", "one input at most (older Azure)",
        limited(1, "Too many inputs. The max number of inputs is 1."), Vectors(), modes=EMBED, texts=6),
    Row(18, "batch-gemini", "100 inputs at most (Gemini)",
        lambda request: embeddings(request) if len(inputs_of(request)) <= 100 else json_reply(GEMINI, 400), Vectors(),
        modes=EMBED,
        texts=120),
    Row(19, "dimensions", "rejects `dimensions` (vLLM), which has them",
        strict(lambda request: request.has("dimensions"), NO_DIMENSIONS), Vectors(), modes=EMBED,
        body={"dimensions": DIMENSIONS}),
    Row(19, "dimensions-fixed", "rejects `dimensions`, which has others",
        strict(lambda request: request.has("dimensions"), NO_MATRYOSHKA), Failure((400,), words="matryoshka"),
        modes=EMBED,
        body={"dimensions": DIMENSIONS // 2}),
    Row(20, "token-ids", "rejects token ids (LM Studio)",
        strict(holds_tokens, {"error": "'input' field must be a string or an array of strings"}),
        Failure((400,)), modes=EMBED, body={"input": [[9906, 1917], [15339]]}),
    Row(20, "token-ids-empty", "a 200 without vectors for token ids (OpenRouter)",
        lambda request: json_reply({"object": "list", "data": [], "model": "canned"}) if holds_tokens(request)
        else embeddings(request), Failure((400,)), modes=EMBED, body={"input": [[9906, 1917], [15339]]}),
    Row(21, "list-refused", "accepts one string, no list (old Zhipu)", bare_string, Vectors(), modes=EMBED),
)  # fmt: skip
