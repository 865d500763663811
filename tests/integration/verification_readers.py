"""Read the reply to each host's check as strictly as the host does: a failure raises Misread.

Sources: langgenius/dify-plugin-sdks python/dify_plugin/interfaces/model/openai_compatible/*.py (@8e8860b to @0021d0c),
langgenius/dify-official-plugins models/openai_api_compatible (@3e1e501 to @02c5eec), langgenius/dify @00f0649 (0.6);
lobehub/lobe-chat packages/model-runtime (@0a3ba5d, @1b316f8); n8n-io/n8n @0028232; danny-avila/LibreChat @003bf57;
open-webui/open-webui @004a45f; CherryHQ/cherry-studio (@ac94a53, @c7bb0e8).
"""

from __future__ import annotations

import json
from array import array
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

from tests.integration.gateway import Answer
from tests.integration.ragflow_readers import Misread

LOBECHAT_HIDES = ("embedding", "davinci", "curie", "moderation", "ada", "babbage", "tts", "whisper", "dall-e")


def _ok(answer: Answer) -> Answer:
    if answer.status != 200:
        raise Misread(f"status code {answer.status} and response body {answer.body[:300]!r}")
    return answer


def _document(answer: Answer) -> dict[str, Any]:
    document: dict[str, Any] = _ok(answer).json()
    return document


# --- Dify -----------------------------------------------------------------------------------------------


def dify_chat(answer: Answer) -> str:
    return _dify_object(answer, "chat.completion")


def dify_completion(answer: Answer) -> str:
    return _dify_object(answer, "text_completion")


def _dify_object(answer: Answer, wanted: str) -> str:
    found: str = _document(answer).get("object", "") or wanted
    if found != wanted:
        raise Misread(f"Credentials validation failed: invalid response object, must be {wanted!r}")
    return found


def dify_0_6_chat(answer: Answer) -> str:
    """Of 0.6: an `object` that is missing fails too."""
    if "object" not in _document(answer):
        raise Misread("Credentials validation failed: invalid response object, must be 'chat.completion'")
    return dify_chat(answer)


def dify_stream_begins(answer: Answer) -> int:
    """With "stream mode for validation" nothing but the status is looked at."""
    return _ok(answer).status


def dify_stream(answer: Answer) -> str:
    """Return the first message: blocks between blank lines, without those that begin with a colon."""
    text = ""
    for block in _ok(answer).body.decode().split("\n\n"):
        block_data = block.strip().removeprefix("data: ").lstrip()
        if not block_data or block.strip().startswith(":") or block_data == "[DONE]":
            continue
        try:
            chunk = json.loads(block_data)
        except ValueError:
            raise Misread(f"Non-JSON encountered: {block_data[:80]!r}") from None
        _dify_counts(chunk.get("usage") or {"prompt_tokens": 0, "completion_tokens": 0})
        if chunk["choices"]:
            text += chunk["choices"][0].get("delta", {}).get("content") or ""
    return text


def dify_message(answer: Answer) -> str:
    """A first message without a stream."""
    document = _document(answer)
    if document.get("usage"):
        _dify_counts(document["usage"])
    if not isinstance(document["model"], str):
        raise Misread("1 validation error for LLMResult")
    text: str = document["choices"][0]["message"]["content"]
    return text


def _dify_counts(usage: dict[str, Any]) -> None:
    if not all(isinstance(usage[name], int) for name in ("prompt_tokens", "completion_tokens")):
        raise Misread("unsupported operand type(s) for *: 'NoneType' and 'decimal.Decimal'")


def dify_embedding(answer: Answer) -> None:
    """dify-official-plugins#1404: a server that does not repeat the model's name cannot be added."""
    if "model" not in _document(answer):
        raise Misread("Credentials validation failed: invalid response")


def dify_vectors(answer: Answer) -> list[list[float]]:
    """In newer plugins the check is a call like any other."""
    document = _document(answer)
    usage = document.get("usage") or {}
    _ = 0 + (usage.get("prompt_tokens") or usage.get("total_tokens") or 0)
    return [entry["embedding"] for entry in document["data"]]


def dify_sdk_ranks(answer: Answer) -> dict[int, float]:
    """The scores are normed by their own range, so each has to be a number; an echo may be an object or a text."""
    results = _document(answer)["results"]
    spread = max(result["relevance_score"] for result in results) - min(result["relevance_score"] for result in results)
    if not isinstance(spread, int | float):
        raise Misread("a score is no number")
    return {result["index"]: result["relevance_score"] for result in results}


def dify_ranks(answer: Answer) -> dict[int, float]:
    """The plugin's own class takes an echo for an object without a look; `usage` as well."""
    document = _document(answer)
    _ = document.get("usage", {}).get("total_tokens", 0)
    for result in document.get("results", []):
        result.get("document", {}).get("text", "")
    return {result.get("index", 0): result.get("relevance_score", 0.0) for result in document.get("results", [])}


