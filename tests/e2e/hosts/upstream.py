"""The strict upstream of the agent hosts: `python -m tests.e2e.hosts.upstream` prints its URL.

It serves messages, responses and chats. The first word of a model's name is what happens to its requests; see `FAULTS`.
A model `task-…` calls the host's own shell twice and then answers with what the shell printed. A model `mcp-…` calls
the tool `echo` of the host's MCP server instead. A tool result without its call, or the key of a client in a header, is
an error whose text says so.

`GET /requests` returns, for each model, the requests so far as `METHOD PATH STATUS`, and the number of their tokens.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.integration.scripted import (
    LAST_CHUNK,
    Dialogue,
    Pause,
    Received,
    Rst,
    Scripted,
    Send,
    begin_stream,
    chunk,
    reply,
)

Document = dict[str, Any]
Events = list[bytes]

FAULTS = ("refused", "overflow", "dies", "limited", "busy", "login")
"""A rejected token, a prompt that is too long, a connection that breaks in the answer, one 429, only 429, a login page.
The task has none."""
COMMANDS = ("cat first.txt", "cat second.txt")
ECHOED = ("the first word is amber", "the second word is basalt")
LOST = "Output: (empty)"
"""Qwen Code reports so that a command printed nothing. On a loaded machine it loses what a short command printed: a
model makes the call again."""
MAX_CALLS = 5
SILENCE_S = 8.0
"""How long the model is silent before it calls the shell again. A token lives no longer."""
FOUND = re.compile(r"the (?:first|second) word is (\w+)")
LIMITED_S = 2
LOGIN_PAGE = (
    b"<!DOCTYPE html><html><head><title>Sign in</title></head><body><form action='/login'></form></body></html>"
)
SHELLS: Mapping[str, Callable[[str], Document]] = {
    "Bash": lambda command: {"command": command, "description": "Print a file"},
    "bash": lambda command: {"command": command, "description": "Print a file"},
    "exec_command": lambda command: {"cmd": command},
    "shell_command": lambda command: {"command": command},
    "shell": lambda command: {"command": ["bash", "-c", command]},
    "run_shell_command": lambda command: {"command": command, "is_background": False},
    "run_commands": lambda command: {"commands": [command]},
    "execute_command": lambda command: {"command": command, "requires_approval": False},
}
"""The arguments of each host's tool that runs a command, by its name."""


class Refused(Exception):
    """The request is not valid."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What the model does next: it says `text`, and then calls the shell if `call` is not None."""

    text: str
    call: tuple[str, str, str] | None = None
    """Id, name and JSON arguments. A name in a namespace is `NAMESPACE/NAME`."""


def next_turn(tools: list[str], results: list[str], kind: str) -> Turn:
    if kind not in {"task", "chat", "mcp"} or not tools:
        return Turn("All is well.")
    wanted = (
        [name for name in tools if name.endswith("echo")]
        if kind == "mcp"
        else [name for name in SHELLS if name in tools]
    )
    if not wanted:
        raise Refused(f"The tools have no shell, or no echo: {', '.join(tools)}")
    tool = wanted[0]
    words = [word for text in results for word in FOUND.findall(text)]
    printed = [text for text in results if LOST not in text]
    done = len(printed)
    if done < len(COMMANDS) and len(results) < MAX_CALLS:
        arguments = {"text": ECHOED[done]} if kind == "mcp" else SHELLS[tool](COMMANDS[done])
        call = len(results) + 1
        return Turn(f"I make call {call}.", (f"call_{call}_of_the_task", tool, json.dumps(arguments)))
    if len(words) < len(COMMANDS):
        raise Refused(f"The tool returned no word: {results}")
    return Turn(f"The words are {' and '.join(words)}.")


def pieces(text: str, size: int = 5) -> Iterator[str]:
    return (text[start : start + size] for start in range(0, len(text), size))


def texts(content: Any) -> str:
    """Return all text of a message's content."""
    if isinstance(content, str):
        return content
    return "\n".join(texts(part.get("text", part.get("content", ""))) for part in content or ())


def check_results(calls: list[str], results: list[str]) -> None:
    if calls != results:
        raise Refused(f"Each tool call requires its result, in order: {calls} and {results}")


