"""Rows 17 to 21: embeddings."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Any

from tests.e2e.quirks.replies import Asked, Reply, Serve, error, plain
from tests.e2e.quirks.row import DIMENSIONS, EMBED, Failure, Row, Vectors, vector_of


def inputs_of(asked: Asked) -> list[Any]:
    given = asked.body.get("input")
    return given if isinstance(given, list) else [given]


def encoded(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def embedded(
    asked: Asked, form: Callable[[list[float]], Any] | None = None, order: int = 1, index: bool = True
) -> Reply:
    """The right vectors; in base64 where that is asked for, unless `form` writes them."""
    in_base64 = asked.body.get("encoding_format") == "base64"
    write = form or (encoded if in_base64 else list)
    entries = [
        {"object": "embedding", "embedding": write(vector_of(text))} | ({"index": at} if index else {})
        for at, text in enumerate(inputs_of(asked))
    ]
    tokens = len(entries)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return plain({"object": "list", "data": entries[::order], "model": "canned", "usage": usage})


def strict(when: Callable[[Asked], bool], document: Any, status: int = 400) -> Serve:
    return lambda asked: plain(document, status) if when(asked) else embedded(asked)


def limited(most: int, text: str, status: int = 400, **about: Any) -> Serve:
    def serve(asked: Asked) -> Reply:
        count = len(inputs_of(asked))
        return embedded(asked) if count <= most else plain(error(text.format(count), **about), status)

    return serve


def is_base64(asked: Asked) -> bool:
    return asked.body.get("encoding_format") == "base64"


def holds_tokens(asked: Asked) -> bool:
    return any(not isinstance(text, str) for text in inputs_of(asked))


def bare_string(asked: Asked) -> Reply:
    if isinstance(asked.body.get("input"), list):
        return plain({"error": {"code": "1214", "message": "input参数非法"}}, 400)
    return embedded(asked)


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
    def serve(asked: Asked) -> Reply:
        count = len(inputs_of(asked))
        refused = {"error": TEI.format(count), "error_type": "Validation"}
        return embedded(asked) if count <= 32 else plain(refused, status)

    return serve


ROWS = (
    Row(17, "base64-refused", "refuses base64 (old vLLM)", strict(is_base64, NO_BASE64), Vectors(), ways=EMBED),
    Row(17, "base64-ignored", "sends numbers for base64 (LM Studio, infinity)",
        lambda asked: embedded(asked, list), Vectors(), ways=EMBED),
    Row(17, "base64-empty", "a 200 without vectors for base64 (OpenRouter)",
        lambda asked: plain({"object": "list", "data": [], "model": "canned"}) if is_base64(asked) else embedded(asked),
        Vectors(), ways=EMBED),
    Row(17, "base64-always", "base64 although numbers were asked for",
        lambda asked: embedded(asked, encoded), Vectors(), ways=EMBED),
    Row(17, "no-index", "vectors without `index`", lambda asked: embedded(asked, index=False), Vectors(), ways=EMBED),
    Row(17, "unordered", "vectors in the wrong order", lambda asked: embedded(asked, order=-1), Vectors(), ways=EMBED),
    Row(18, "batch-dashscope", "ten inputs at most (DashScope)",
        limited(10, DASHSCOPE, code="invalid_parameter_error"), Vectors(), ways=EMBED, texts=40),
    Row(18, "batch-tei-413", "32 inputs at most, 413 (TEI)", tei(413), Vectors(), ways=EMBED, texts=40),
    Row(18, "batch-tei-422", "the same with 422", tei(422), Vectors(), ways=EMBED, texts=40),
    Row(18, "batch-siliconflow", "64 inputs at most (SiliconFlow)",
        lambda asked: embedded(asked) if len(inputs_of(asked)) <= 64 else plain(
            {"code": 20042, "message": f"input batch size {len(inputs_of(asked))} > maximum allowed batch size 64",
             "data": None}, 400), Vectors(), ways=EMBED, texts=100),
    Row(18, "batch-azure", "16 inputs at most (old Azure)",
        limited(16, "Too many inputs. The max number of inputs is 16.  We hope to increase the number of inputs per"
                    " request soon."), Vectors(), ways=EMBED, texts=40),
    Row(18, "batch-azure-one", "one input at most (older Azure)",
        limited(1, "Too many inputs. The max number of inputs is 1."), Vectors(), ways=EMBED, texts=6),
    Row(18, "batch-gemini", "100 inputs at most (Gemini)",
        lambda asked: embedded(asked) if len(inputs_of(asked)) <= 100 else plain(GEMINI, 400), Vectors(), ways=EMBED,
        texts=120),
    Row(19, "dimensions", "takes no `dimensions` (vLLM), and has them",
        strict(lambda asked: asked.has("dimensions"), NO_DIMENSIONS), Vectors(), ways=EMBED,
        body={"dimensions": DIMENSIONS}),
    Row(19, "dimensions-fixed", "takes no `dimensions`, and has others",
        strict(lambda asked: asked.has("dimensions"), NO_MATRYOSHKA), Failure((400,), words="matryoshka"), ways=EMBED,
        body={"dimensions": DIMENSIONS // 2}),
    Row(20, "token-ids", "takes no token ids (LM Studio)",
        strict(holds_tokens, {"error": "'input' field must be a string or an array of strings"}),
        Failure((400,)), ways=EMBED, body={"input": [[9906, 1917], [15339]]}),
    Row(20, "token-ids-empty", "a 200 without vectors for token ids (OpenRouter)",
        lambda asked: plain({"object": "list", "data": [], "model": "canned"}) if holds_tokens(asked)
        else embedded(asked), Failure((400,)), ways=EMBED, body={"input": [[9906, 1917], [15339]]}),
    Row(21, "list-refused", "takes one string, no list (old Zhipu)", bare_string, Vectors(), ways=EMBED),
)  # fmt: skip
