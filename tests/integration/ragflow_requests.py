"""Every kind of request that RAGFlow sends, and how RAGFlow reads the reply.

Source: infiniflow/ragflow, tags v0.20.5 to v0.27.0 and commit b1b8cd6235 (August 2026), rag/llm/*.py and
internal/entity/models/*.go. Bodies are written as its clients write them: openai-python compact and in the order of
its parameters, `requests` with blanks and ASCII alone, Go with its members sorted. Each row is one request at the path
that RAGFlow makes of a base URL; `version` is the version that sends it.

The replies are those of `strict_azure.py`. `ragflow_readers.py` explains `Reads`.
"""

from __future__ import annotations

import io
import json
import struct
import wave
import zlib
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any

KEY = "gp-0123456789abcdef0123456789abcdef"
CHAT_MODEL, VECTOR_MODEL, RANK_MODEL, EAR_MODEL, VOICE_MODEL = "gpt-4o", "text-embedding-3-small", "rr", "w-1", "tts-1"

VERIFY_S = 10.0
"""LLM_TIMEOUT_SECONDS of "add model" (api/apps/services/provider_api_service.py)."""
RERANK_S, GO_HEAD_S = 30.0, 120.0


class Reads(StrEnum):
    CHAT = "chat"
    CHAT_STREAM = "chat stream"
    TOOLS = "tools"
    TOOLS_STREAM = "tools stream"
    TOTALS_STREAM = "stream with totals"
    VISION = "vision"
    VISION_STREAM = "vision stream"
    VECTORS = "vectors"
    PACKED_VECTORS = "vectors, base64 allowed"
    RANKS = "results[]"
    RANKS_TEI = "[]"
    TRANSCRIPT = "text"
    SPEECH = "audio"
    MODELS = "data[].id"
    GO_CHAT = "Go chat"
    GO_STREAM = "Go stream"


@dataclass(frozen=True, slots=True)
class Replay:
    """One request. `within_s`: RAGFlow gives up then."""

    what: str
    version: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    reads: Reads
    within_s: float = 600.0

    @property
    def name(self) -> str:
        return f"{self.what} [{self.version}] {self.method} {self.path}"

    def asking(self, model: str) -> Replay:
        """The same request of another chat model."""
        return replace(self, body=self.body.replace(f'"{CHAT_MODEL}"'.encode(), f'"{model}"'.encode()))


# --- how each client writes ---------------------------------------------------------------------------


def by_sdk(document: Any) -> bytes:
    """httpx under openai-python and cohere: compact, UTF-8."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def by_requests(document: Any) -> bytes:
    return json.dumps(document).encode()


def by_go(document: Any) -> bytes:
    """encoding/json of a map: members sorted, `<`, `>` and `&` in escapes."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text.encode()


_BEARER = {"authorization": f"Bearer {KEY}"}
SDK: Mapping[str, str] = MappingProxyType(
    {
        "accept": "application/json",
        "content-type": "application/json",
        "user-agent": "AsyncOpenAI/Python 2.41.0",
        "x-stainless-lang": "python",
        "x-stainless-package-version": "2.41.0",
        "x-stainless-os": "Linux",
        "x-stainless-arch": "x64",
        "x-stainless-runtime": "CPython",
        "x-stainless-runtime-version": "3.12.10",
        "x-stainless-async": "async:asyncio",
        "x-stainless-retry-count": "0",
        "x-stainless-read-timeout": "600",
        **_BEARER,
    }
)
REQUESTS: Mapping[str, str] = MappingProxyType(
    {"user-agent": "python-requests/2.32.4", "accept": "*/*", "content-type": "application/json", **_BEARER}
)
WITHOUT_KEY: Mapping[str, str] = MappingProxyType(
    {name: value for name, value in REQUESTS.items() if name not in _BEARER}
)
"""RAGFlow's HuggingfaceRerank has no place for a key (rag/llm/rerank_model.py)."""
COHERE: Mapping[str, str] = MappingProxyType(
    {
        "x-fern-language": "Python",
        "x-fern-sdk-name": "cohere",
        "x-fern-sdk-version": "5.6.2",
        "content-type": "application/json",
        **_BEARER,
    }
)
AIOHTTP: Mapping[str, str] = MappingProxyType({"accept": "*/*", "user-agent": "Python/3.12 aiohttp/3.12", **_BEARER})
GO: Mapping[str, str] = MappingProxyType(
    {"user-agent": "Go-http-client/1.1", "content-type": "application/json", **_BEARER}
)
GO_STREAM: Mapping[str, str] = MappingProxyType({**GO, "accept": "text/event-stream"})