class Messages:
    """Anthropic's Messages API."""

    path = "/v1/messages"

    @staticmethod
    def check(request: Received) -> None:
        if request.header("anthropic-version") != "2023-06-01":
            raise Refused("anthropic-version: header is required")
        if request.header("x-api-key") is not None:
            raise Refused("the key of the client arrived")

    @staticmethod
    def turn(body: Document, kind: str) -> Turn:
        blocks = [block for message in body["messages"] for block in parts(message["content"])]
        uses = [block["id"] for block in blocks if block["type"] == "tool_use"]
        results = [block for block in blocks if block["type"] == "tool_result"]
        check_results(uses, [block["tool_use_id"] for block in results])
        tools = [tool["name"] for tool in body.get("tools", ())]
        return next_turn(tools, [texts(block["content"]) for block in results], kind)

    @staticmethod
    def events(body: Document, turn: Turn) -> Events:
        usage = {"input_tokens": 25, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1}
        message: Document = {
            "id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": usage,
        }  # fmt: skip
        made: list[Document] = [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "ping"},
        ]
        for piece in pieces(turn.text):
            delta = {"type": "text_delta", "text": piece}
            made.append({"type": "content_block_delta", "index": 0, "delta": delta})
        made.append({"type": "content_block_stop", "index": 0})
        if turn.call is not None:
            id_, name, arguments = turn.call
            block = {"type": "tool_use", "id": id_, "name": name, "input": {}}
            made.append({"type": "content_block_start", "index": 1, "content_block": block})
            for piece in ("", *pieces(arguments)):
                delta = {"type": "input_json_delta", "partial_json": piece}
                made.append({"type": "content_block_delta", "index": 1, "delta": delta})
            made.append({"type": "content_block_stop", "index": 1})
        ended = {"stop_reason": "tool_use" if turn.call else "end_turn", "stop_sequence": None}
        made.append({"type": "message_delta", "delta": ended, "usage": {"output_tokens": 15}})
        made.append({"type": "message_stop"})
        return [named(event) for event in made]

    @staticmethod
    def whole(body: Document, turn: Turn) -> Document:
        content: list[Document] = [{"type": "text", "text": turn.text}]
        if turn.call is not None:
            id_, name, arguments = turn.call
            content.append({"type": "tool_use", "id": id_, "name": name, "input": json.loads(arguments)})
        return {
            "id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": content,
            "stop_reason": "tool_use" if turn.call else "end_turn", "stop_sequence": None,
            "usage": {"input_tokens": 25, "output_tokens": 15},
        }  # fmt: skip

    @staticmethod
    def error(kind: str, text: str) -> Document:
        kinds = {"overflow": "invalid_request_error", "token": "authentication_error", "limit": "rate_limit_error"}
        error = {"type": kinds.get(kind, "invalid_request_error"), "message": text}
        return {"type": "error", "error": error, "request_id": "req_011"}

    overflow = "prompt is too long: 208310 tokens > 200000 maximum"


