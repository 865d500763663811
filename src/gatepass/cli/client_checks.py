"""What a client sends when its user presses "verify" or "save", and how it reads the reply. Data and pure functions.

The time limits are those of the clients. docs/clients/ and docs/ragflow.md describe the clients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ClientCheck:
    """One request of a client. `body` makes it for a model, None for a GET; `kind` is the kind of that model.

    `fault` returns why the client rejects a reply with status 200, None if it accepts it.
    """

    what: str
    path: str
    fault: Callable[[bytes], str | None]
    limit_s: float
    kind: str = "list"
    body: Callable[[str], Json] | None = None


def model_kind(model: str) -> str:
    """Return the kind of a model by its name, as RAGFlow guesses it: rerank, embedding, other or chat."""
    name = model.lower()
    # First, because the name of a reranker such as bge-reranker-v2-m3 also contains `bge`.
    if "rerank" in name:
        return "rerank"
    if any(word in name for word in ("embed", "bge", "e5-")):
        return "embedding"
    return "other" if any(word in name for word in ("whisper", "transcribe", "tts", "asr", "stt")) else "chat"


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None


def _items(body: bytes, name: str) -> list[Any]:
    document = _json(body)
    found = document.get(name) if isinstance(document, dict) else None
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def listed_models(body: bytes) -> list[str]:
    """Return the ids of a model list."""
    return [entry["id"] for entry in _items(body, "data") if isinstance(entry.get("id"), str)]


def list_fault(body: bytes) -> str | None:
    return None if listed_models(body) else "the list has no model"


def chat_fault(body: bytes) -> str | None:
    """Return why Dify rejects a whole reply."""
    choices, document = _items(body, "choices"), _json(body)
    if not choices:
        return "the reply has no choices"
    return None if document.get("object") in ("", "chat.completion", None) else "`object` is not chat.completion"


def stream_fault(body: bytes) -> str | None:
    """Return why RAGFlow rejects a stream: it requires a text that is not its error mark."""
    for line in body.splitlines():
        data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
        event = _json(data)
        if isinstance(event, dict) and event.get("error"):
            return f"the stream has an error: {error_text(data)}"
        for choice in _items(data, "choices"):
            delta = choice.get("delta") or {}
            text = next(
                (delta[name] for name in ("content", "reasoning_content", "reasoning") if delta.get(name)), None
            )
            if isinstance(text, str):
                return "the text is an error mark of RAGFlow" if "**ERROR**" in text else None
    return "the stream has no text"


def vectors_fault(body: bytes) -> str | None:
    vectors = [entry.get("embedding") for entry in _items(body, "data")]
    if not vectors or not all(isinstance(vector, list) and vector for vector in vectors):
        return "the reply has no list of numbers under data[].embedding"
    return None


def named_vectors_fault(body: bytes) -> str | None:
    """Return why Dify rejects vectors: older plugins require the name of the model too."""
    document = _json(body)
    is_named = isinstance(document, dict) and isinstance(document.get("model"), str)
    return vectors_fault(body) or (None if is_named else "the reply does not name the model")


def ranks_fault(body: bytes) -> str | None:
    results = _items(body, "results")
    is_ranked = all(
        isinstance(entry.get("index"), int) and isinstance(entry.get("relevance_score"), int | float)
        for entry in results
    )
    return None if results and is_ranked else "the reply has no index and relevance_score under results[]"


def error_text(body: bytes) -> str:
    """Return the message of an error reply, or the beginning of its body."""
    document = _json(body)
    error = document.get("error") if isinstance(document, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else body[:200].decode("utf-8", "replace").strip() or "an empty body"


def error_hop(body: bytes) -> str | None:
    """Return the hop in an error of gatepass: `client`, `gatepass`, `credential:NAME` or `upstream:NAME`."""
    document = _json(body)
    error = document.get("error") if isinstance(document, dict) else None
    hop = error.get("hop") if isinstance(error, dict) else None
    return hop if isinstance(hop, str) else None


def _chat_body(text: str, **members: Any) -> Callable[[str], Json]:
    return lambda model: {"model": model, "messages": [{"role": "user", "content": text}], **members}


CAPITALS = ("Carson City is the capital of Nevada.", "Washington, D.C. is the capital of the United States.")
CLIENTS: Mapping[str, Sequence[ClientCheck]] = MappingProxyType(
    {
        # `verify_api_key` in its provider_api_service.py; LLM_TIMEOUT_SECONDS is 10 there by default
        "ragflow": (
            ClientCheck("model list", "/models", list_fault, 10.0),
            ClientCheck(
                *("verify a chat model", "/chat/completions", stream_fault, 10.0, "chat"),
                body=_chat_body("Hi", stream=True, temperature=0.9),
            ),
            ClientCheck(
                *("verify an embedding model", "/embeddings", vectors_fault, 10.0, "embedding"),
                body=lambda model: {
                    "input": ["Test if the api key is available"],
                    "model": model,
                    "encoding_format": "float",
                    "drop_params": True,
                },
            ),
            ClientCheck(
                *("verify a rerank model", "/rerank", ranks_fault, 10.0, "rerank"),
                body=lambda model: {
                    "model": model,
                    "query": "What's the weather?",
                    "documents": ["Is it sunny today?"],
                    "top_n": 1,
                },
            ),
        ),
        "dify": (
            ClientCheck(
                *("save a chat model", "/chat/completions", chat_fault, 300.0, "chat"),
                body=_chat_body("ping", max_tokens=5),
            ),
            ClientCheck(
                *("save an embedding model", "/embeddings", named_vectors_fault, 60.0, "embedding"),
                body=lambda model: {"model": model, "input": ["ping"], "encoding_format": "float"},
            ),
            ClientCheck(
                *("save a rerank model", "/rerank", ranks_fault, 60.0, "rerank"),
                body=lambda model: {
                    "model": model,
                    "query": "What is the capital of the United States?",
                    "documents": CAPITALS,
                    "top_n": 2,
                },
            ),
        ),
        # AIOHTTP_CLIENT_TIMEOUT_MODEL_LIST is 10 s by default
        "openwebui": (ClientCheck("verify the connection", "/models", list_fault, 10.0),),
        # after 5 s it shows only the names of its own configuration
        "librechat": (ClientCheck("fetch the models", "/models", list_fault, 5.0),),
    }
)
"""The verification calls of each client, in the order in which they are sent."""
PROFILES: Mapping[str, str] = MappingProxyType({"openwebui": "open_webui"})
"""The profile of a client, if it has another name."""
