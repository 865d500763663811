"""Rows 17 to 21: embeddings."""

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


def embeddings(request: Request, form: Callable[[list[float]], Any] | None = None, order: int = 1) -> Reply:
    """Return the right vectors, encoded by `form`, or as the request asks: numbers or base64."""
    write = form or (base64_of if is_base64(request) else list)
    entries = [
        {"object": "embedding", "embedding": write(vector_of(text)), "index": at}
        for at, text in enumerate(inputs_of(request))
    ]
    tokens = len(entries)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_reply({"object": "list", "data": entries[::order], "model": "canned", "usage": usage})


def strict(when: Callable[[Request], bool], document: Any, status: int = 400) -> Serve:
    return lambda request: json_reply(document, status) if when(request) else embeddings(request)


def limited(most: int, text: str, code: str | None = None) -> Serve:
    return strict(lambda request: len(inputs_of(request)) > most, error(text, code=code))


def is_base64(request: Request) -> bool:
    return request.body.get("encoding_format") == "base64"


def holds_tokens(request: Request) -> bool:
    return any(not isinstance(text, str) for text in inputs_of(request))


def is_list(request: Request) -> bool:
    return isinstance(request.body.get("input"), list)


NO_BASE64 = error("base64 encoding is not currently supported", kind="BadRequestError")
NO_DIMENSIONS = error("dimensions is currently not supported", kind="BadRequestError")
NO_MATRYOSHKA = error(
    'Model "canned" does not support matryoshka representation, changing output dimensions will lead to poor results.',
    kind="BadRequestError",
)
DASHSCOPE = (
    "<400> InternalError.Algo.InvalidParameter: Value error, batch size is invalid, it should not be larger than 10.:"
    " input.contents"
)

ROWS = (
    Row(17, "base64-refused", "rejects base64 (old vLLM)", strict(is_base64, NO_BASE64), Vectors(), modes=EMBED),
    Row(17, "base64-ignored", "sends numbers for base64 (LM Studio, infinity)",
        lambda request: embeddings(request, list), Vectors(), modes=EMBED),
    Row(17, "base64-always", "base64 although numbers were requested",
        lambda request: embeddings(request, base64_of), Vectors(), modes=EMBED),
    Row(17, "unordered", "vectors in the wrong order", lambda request: embeddings(request, order=-1), Vectors(),
        modes=EMBED),
    Row(18, "batch-dashscope", "ten inputs at most (DashScope)",
        limited(10, DASHSCOPE, "invalid_parameter_error"), Vectors(), modes=EMBED, texts=40),
    Row(18, "batch-azure-one", "one input at most (older Azure)",
        limited(1, "Too many inputs. The max number of inputs is 1."), Vectors(), modes=EMBED, texts=6),
    Row(19, "dimensions", "rejects `dimensions` (vLLM), which has them",
        strict(lambda request: request.has("dimensions"), NO_DIMENSIONS), Vectors(), modes=EMBED,
        body={"dimensions": DIMENSIONS}),
    Row(19, "dimensions-fixed", "rejects `dimensions`, which has others",
        strict(lambda request: request.has("dimensions"), NO_MATRYOSHKA),
        Failure((400,), words="matryoshka"), modes=EMBED,
        body={"dimensions": DIMENSIONS // 2}),
    Row(20, "token-ids", "rejects token ids (LM Studio)",
        strict(holds_tokens, {"error": "'input' field must be a string or an array of strings"}),
        Failure((400,)), modes=EMBED, body={"input": [[9906, 1917], [15339]]}),
    Row(21, "list-refused", "accepts one string, no list (old Zhipu)",
        strict(is_list, {"error": {"code": "1214", "message": "input参数非法"}}), Vectors(), modes=EMBED),
)  # fmt: skip
