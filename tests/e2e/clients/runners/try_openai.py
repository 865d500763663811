"""The `openai` client for Python, 1.x to 3.x. Every answer, chunk and error is held against its own types, strictly."""

from __future__ import annotations

import json
from typing import Any

from chat_request import extras, opening, result
from harness import TIMEOUT_S, Seen, Told, Way, play
from openai import OpenAI
from reply_validation import Ear

ear = Ear()
client = OpenAI(max_retries=0, timeout=TIMEOUT_S, http_client=ear.client)


def listened(way: Way) -> Way:
    """`way`, with all that came held against the SDK's types."""

    def played(told: Told, seen: Seen) -> None:
        try:
            way(told, seen)
        finally:
            found = ear.faults()
            seen.checked += len(found)
            seen.invalid += [fault for faults in found for fault in faults]

    return played


def members(told: Told) -> dict[str, Any]:
    return {name: told[name] for name in ("model", "temperature", "max_tokens")} | extras(told)


def whole(told: Told, messages: list[Any], seen: Seen) -> list[dict[str, Any]]:
    answer = client.chat.completions.create(messages=messages, **members(told))
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
        messages += [result(call["id"], call["arguments"]) for call in calls]


def complete(told: Told, seen: Seen) -> None:
    asked = {name: told[name] for name in ("model", "temperature", "max_tokens")} | {"prompt": told["question"]}
    if not told["streams"]:
        answer = client.completions.create(**asked)
        (choice,) = answer.choices
        seen.text, seen.finish, seen.total = choice.text, choice.finish_reason, answer.usage.total_tokens
        return
    seen.text = ""
    with client.completions.create(**asked, stream=True, stream_options={"include_usage": True}) as stream:
        for chunk in stream:
            seen.total = chunk.usage.total_tokens if chunk.usage else seen.total
            for choice in chunk.choices:
                seen.text, seen.finish = seen.text + choice.text, choice.finish_reason or seen.finish


def respond(told: Told, seen: Seen) -> None:
    asked = {"model": told["model"], "input": told["question"], "temperature": told["temperature"]}
    if not told["streams"]:
        answer: Any = client.responses.create(**asked)
    else:
        answer = None
        with client.responses.create(**asked, stream=True) as stream:
            for event in stream:
                answer = event.response if event.type == "response.completed" else answer
        assert answer is not None, "no response.completed"
    seen.text, seen.total = answer.output_text, answer.usage.total_tokens


def hear(told: Told, seen: Seen) -> None:
    sound = ("question.wav", b"RIFF\x24\x00\x00\x00WAVE", "audio/wav")
    seen.text = client.audio.transcriptions.create(model=told["model"], file=sound).text


def speak(told: Told, seen: Seen) -> None:
    seen.text = client.audio.speech.create(model=told["model"], voice="alloy", input="Hi").content.decode("latin-1")


def draw(told: Told, seen: Seen) -> None:
    answer: Any = client.images.generate(model=told["model"], prompt=told["question"])
    seen.text = answer.data[0].b64_json


def moderate(told: Told, seen: Seen) -> None:
    answer = client.moderations.create(model=told["model"], input=told["question"])
    seen.text = "flagged" if answer.results[0].flagged else "fine"


def files(told: Told, seen: Seen) -> None:
    sent = ("batch.jsonl", told["file"].encode("latin-1"), "application/jsonl")
    known = client.files.create(file=sent, purpose="batch")
    seen.text = client.files.content(known.id).content.decode("latin-1")


def models(told: Told, seen: Seen) -> None:
    listed = client.models.list()
    seen.models = sorted(model.id for model in listed.data)


def embed(told: Told, seen: Seen) -> None:
    answer = client.embeddings.create(model=told["model"], input=told["texts"])
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
    play({kind: listened(way) for kind, way in WAYS.items()})