# --- what it talks about --------------------------------------------------------------------------------

USER = {"role": "user", "content": "Hi"}
DIALOG = [{"role": "system", "content": "Answer from the knowledge base.\n<é>"}, {"role": "user", "content": "Hi?"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Calls {name}.",
            "parameters": {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]},
        },
    }
    for name in ("search", "lookup")
]
HINT = {"role": "user", "content": "Search and look up."}


def _called(*indices: int | None) -> list[dict[str, Any]]:
    """The messages of a second round: RAGFlow repeats `index` with each call, null where it did not stream."""
    calls = [
        {
            "index": index,
            "id": f"call_{number}",
            "function": {"name": name, "arguments": '{"q":"x"}'},
            "type": "function",
        }
        for number, (index, name) in enumerate(zip(indices, ("search", "lookup"), strict=True))
    ]
    results = [{"role": "tool", "tool_call_id": f"call_{number}", "content": "found"} for number in range(2)]
    return [HINT, {"role": "assistant", "content": None, "tool_calls": calls}, *results]


def png(side: int = 100) -> bytes:
    """A white square: the test image of "add model" is one of 100 by 100."""
    rows = b"".join(b"\0" + b"\xff" * (3 * side) for _ in range(side))
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


PICTURE = f"data:image/png;base64,{b64encode(png()).decode()}"
SEEN = {
    "role": "user",
    "content": [
        {"type": "text", "text": "Please describe the content of this picture."},
        {"type": "image_url", "image_url": {"url": PICTURE}},
    ],
}