class Responses:
    """OpenAI's Responses API."""

    path = "/v1/responses"

    @staticmethod
    def check(request: Received) -> None:
        del request

    @staticmethod
    def turn(body: Document, kind: str) -> Turn:
        items = body["input"]
        calls = [item["call_id"] for item in items if item.get("type") == "function_call"]
        results = [item for item in items if item.get("type") == "function_call_output"]
        check_results(calls, [item["call_id"] for item in results])
        offered = body.get("tools", ())
        tools = [tool["name"] for tool in offered if tool["type"] == "function"]
        spaces = [tool for tool in offered if tool["type"] == "namespace"]
        tools += [f"{space['name']}/{tool['name']}" for space in spaces for tool in space["tools"]]
        return next_turn(tools, [texts(item["output"]) for item in results], kind)

    @staticmethod
    def events(body: Document, turn: Turn) -> Events:
        def response(status: str, output: list[Document]) -> Document:
            usage = {
                "input_tokens": 25, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 15,
                "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 40,
            }  # fmt: skip
            return {
                "id": "resp_1", "object": "response", "created_at": 1741476542, "status": status, "error": None,
                "incomplete_details": None, "model": body["model"], "output": output,
                "usage": usage if status == "completed" else None,
            }  # fmt: skip

        def message(status: str, content: list[Document]) -> Document:
            return {"id": "msg_1", "type": "message", "status": status, "role": "assistant", "content": content}

        def part(text: str) -> Document:
            return {"type": "output_text", "text": text, "annotations": []}

        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        made: list[Document] = [
            {"type": "response.created", "response": response("in_progress", [])},
            {"type": "response.in_progress", "response": response("in_progress", [])},
            {"type": "response.output_item.added", "output_index": 0, "item": message("in_progress", [])},
            {"type": "response.content_part.added", **place, "part": part("")},
        ]
        made += [{"type": "response.output_text.delta", **place, "delta": piece} for piece in pieces(turn.text)]
        output = [message("completed", [part(turn.text)])]
        made += [
            {"type": "response.output_text.done", **place, "text": turn.text},
            {"type": "response.content_part.done", **place, "part": part(turn.text)},
            {"type": "response.output_item.done", "output_index": 0, "item": output[0]},
        ]
        if turn.call is not None:
            id_, name, arguments = turn.call
            space, _, name = name.rpartition("/")
            call = {"id": f"fc_{id_}", "type": "function_call", "call_id": id_, "name": name}
            call |= {"namespace": space} if space else {}
            begun = {**call, "status": "in_progress", "arguments": ""}
            output.append({**call, "status": "completed", "arguments": arguments})
            where = {"item_id": call["id"], "output_index": 1}
            made.append({"type": "response.output_item.added", "output_index": 1, "item": begun})
            kind = "response.function_call_arguments"
            made += [{"type": f"{kind}.delta", **where, "delta": piece} for piece in pieces(arguments)]
            made.append({"type": f"{kind}.done", **where, "arguments": arguments})
            made.append({"type": "response.output_item.done", "output_index": 1, "item": output[1]})
        made.append({"type": "response.completed", "response": response("completed", output)})
        return [named({**event, "sequence_number": number}) for number, event in enumerate(made)]

    @staticmethod
    def whole(body: Document, turn: Turn) -> Document:
        raise Refused(f"{body['model']} requires a stream for {turn.text!r}")

    @staticmethod
    def error(kind: str, text: str) -> Document:
        return openai_error(kind, text)

    overflow = "Your input exceeds the context window of this model. Please adjust your input and try again."


OLDER_AZURE = frozenset(
    (
        *("model", "messages", "stream", "n", "temperature", "top_p", "max_tokens", "stop", "user", "seed"),
        *("presence_penalty", "frequency_penalty", "logit_bias", "tools", "tool_choice", "response_format"),
    )
)
"""The members of a chat that older API versions of Azure accept."""


