"""The `openai` client for Python, 1.x to 3.x. Every answer and every chunk is held against its own types, strictly."""

from __future__ import annotations

import json
from typing import Any

from openai import OpenAI
from openai.types import Completion
from pydantic import ValidationError
from trial import TIMEOUT_S, Seen, Told, add, play  # type: ignore[import-not-found] # beside this script

client = OpenAI(max_retries=0, timeout=TIMEOUT_S)


def checked(answer: Any, seen: Seen) -> Any:
    """The SDK builds its objects without looking: here it looks."""
    seen.checked += 1
    try:
        type(answer).model_validate_json(answer.to_json(warnings=False), strict=True)
    except ValidationError as error:
        faults = [one for one in error.errors() if not is_unfinished_text(answer, one)]
        seen.invalid += [f"{type(answer).__name__} {one['loc']}: {one['msg']}" for one in faults]
    return answer


def is_unfinished_text(answer: Any, fault: Any) -> bool:
    """A streamed text completion has no finish reason before its end; the SDK has one type for it and a whole one."""
    return isinstance(answer, Completion) and fault["loc"][-1] == "finish_reason" and fault["input"] is None


def opening(told: Told) -> list[Any]:
    parts = [{"type": "text", "text": told["question"]}, {"type": "image_url", "image_url": {"url": told["picture"]}}]
    return [{"role": "user", "content": parts if told["kind"] == "picture" else told["question"]}]


def members(told: Told) -> dict[str, Any]:
    made = {name: told[name] for name in ("model", "temperature", "max_tokens")}
    if told["kind"] in ("tools", "rounds"):
        made["tools"] = [{"type": "function", "function": told["tool"]}]
        made["parallel_tool_calls"] = True
    if told["kind"] == "stray":
        made["extra_body"] = {"images": [told["picture"]]}
    return made


def whole(told: Told, messages: list[Any], seen: Seen) -> list[dict[str, Any]]:
    answer = checked(client.chat.completions.create(messages=messages, **members(told)), seen)
    (choice,) = answer.choices
    seen.text, seen.finish, seen.total = choice.message.content, choice.finish_reason, answer.usage.total_tokens
    return [
        {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
        for call in choice.message.tool_calls or ()
    ]


def streamed(told: Told, messages: list[Any], seen: Seen) -> list[dict[str, Any]]:
    calls: dict[int, dict[str, Any]] = {}
    pieces: list[str] = []
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    with client.chat.completions.create(messages=messages, **members(told), **options) as stream:
        for chunk in stream:
            checked(chunk, seen)
            seen.total = chunk.usage.total_tokens if chunk.usage else seen.total
            for choice in chunk.choices:
                seen.finish = choice.finish_reason or seen.finish
                pieces += [choice.delta.content or ""]
                gather(calls, choice.delta.tool_calls or ())
    seen.text = "".join(pieces) or None
    return list(calls.values())


def gather(calls: dict[int, dict[str, Any]], deltas: Any) -> None:
    for delta in deltas:
        known = calls.setdefault(delta.index, {"id": None, "name": "", "arguments": ""})
        known["id"] = delta.id or known["id"]
        known["name"] += delta.function.name or ""
        known["arguments"] += delta.function.arguments or ""


def once(told: Told, messages: list[Any], seen: Seen) -> list[dict[str, Any]]:
    calls = (streamed if told["streams"] else whole)(told, messages, seen)
    for call in calls:
        seen.called(call["id"], call["name"], json.loads(call["arguments"]))
    return calls


def chat(told: Told, seen: Seen) -> None:
    once(told, opening(told), seen)


def rounds(told: Told, seen: Seen) -> None:
    messages = opening(told)
    for _ in range(told["rounds"] + 1):
        calls = once(told, messages, seen)
        if not calls:
            return
        sent = [
            {"id": call["id"], "type": "function", "function": {name: call[name] for name in ("name", "arguments")}}
            for call in calls
        ]
        messages.append({"role": "assistant", "content": None, "tool_calls": sent})
        for call in calls:
            result = str(add(**json.loads(call["arguments"])))
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})


def complete(told: Told, seen: Seen) -> None:
    asked = {name: told[name] for name in ("model", "temperature", "max_tokens")} | {"prompt": told["question"]}
    if not told["streams"]:
        answer = checked(client.completions.create(**asked), seen)
        (choice,) = answer.choices
        seen.text, seen.finish, seen.total = choice.text, choice.finish_reason, answer.usage.total_tokens
        return
    seen.text = ""
    with client.completions.create(**asked, stream=True, stream_options={"include_usage": True}) as stream:
        for chunk in stream:
            checked(chunk, seen)
            seen.total = chunk.usage.total_tokens if chunk.usage else seen.total
            for choice in chunk.choices:
                seen.text, seen.finish = seen.text + choice.text, choice.finish_reason or seen.finish


def respond(told: Told, seen: Seen) -> None:
    asked = {"model": told["model"], "input": told["question"], "temperature": told["temperature"]}
    if not told["streams"]:
        answer = checked(client.responses.create(**asked), seen)
    else:
        answer = None
        with client.responses.create(**asked, stream=True) as stream:
            for event in stream:
                checked(event, seen)
                answer = event.response if event.type == "response.completed" else answer
        assert answer is not None, "no response.completed"
    seen.text, seen.total = answer.output_text, answer.usage.total_tokens


def hear(told: Told, seen: Seen) -> None:
    sound = ("question.wav", b"RIFF\x24\x00\x00\x00WAVE", "audio/wav")
    seen.text = checked(client.audio.transcriptions.create(model=told["model"], file=sound), seen).text


def speak(told: Told, seen: Seen) -> None:
    seen.text = client.audio.speech.create(model=told["model"], voice="alloy", input="Hi").content.decode("latin-1")


def draw(told: Told, seen: Seen) -> None:
    answer = checked(client.images.generate(model=told["model"], prompt=told["question"]), seen)
    seen.text = answer.data[0].b64_json


def moderate(told: Told, seen: Seen) -> None:
    answer = checked(client.moderations.create(model=told["model"], input=told["question"]), seen)
    seen.text = "flagged" if answer.results[0].flagged else "fine"


def files(told: Told, seen: Seen) -> None:
    sent = ("batch.jsonl", told["file"].encode("latin-1"), "application/jsonl")
    known = checked(client.files.create(file=sent, purpose="batch"), seen)
    seen.text = client.files.content(known.id).content.decode("latin-1")


def models(told: Told, seen: Seen) -> None:
    listed = checked(client.models.list(), seen)
    seen.models = sorted(checked(model, seen).id for model in listed.data)


def embed(told: Told, seen: Seen) -> None:
    answer = checked(client.embeddings.create(model=told["model"], input=told["texts"]), seen)
    seen.vectors, seen.total = [entry.embedding for entry in answer.data], answer.usage.total_tokens


WAYS = {
    "chat": chat,
    "tools": chat,
    "picture": chat,
    "stray": chat,
    "rounds": rounds,
    "completions": complete,
    "responses": respond,
    "models": models,
    "embed": embed,
    "embed_many": embed,
    "hear": hear,
    "speak": speak,
    "draw": draw,
    "moderate": moderate,
    "files": files,
}

if __name__ == "__main__":
    play(WAYS)
