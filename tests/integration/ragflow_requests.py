"""Every kind of request that RAGFlow sends, and how RAGFlow reads the reply.

Source: infiniflow/ragflow, tags v0.20.5 to v0.27.0 and commit b1b8cd6235 (August 2026), rag/llm/*.py and
internal/entity/models/*.go. RAGFlow 1.0 has only the clients in Go, and saves a model by a whole reply. Bodies are
written as its clients write them: openai-python compact and in the order of its parameters, `requests` with blanks and
ASCII alone, Go with its members sorted. Each row is one request at the path that RAGFlow makes of a base URL; `version`
is the version that sends it.

The replies are those of `strict_azure.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from tests.integration import ragflow_readers as reads
from tests.integration.ragflow_readers import Reader

KEY = "gp-0123456789abcdef0123456789abcdef"
CHAT_MODEL, VECTOR_MODEL, RANK_MODEL, EAR_MODEL, VOICE_MODEL = "gpt-4o", "text-embedding-3-small", "rr", "w-1", "tts-1"


@dataclass(frozen=True, slots=True)
class Replay:
    what: str
    version: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    reads: Reader

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


PICTURE = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg=="
SEEN = {
    "role": "user",
    "content": [
        {"type": "text", "text": "Please describe the content of this picture."},
        {"type": "image_url", "image_url": {"url": PICTURE}},
    ],
}

BOUNDARY = "6f1c3c2b9d0e4a7f8b5a2d1e0c9f8e7d"
FORM: Mapping[str, str] = {**SDK, "content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def form(model: str, audio: bytes, *, file_first: bool = False) -> bytes:
    """A multipart form: the fields first, then the file. Go's client sends the file first."""
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="'
    parts = [
        f'{part}model"\r\n\r\n{model}\r\n'.encode(),
        f'{part}file"; filename="silence.wav"\r\nContent-Type: audio/x-wav\r\n\r\n'.encode() + audio + b"\r\n",
    ]
    return b"".join([*(reversed(parts) if file_first else parts), f"--{BOUNDARY}--\r\n".encode()])


# --- the rows -------------------------------------------------------------------------------------------

CHAT, V1_CHAT = "/chat/completions", "/v1/chat/completions"


def _row(
    what: str,
    version: str,
    path: str,
    reader: Reader,
    document: Mapping[str, Any],
    *,
    by: Callable[[Any], bytes] = by_sdk,
    headers: Mapping[str, str] = SDK,
) -> Replay:
    return Replay(what, version, "POST", path, headers, by(document), reader)


def _chat(what: str, version: str, reader: Reader, said: Any = DIALOG, path: str = V1_CHAT, **fields: Any) -> Replay:
    """A chat, whose settings are the members of `fields` that no argument of `_row` has."""
    own = {name: fields.pop(name) for name in ("by", "headers") if name in fields}
    return _row(what, version, path, reader, {"messages": said, "model": CHAT_MODEL, **fields}, **own)


SINCE_0_20, SINCE_0_26 = "v0.20.5 to HEAD", "v0.26.1 to HEAD"
ROUND: dict[str, Any] = {"tool_choice": "auto", "tools": TOOLS}
SETTINGS: dict[str, Any] = {"frequency_penalty": 0.7, "presence_penalty": 0.4, "temperature": 0.1, "top_p": 0.3}
CHATS = (
    _chat("verify chat", SINCE_0_26, reads.chat_stream, [USER], stream=True, temperature=0.9),
    _chat("verify chat, base without /v1", "v0.20.5", reads.chat, [USER], CHAT, temperature=0.9),
    _chat("chat with every setting of the dialog", SINCE_0_26, reads.chat, **SETTINGS),
    _chat("chat of a model called qwen3", SINCE_0_26, reads.chat, [USER], enable_thinking=False),
    _chat("tools, first round, stream", SINCE_0_20, reads.tools_stream, [HINT], stream=True, **ROUND),
    _chat("tools, second round, stream", SINCE_0_20, reads.chat_stream, _called(0, 1), stream=True, **ROUND),
    _chat("tools, second round", SINCE_0_20, reads.chat, _called(None, None), **ROUND),
    _chat("images beside the messages", f"{SINCE_0_26} (LiteLLM 1.84)", reads.chat, [USER], images=[PICTURE]),
)

VISION = (
    _chat("verify vision", SINCE_0_20, reads.vision, [SEEN]),
    _chat("vision stream", "v0.24.0 to HEAD", reads.vision_stream, [SEEN], stream=True),
)

BATCH = [f"Chunk {number} of a document, é." for number in range(16)]
VERIFIED = ["Test if the api key is available"]


def _embed(texts: list[str], encoding: str, **more: Any) -> dict[str, Any]:
    return {"input": texts, "model": VECTOR_MODEL, "encoding_format": encoding, **more}


EMBEDDINGS = (
    _row(
        "verify embedding",
        "v0.21.1 to v0.27.0, HEAD (#18584)",
        "/v1/embeddings",
        reads.vectors,
        _embed(VERIFIED, "float", drop_params=True),
    ),
    _row("base http://h/v1/", "v0.20.5, v0.24.0", "/v1/v1/embeddings", reads.vectors, _embed(BATCH, "float")),
    _row(
        "embeddings of LocalAI, LM-Studio and Xinference",
        SINCE_0_20,
        "/v1/embeddings",
        reads.packed_vectors,
        _embed(BATCH[:2], "base64"),
    ),
)