class Chats:
    """OpenAI's chat completions. A model of the kind `chat` accepts the members of OLDER_AZURE alone."""

    path = "/v1/chat/completions"

    @staticmethod
    def check(request: Received) -> None:
        del request

    @staticmethod
    def turn(body: Document, kind: str) -> Turn:
        if kind == "chat" and (unknown := next((name for name in body if name not in OLDER_AZURE), None)):
            raise Refused(f"Unrecognized request argument supplied: {unknown}")
        messages = body["messages"]
        if any(message["role"] not in ("system", "user", "assistant", "tool") for message in messages):
            raise Refused(
                "'developer' is not one of ['system', 'assistant', 'user', 'function', 'tool'] - 'messages.0.role'"
            )
        calls = [call["id"] for message in messages for call in message.get("tool_calls") or ()]
        results = [message for message in messages if message["role"] == "tool"]
        check_results(calls, [message["tool_call_id"] for message in results])
        tools = [tool["function"]["name"] for tool in body.get("tools", ())]
        return next_turn(tools, [texts(message["content"]) for message in results], kind)

    @staticmethod
    def events(body: Document, turn: Turn) -> Events:
        def made(delta: Document, finish: str | None = None) -> bytes:
            choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
            return data({**envelope, "choices": choices})

        envelope = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        events = [made({"role": "assistant", "content": ""})]
        events += [made({"content": piece}) for piece in pieces(turn.text)]
        if turn.call is not None:
            id_, name, arguments = turn.call
            function = {"name": name, "arguments": ""}
            events.append(made({"tool_calls": [{"index": 0, "id": id_, "type": "function", "function": function}]}))
            events += [
                made({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}) for piece in pieces(arguments)
            ]
        events.append(made({}, "tool_calls" if turn.call else "stop"))
        if (body.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 25, "completion_tokens": 15, "total_tokens": 40}
            events.append(data({**envelope, "choices": [], "usage": usage}))
        return [*events, b"data: [DONE]\n\n"]

    @staticmethod
    def whole(body: Document, turn: Turn) -> Document:
        message = {"role": "assistant", "content": turn.text}
        choices = [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
        usage = {"prompt_tokens": 25, "completion_tokens": 15, "total_tokens": 40}
        return {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": choices, "usage": usage,
        }  # fmt: skip

    @staticmethod
    def error(kind: str, text: str) -> Document:
        return openai_error(kind, text)

    overflow = "This model's maximum context length is 128000 tokens. However, your messages resulted in 208310 tokens."


API = type[Messages] | type[Responses] | type[Chats]
APIS: Mapping[str, API] = {api.path: api for api in (Messages, Responses, Chats)}


def parts(content: Any) -> list[Document]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def openai_error(kind: str, text: str) -> Document:
    types = {"token": "authentication_error", "limit": "requests"}
    codes = {"overflow": "context_length_exceeded", "token": "invalid_token", "limit": "rate_limit_exceeded"}
    error = {"message": text, "type": types.get(kind, "invalid_request_error"), "param": None, "code": codes.get(kind)}
    return {"error": error}


def chunked(events: Events) -> bytes:
    return b"".join(map(chunk, events))


def ended(events: Events) -> Dialogue:
    return [Send(chunked(events) + LAST_CHUNK)]


def data(document: Document) -> bytes:
    return f"data: {json.dumps(document)}\n\n".encode()


def named(document: Document) -> bytes:
    return f"event: {document['type']}\n".encode() + data(document)


@dataclass(slots=True)
class Upstream:
    """Answers by the model's name, and remembers what it answered."""

    requests: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    tokens: defaultdict[str, set[str | None]] = field(default_factory=lambda: defaultdict(set))
    limited: Counter[str] = field(default_factory=Counter)

    def answer(self, request: Received) -> Dialogue:
        path = request.target.partition("?")[0]
        if path == "/requests":
            tokens = {model: len(seen) for model, seen in self.tokens.items()}
            return [Send(reply({"requests": self.requests, "tokens": tokens}))]
        if path == "/v1/models":
            return [Send(reply({"object": "list", "data": []}))]
        model = str(request.json().get("model")) if request.body else ""
        dialogue, status = self._answer(request, path, model)
        self.tokens[model].add(request.header("authorization"))
        self.requests[model].append(f"{request.method} {request.target} {status}")
        return dialogue

    def _answer(self, request: Received, path: str, model: str) -> tuple[Dialogue, int]:
        api = APIS.get(path)
        if api is None:
            return [Send(reply(Messages.error("", f"No such path: {path}"), 404))], 404
        try:
            api.check(request)
            return self._play(api, request.json(), model.partition("-")[0], model)
        except Refused as refused:
            return [Send(reply(api.error("", str(refused)), 400))], 400

    def _play(self, api: API, body: Document, fault: str, model: str) -> tuple[Dialogue, int]:
        match fault:
            case "refused":
                return [Send(reply(api.error("token", "The token was revoked."), 401))], 401
            case "overflow":
                return [Send(reply(api.error("overflow", api.overflow), 400))], 400
            case "login":
                return [Send(reply(LOGIN_PAGE, 200, content_type="text/html"))], 200
            case "busy" | "limited":
                self.limited[model] += 1
                if fault == "busy" or self.limited[model] == 1:
                    text = "Rate limit reached for this team."
                    return [Send(reply(api.error("limit", text), 429, retry_after=str(LIMITED_S)))], 429
        turn = api.turn(body, fault)
        if not body.get("stream"):
            whole = reply(api.whole(body, turn))
            return [Send(whole[: len(whole) - 9]), Rst()] if fault == "dies" else [Send(whole)], 200
        events = api.events(body, turn)
        if fault == "dies":
            return [*begin_stream(), Send(chunked(events[: len(events) // 2])), Pause(0.1), Rst()], 200
        if turn.call is not None and turn.call[0].startswith("call_2"):
            half = len(events) // 2
            return [*begin_stream(), Send(chunked(events[:half])), Pause(SILENCE_S), *ended(events[half:])], 200
        return [*begin_stream(), *ended(events)], 200


async def main() -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with Scripted(answer=Upstream().answer) as served:
        print(f"listening on {served.url}", flush=True)
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(main())
