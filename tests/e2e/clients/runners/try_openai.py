"""The `openai` client for Python, 1.x to 3.x. Every reply, chunk and error is validated against its types, strictly."""

import json
from typing import Any

from ask_openai import plain, raw, recorder
from chat_request import extras, first_messages, tool_message
from harness import TIMEOUT_S, Handler, Result, Scenario, run_all
from openai import OpenAI

client = OpenAI(max_retries=0, timeout=TIMEOUT_S, http_client=recorder.client)


def validated(handler: Handler) -> Handler:
    """Return `handler` with validation of the received replies."""

    def run(scenario: Scenario, result: Result) -> None:
        try:
            handler(scenario, result)
        finally:
            recorder.validate(result)

    return run


def members(scenario: Scenario) -> dict[str, Any]:
    return {name: scenario[name] for name in ("model", "temperature", "max_tokens")} | extras(scenario)


def chat_once(scenario: Scenario, messages: list[Any], result: Result) -> list[dict[str, Any]]:
    """Record one answer, and return its calls, whose arguments are JSON."""
    once, request = Result(), {"messages": messages, **members(scenario)}
    if scenario["streams"]:
        raw(client, {**request, "stream_options": {"include_usage": True}}, once)
    else:
        plain(client, request, once)
    result.text, result.finish, result.total = once.text or None, once.finish, once.total
    for call in once.calls or ():
        result.add_call(call["id"], call["name"], json.loads(call["arguments"]))
    return once.calls or []


def chat(scenario: Scenario, result: Result) -> None:
    chat_once(scenario, first_messages(scenario), result)


def rounds(scenario: Scenario, result: Result) -> None:
    messages = first_messages(scenario)
    for _ in range(scenario["rounds"] + 1):
        calls = chat_once(scenario, messages, result)
        if not calls:
            return
        sent = [
            {"id": call["id"], "type": "function", "function": {name: call[name] for name in ("name", "arguments")}}
            for call in calls
        ]
        messages.append({"role": "assistant", "content": None, "tool_calls": sent})
        messages += [tool_message(call["id"], call["arguments"]) for call in calls]


def complete(scenario: Scenario, result: Result) -> None:
    parameters = {name: scenario[name] for name in ("model", "temperature", "max_tokens")} | {
        "prompt": scenario["question"]
    }
    if not scenario["streams"]:
        answer = client.completions.create(**parameters)
        (choice,) = answer.choices
        result.text, result.finish, result.total = choice.text, choice.finish_reason, answer.usage.total_tokens
        return
    result.text = ""
    with client.completions.create(**parameters, stream=True, stream_options={"include_usage": True}) as stream:
        for chunk in stream:
            result.total = chunk.usage.total_tokens if chunk.usage else result.total
            for choice in chunk.choices:
                result.text, result.finish = result.text + choice.text, choice.finish_reason or result.finish


def respond(scenario: Scenario, result: Result) -> None:
    parameters = {"model": scenario["model"], "input": scenario["question"], "temperature": scenario["temperature"]}
    if not scenario["streams"]:
        answer: Any = client.responses.create(**parameters)
    else:
        answer = None
        with client.responses.create(**parameters, stream=True) as stream:
            for event in stream:
                answer = event.response if event.type == "response.completed" else answer
        assert answer is not None, "no response.completed"
    result.text, result.total = answer.output_text, answer.usage.total_tokens


def transcribe(scenario: Scenario, result: Result) -> None:
    sound = ("question.wav", b"RIFF\x24\x00\x00\x00WAVE", "audio/wav")
    result.text = client.audio.transcriptions.create(model=scenario["model"], file=sound).text


def synthesize_speech(scenario: Scenario, result: Result) -> None:
    result.text = client.audio.speech.create(model=scenario["model"], voice="alloy", input="Hi").content.decode(
        "latin-1"
    )


def generate_image(scenario: Scenario, result: Result) -> None:
    answer: Any = client.images.generate(model=scenario["model"], prompt=scenario["question"])
    result.text = answer.data[0].b64_json


def moderate(scenario: Scenario, result: Result) -> None:
    answer = client.moderations.create(model=scenario["model"], input=scenario["question"])
    result.text = "flagged" if answer.results[0].flagged else "fine"


def files(scenario: Scenario, result: Result) -> None:
    sent = ("batch.jsonl", scenario["file"].encode("latin-1"), "application/jsonl")
    stored = client.files.create(file=sent, purpose="batch")
    result.text = client.files.content(stored.id).content.decode("latin-1")


def models(scenario: Scenario, result: Result) -> None:
    listed = client.models.list()
    result.models = sorted(model.id for model in listed.data)


def embed(scenario: Scenario, result: Result) -> None:
    answer = client.embeddings.create(model=scenario["model"], input=scenario["texts"])
    result.vectors, result.total = [entry.embedding for entry in answer.data], answer.usage.total_tokens


HANDLERS = {
    "chat": chat,
    "tools": chat,
    "picture": chat,
    "extra_parameter": chat,
    "rounds": rounds,
    "completions": complete,
    "responses": respond,
    "models": models,
    "embed": embed,
    "embed_many": embed,
    "transcribe": transcribe,
    "synthesize_speech": synthesize_speech,
    "generate_image": generate_image,
    "moderate": moderate,
    "files": files,
}

if __name__ == "__main__":
    run_all({kind: validated(handler) for kind, handler in HANDLERS.items()})