DOCUMENTS = ["Rain.", "Is it sunny today?", "é"]
QUESTION = {"model": RANK_MODEL, "query": "What's the weather?", "documents": DOCUMENTS}


def _rank(what: str, version: str, path: str, document: Any, reader: Reader = reads.ranks, **fields: Any) -> Replay:
    return _row(what, version, path, reader, document, **{"headers": REQUESTS, "by": by_requests, **fields})


IN_TEXTS = {"return_documents": "true", "return_len": "true"}
RERANKS = (
    _rank("verify rerank, OpenAI-API-Compatible", "v0.21.1 to HEAD", "/v1/rerank", {**QUESTION, "top_n": 3}),
    _rank("rerank, Xinference", SINCE_0_20, "/v1/rerank", {**QUESTION, **IN_TEXTS}),
    _rank(
        "rerank, HuggingFace",
        SINCE_0_20,
        "/rerank",
        {"query": "What's the weather?", "texts": DOCUMENTS, "raw_scores": False, "truncate": True},
        reads.ranks_tei,
        headers=WITHOUT_KEY,
    ),
    _rank("rerank at the root of the API", "HEAD (Go)", "/v1/", {**QUESTION, "top_n": 3}, by=by_go, headers=GO),
)

SPOKEN = {"model": VOICE_MODEL, "voice": "alloy", "input": "Hello~ RAGFlower!"}
HEARD = form(EAR_MODEL, b"RIFF")
AUDIO = (
    Replay("verify speech to text", "HEAD", "POST", "/v1/audio/transcriptions", FORM, HEARD, reads.transcript),
    _row("verify text to speech", "HEAD", "/v1/audio/speech", reads.speech, SPOKEN, by=by_requests, headers=REQUESTS),
)

WRAPPED_KEY = {**AIOHTTP, "authorization": "Bearer " + json.dumps({"api_key": KEY, "is_tools": True})}
MODELS = (
    Replay("model list", "HEAD (Go)", "GET", "/models", GO, b"{}", reads.models),
    Replay("JSON object for a key", "before the fix of #17757", "GET", "/v1/models", WRAPPED_KEY, b"", reads.models),
)

_GO: dict[str, Any] = {"stream": True, "by": by_go, "headers": GO_STREAM}
_COUNTED: dict[str, Any] = {"stream_options": {"include_usage": True}}
_SAMPLED: dict[str, Any] = {"thinking": {"type": "disabled"}, "do_sample": True}
GO_CALLS = (
    _chat("chat stream", "HEAD (Go)", reads.chat_stream, **_COUNTED, max_tokens=512, **_GO),
    _chat("chat stream with thinking", "HEAD (Go)", reads.chat_stream, DIALOG, CHAT, **_COUNTED, **_SAMPLED, **_GO),
    _row(
        "embeddings, base without /v1, shortened",
        "HEAD (Go)",
        "/embeddings",
        reads.vectors,
        {"input": BATCH[:3], "model": VECTOR_MODEL, "dimensions": 2},
        by=by_go,
        headers=GO,
    ),
)

_WHOLE: dict[str, Any] = {"stream": False, "by": by_go, "headers": GO}
_TESTED = {"input": ["test"], "model": VECTOR_MODEL}
_HEARD = {**GO, "content-type": FORM["content-type"]}


def _go(what: str, path: str, reader: Reader, document: Mapping[str, Any]) -> Replay:
    return _row(what, "1.0", path, reader, document, by=by_go, headers=GO)


OF_1_0 = (
    _chat("verify chat or vision", "1.0", reads.chat_go, [USER], **_WHOLE),
    _chat("chat with every setting of the dialog", "1.0", reads.chat_go, **SETTINGS, max_tokens=512, **_WHOLE),
    _chat("tools, first round, stream", "1.0", reads.tools_stream, [HINT], **ROUND, **_COUNTED, **_GO),
    _chat("tools, second round, stream", "1.0", reads.chat_stream, _called(0, 1), **ROUND, **_COUNTED, **_GO),
    _chat("tools, second round", "1.0", reads.chat_go, _called(0, 1), **ROUND, **_WHOLE),
    _chat("picture, stream", "1.0", reads.chat_stream, [SEEN], **_COUNTED, **_GO),
    _chat("verify chat, VLLM, model called qwen-…", "1.0", reads.chat_go, [USER], "/v1/", **_WHOLE),
    _chat("chat stream, LM-Studio, model called glm-…", "1.0", reads.chat_stream, DIALOG, "/v1/", **_COUNTED, **_GO),
    _go("verify embedding", "/v1/embeddings", reads.vectors, _TESTED),
    _go("verify embedding, GPUStack", "/v1-openai/embeddings", reads.vectors, _TESTED),
    _go("embeddings, GPUStack, base with /v1", "/v1/v1-openai/embeddings", reads.vectors, {**_TESTED, "input": BATCH}),
    Replay(
        "verify speech to text",
        "1.0",
        "POST",
        "/v1/audio/transcriptions",
        _HEARD,
        form(EAR_MODEL, b"RIFF", file_first=True),
        reads.transcript,
    ),
    Replay("model list, base with /v1", "1.0", "GET", "/v1/models", GO, b"{}", reads.models),
)
"""Members sorted, a GET with `{}`, and no `temperature` when a model is saved."""

ALL: tuple[Replay, ...] = (*CHATS, *VISION, *EMBEDDINGS, *RERANKS, *AUDIO, *MODELS, *GO_CALLS, *OF_1_0)