def dify_speech(answer: Answer) -> bytes:
    return _ok(answer).body


def text(answer: Answer) -> str:
    """The `text` of a transcription."""
    found: str = _document(answer)["text"]
    return found


# --- openai-node, openai-python and clients based on them -------------------------------------------------


def chunks(answer: Answer) -> Iterator[dict[str, Any]]:
    """As the SDKs do: no event stream is an empty one, an `error` raises, comments are nothing."""
    kind = _ok(answer).headers.get("content-type", "")
    for line in answer.body.decode().splitlines() if kind.startswith("text/event-stream") else ():
        data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
        if data and data != "[DONE]":
            chunk = json.loads(data)
            if chunk.get("error"):
                raise Misread(f"APIError: {chunk['error']}")
            yield chunk


def sdk_chat(answer: Answer) -> str:
    """`choices[0].message`, as LangChain and Cherry Studio's older check read it."""
    document = _document(answer)
    if not document.get("choices"):
        raise Misread("Empty response")
    found: str = document["choices"][0]["message"]["content"]
    return found


def sdk_stream(answer: Answer) -> str:
    """The whole stream has to come; a text has to be in it."""
    found = "".join(
        chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks(answer) if chunk.get("choices")
    )
    if not found:
        raise Misread("Empty streaming response")
    return found


def ai_sdk_stream(answer: Answer) -> str:
    """The AI SDK fails a stream without a finish reason (3.0.92, and its role where one is given is "assistant")."""
    listed = [chunk["choices"][0] for chunk in chunks(answer) if chunk.get("choices")]
    if not any(choice.get("finish_reason") for choice in listed):
        raise Misread("Response stream ended without a finish reason.")
    if {choice["delta"].get("role") for choice in listed} - {None, "assistant"}:
        raise Misread("invalid_union")
    return sdk_stream(answer)


def lobechat_stream(answer: Answer) -> str:
    """The check passes on text alone: a mere reasoning is "The request returned empty"."""
    found = ""
    for chunk in chunks(answer):
        if chunk.get("choices"):
            found += chunk["choices"][0]["delta"].get("content") or ""
        elif chunk.get("usage") and not isinstance(chunk["usage"].get("total_tokens"), int):
            raise Misread("NaN tokens")
    if not found:
        raise Misread("The request returned empty. Please check if the API proxy address does not end with `/v1`.")
    return found


def lobechat_whole(answer: Answer) -> str:
    """With streaming switched off the reply is made a stream of by LobeChat."""
    found = "".join(choice["message"].get("content") or "" for choice in _document(answer).get("choices") or [])
    if not found:
        raise Misread("The request returned empty. Please check if the API proxy address does not end with `/v1`.")
    return found


def sdk_vectors(answer: Answer) -> list[list[float]]:
    """Floats as they come; openai-node turns them into nothing where it asked for base64 (LangChain, n8n)."""
    return [entry["embedding"] for entry in _document(answer)["data"]]


def node_packed_vectors(answer: Answer) -> list[list[float]]:
    vectors = [entry["embedding"] for entry in _document(answer)["data"]]
    if not all(isinstance(vector, str) for vector in vectors):
        raise Misread("an empty vector: floats read as base64")
    return [[*array("f", b64decode(vector))] for vector in vectors]


def dimensions(answer: Answer) -> int:
    """Cherry Studio's check of an embedding model: the length of the first vector."""
    return len(sdk_vectors(answer)[0])


# --- model lists ------------------------------------------------------------------------------------------


def ids(answer: Answer) -> list[str]:
    """`data[].id`; LibreChat and the SDKs."""
    return [entry["id"] for entry in _document(answer)["data"]]


def lobechat_ids(answer: Answer) -> list[str]:
    """Names of other types are hidden; `created` is a number, a text, or nothing."""
    listed = _document(answer)["data"]
    if not all(isinstance(entry.get("created") or 0, int | str) for entry in listed):
        raise Misread("item.created.toFixed is not a function")
    return [entry["id"] for entry in listed if not any(word in entry["id"].lower() for word in LOBECHAT_HIDES)]


def n8n_ids(answer: Answer) -> list[str]:
    return sorted(ids(answer))


def open_webui_ids(answer: Answer) -> list[str]:
    """aiohttp's `json()` also requires the content type, and verifying requires exactly 200."""
    if not answer.headers.get("content-type", "").startswith("application/json"):
        raise Misread("Attempt to decode JSON with unexpected mimetype")
    return ids(answer)


def reachable(answer: Answer) -> int:
    """n8n's credential test: any success."""
    if not 200 <= answer.status < 300:
        raise Misread(f"Couldn't connect with these settings: {answer.status}")
    return answer.status