def silence() -> bytes:
    """Half a second at 16 kHz, which "add model" has transcribed."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(bytes(16_000))
    return file.getvalue()


BOUNDARY = "6f1c3c2b9d0e4a7f8b5a2d1e0c9f8e7d"


def form(model: str, audio: bytes) -> bytes:
    """A multipart form: the fields first, then the file."""
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="'
    return b"".join(
        (
            f'{part}model"\r\n\r\n{model}\r\n'.encode(),
            f'{part}file"; filename="silence.wav"\r\nContent-Type: audio/x-wav\r\n\r\n'.encode(),
            audio,
            f"\r\n--{BOUNDARY}--\r\n".encode(),
        )
    )


def _multipart(headers: Mapping[str, str]) -> Mapping[str, str]:
    return {**headers, "content-type": f"multipart/form-data; boundary={BOUNDARY}"}


# --- the rows -------------------------------------------------------------------------------------------

CHAT, V1_CHAT = "/chat/completions", "/v1/chat/completions"


def _row(
    what: str,
    version: str,
    path: str,
    reads: Reads,
    document: Mapping[str, Any],
    within_s: float = 600.0,
    *,
    by: Callable[[Any], bytes] = by_sdk,
    headers: Mapping[str, str] = SDK,
) -> Replay:
    return Replay(what, version, "POST", path, headers, by(document), reads, within_s)


def _chat(what: str, version: str, reads: Reads, messages: Any = DIALOG, path: str = V1_CHAT, **fields: Any) -> Replay:
    """A chat, whose settings are the members of `fields` that no argument of `_row` has."""
    own = {name: fields.pop(name) for name in ("within_s", "by", "headers") if name in fields}
    return _row(what, version, path, reads, {"messages": messages, "model": CHAT_MODEL, **fields}, **own)


BEFORE_0_26 = [{"role": "user", "content": "Hello! How are you doing!"}]
SINCE_0_20, SINCE_0_26 = "v0.20.5 to HEAD", "v0.26.1 to HEAD"
ROUND: dict[str, Any] = {"tool_choice": "auto", "tools": TOOLS}
CHATS = (
    _chat(
        "verify chat",
        "v0.26.1 to v0.27.0, HEAD",
        Reads.CHAT_STREAM,
        [USER],
        stream=True,
        temperature=0.9,
        within_s=VERIFY_S,
    ),
    _chat(
        "verify chat, base without /v1", "v0.20.5", Reads.CHAT, BEFORE_0_26, CHAT, temperature=0.9, within_s=VERIFY_S
    ),
    _chat(
        "chat with every setting of the dialog",
        SINCE_0_26,
        Reads.CHAT,
        frequency_penalty=0.7,
        presence_penalty=0.4,
        temperature=0.1,
        top_p=0.3,
    ),
    _chat(
        "chat of a model called qwen3",
        SINCE_0_26,
        Reads.CHAT,
        [USER],
        temperature=0.1,
        enable_thinking=False,
    ),
    _chat("tools, first round, stream", SINCE_0_20, Reads.TOOLS_STREAM, [HINT], stream=True, **ROUND),
    _chat("tools, second round, stream", SINCE_0_20, Reads.CHAT_STREAM, _called(0, 1), stream=True, **ROUND),
    _chat("tools, second round", SINCE_0_20, Reads.CHAT, _called(None, None), **ROUND),
)

LITELLM_CHATS = (  # LiteLLM 1.84 sends by openai-python
    _chat(
        "chat stream of the provider OpenAI",
        "HEAD (LiteLLM 1.84.0)",
        Reads.TOTALS_STREAM,
        stream=True,
        stream_options={"include_usage": True},
        temperature=0.1,
    ),
    _chat(
        "images beside the messages",
        f"{SINCE_0_26} (LiteLLM)",
        Reads.CHAT,
        [USER],
        temperature=0.1,
        images=[PICTURE],
    ),
)

VISION = (
    _chat("verify vision", SINCE_0_20, Reads.VISION, [SEEN], within_s=VERIFY_S),
    _chat("vision stream", "v0.24.0 to HEAD", Reads.VISION_STREAM, [SEEN], stream=True),
)

BATCH = [f"Chunk {number} of a document, é." for number in range(16)]
VECTORS, V1_VECTORS = "/embeddings", "/v1/embeddings"


def _embed(texts: list[str], encoding: str, **more: Any) -> dict[str, Any]:
    return {"input": texts, "model": VECTOR_MODEL, "encoding_format": encoding, **more}


EMBEDDINGS = (
    _row(
        "verify embedding",
        "v0.21.1 to v0.27.0, HEAD (#18584)",
        V1_VECTORS,
        Reads.VECTORS,
        _embed(["Test if the api key is available"], "float", drop_params=True),
        VERIFY_S,
    ),
    _row(
        "embeddings, base http://h/v1/", "v0.20.5, v0.24.0", "/v1/v1/embeddings", Reads.VECTORS, _embed(BATCH, "float")
    ),
    _row(
        "embeddings of LocalAI, LM-Studio and Xinference",
        SINCE_0_20,
        V1_VECTORS,
        Reads.PACKED_VECTORS,
        _embed(BATCH[:2], "base64"),
    ),
)

QUESTION = {"model": RANK_MODEL, "query": "What's the weather?", "documents": ["Is it sunny today?"]}
DOCUMENTS = ["Rain.", "Is it sunny today?", "é"]
THREE = {**QUESTION, "documents": DOCUMENTS}


def _rank(what: str, version: str, path: str, document: Any, reads: Reads = Reads.RANKS, **fields: Any) -> Replay:
    fields = {"headers": REQUESTS, "within_s": RERANK_S, "by": by_requests, **fields}
    return _row(what, version, path, reads, document, **fields)


RERANKS = (
    _rank(
        "verify rerank, OpenAI-API-Compatible",
        "v0.21.1 to HEAD",
        "/v1/rerank",
        {**QUESTION, "top_n": 1},
        within_s=VERIFY_S,
    ),
    _rank(
        "rerank, VLLM (the Cohere SDK)",
        "HEAD (cohere 5.6.2)",
        "/v1/rerank",
        {**THREE, "top_n": 3, "return_documents": False},
        by=by_sdk,
        headers=COHERE,
    ),
    _rank(
        "rerank, Xinference",
        SINCE_0_20,
        "/v1/rerank",
        {**THREE, "return_documents": "true", "return_len": "true"},
    ),
    _rank(
        "rerank, HuggingFace",
        SINCE_0_20,
        "/rerank",
        {"query": "What's the weather?", "texts": DOCUMENTS, "raw_scores": False, "truncate": True},
        Reads.RANKS_TEI,
        headers=WITHOUT_KEY,
    ),
    _rank("rerank at the root of the API", "HEAD (Go)", "/v1/", {**THREE, "top_n": 3}, by=by_go, headers=GO),
)

AUDIO = (
    Replay(
        "verify speech to text",
        "HEAD (classes OpenAI, New API, FunASR)",
        "POST",
        "/v1/audio/transcriptions",
        _multipart(SDK),
        form(EAR_MODEL, silence()),
        Reads.TRANSCRIPT,
        VERIFY_S,
    ),
    _row(
        "verify text to speech",
        "HEAD (classes OpenAI, New API)",
        "/v1/audio/speech",
        Reads.SPEECH,
        {"model": VOICE_MODEL, "voice": "alloy", "input": "Hello~ RAGFlower!"},
        VERIFY_S,
        by=by_requests,
        headers=REQUESTS,
    ),
)

WRAPPED_KEY = {**AIOHTTP, "authorization": "Bearer " + json.dumps({"api_key": KEY, "is_tools": True})}
MODELS = (
    Replay("model list", "HEAD", "GET", "/v1/models", AIOHTTP, b"", Reads.MODELS, VERIFY_S),
    Replay("model list", "HEAD (Go)", "GET", "/models", GO, b"{}", Reads.MODELS, VERIFY_S),
    Replay(
        "model list with a JSON object for a key",
        "before the fix of #17757",
        "GET",
        "/v1/models",
        WRAPPED_KEY,
        b"",
        Reads.MODELS,
        VERIFY_S,
    ),
)

_GO: dict[str, Any] = {"by": by_go, "headers": GO_STREAM, "within_s": GO_HEAD_S}
_COUNTED: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
GO_CALLS = (
    _chat("chat stream", "HEAD (Go)", Reads.GO_STREAM, **_COUNTED, temperature=0.1, max_tokens=512, **_GO),
    _chat(
        "chat stream with thinking, base without /v1",
        "HEAD (Go)",
        Reads.GO_STREAM,
        DIALOG,
        CHAT,
        **_COUNTED,
        thinking={"type": "disabled"},
        do_sample=True,
        **_GO,
    ),
    _chat("chat", "HEAD (Go)", Reads.GO_CHAT, stream=False, **{**_GO, "headers": GO}),
    _row(
        "embeddings, base without /v1, shortened",
        "HEAD (Go)",
        VECTORS,
        Reads.VECTORS,
        {"input": BATCH[:3], "model": VECTOR_MODEL, "dimensions": 2},
        GO_HEAD_S,
        by=by_go,
        headers=GO,
    ),
)

ALL: tuple[Replay, ...] = (*CHATS, *LITELLM_CHATS, *VISION, *EMBEDDINGS, *RERANKS, *AUDIO, *MODELS, *GO_CALLS)
