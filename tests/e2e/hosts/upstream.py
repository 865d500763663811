"""The strict upstream of the agent hosts: `python -m tests.e2e.hosts.upstream ISSUER_URL AUDIENCE` prints its URL.

It serves messages, responses and chats. The first word of a model's name is what happens to its requests; see `FAULTS`.
A model `task-…` calls the host's own shell twice and then answers with what the shell printed. A model `mcp-…` calls
the tool `echo` of the host's MCP server instead. A tool result without its call, or the key of a client in a header, is
an error whose text says so.

Models whose first word begins with `chat` accept the members of OLDER_AZURE alone:

- `chat`: the task.
- `chat_edits`: ten calls with edits and parallel calls. After each answer with calls its token is revoked.
- `chat_picture`: a call that shows a picture.
- `chat_compacts`, `chat_bursts`: the second result exceeds the context, which an error or the stream's end says.
- `chat_whole`: the task, and a stream is refused.
- `chat_streams`: the task, streamed alone. The first stream breaks off, at which Claude Code asks for a whole answer.
- `chat_ragflow`: an error of RAGFlow with status 200.
- `chat_FAULT`: as FAULT.

`GET /requests` returns, for each model, the requests so far as `METHOD PATH STATUS`, and the number of their tokens.
Other requests require a token that is valid now, as tests/e2e/check.py has it. `GET /check` returns the counts of that.
"""

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.check import TokenRefused, Verifier, verifier
from tests.e2e.clients import chats
from tests.e2e.hosts.turns import (
    LONG,
    SLOW_CALL,
    Document,
    Refused,
    Turn,
    next_edits,
    next_of_long,
    next_picture,
    next_turn,
)
from tests.e2e.process import serve_answers
from tests.integration import messages_upstream as anthropic
from tests.integration.scripted import LAST_CHUNK, Dialogue, Fin, Pause, Received, Send, begin_stream, chunk, reply
from tests.unit.sse.responses import USAGE, call, message, part, response

Events = list[bytes]

FAULTS = ("refused", "overflow", "dies", "limited", "busy", "login")
"""A rejected token, a prompt that is too long, a connection that breaks in the answer, one 429, only 429, a login page.
The task has none."""
SILENCE_S = 8.0
"""How long the model is silent before it calls the shell again. A token lives no longer."""
KIND = re.compile("[-/]")
LIMITED_S = 2
RAGFLOW = {"code": 102, "message": "You don't own the chat 7c1d."}
NEVER_STREAMS = (
    "Unsupported value: 'stream' does not support true with this model. Only the default (false) value is supported."
)
ONLY_STREAMS = "This model only support stream mode, please enable the stream parameter to access the model. "
LOGIN_PAGE = (
    b"<!DOCTYPE html><html><head><title>Sign in</title></head><body><form action='/login'></form></body></html>"
)


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
        begun = anthropic.message(model=body["model"], stop_reason=None, usage=usage)
        made: list[Document] = [
            {"type": "message_start", "message": begun},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "ping"},
        ]
        for piece in pieces(turn.text):
            delta = {"type": "text_delta", "text": piece}
            made.append({"type": "content_block_delta", "index": 0, "delta": delta})
        made.append({"type": "content_block_stop", "index": 0})
        for index, (id_, name, arguments) in enumerate(turn.calls, start=1):
            block = {"type": "tool_use", "id": id_, "name": name, "input": {}}
            made.append({"type": "content_block_start", "index": index, "content_block": block})
            for piece in ("", *pieces(arguments)):
                delta = {"type": "input_json_delta", "partial_json": piece}
                made.append({"type": "content_block_delta", "index": index, "delta": delta})
            made.append({"type": "content_block_stop", "index": index})
        ended = {"stop_reason": "tool_use" if turn.calls else "end_turn", "stop_sequence": None}
        made.append({"type": "message_delta", "delta": ended, "usage": {"output_tokens": 15}})
        made.append({"type": "message_stop"})
        return [named(event) for event in made]

    @staticmethod
    def whole(body: Document, turn: Turn) -> Document:
        content: list[Document] = [{"type": "text", "text": turn.text}]
        for id_, name, arguments in turn.calls:
            content.append({"type": "tool_use", "id": id_, "name": name, "input": json.loads(arguments)})
        reason = "tool_use" if turn.calls else "end_turn"
        usage = {"input_tokens": 25, "output_tokens": 15}
        return anthropic.message(*content, model=body["model"], stop_reason=reason, usage=usage)

    @staticmethod
    def error(kind: str, text: str) -> Document:
        kinds = {"overflow": "invalid_request_error", "token": "authentication_error", "limit": "rate_limit_error"}
        error = {"type": kinds.get(kind, "invalid_request_error"), "message": text}
        return {"type": "error", "error": error, "request_id": "req_011"}

    overflow = "prompt is too long: 208310 tokens > 200000 maximum"


class OpenAI:
    """What the APIs of OpenAI share."""

    @staticmethod
    def check(request: Received) -> None:
        """Accept the head of each request."""

    @staticmethod
    def error(kind: str, text: str) -> Document:
        return openai_error(kind, text)


class Responses(OpenAI):
    """OpenAI's Responses API."""

    path = "/v1/responses"

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
    def events(body: Document, turn: Turn, given: int = 25, generated: int = 15) -> Events:
        """Return the stream of a turn. `given`, `generated`: the tokens of the prompt and of the answer."""
        counts = {"input_tokens": given, "output_tokens": generated, "total_tokens": given + generated}
        opened = response(model=body["model"], status="in_progress", usage=None)
        said = part(turn.text, logprobs=[])
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        made: list[Document] = [
            {"type": "response.created", "response": opened},
            {"type": "response.in_progress", "response": opened},
            {"type": "response.output_item.added", "output_index": 0, "item": message(status="in_progress")},
            {"type": "response.content_part.added", **place, "part": part("", logprobs=[])},
        ]
        kind = "response.output_text"
        made += [{"type": f"{kind}.delta", **place, "delta": piece, "logprobs": []} for piece in pieces(turn.text)]
        output = [message(said)]
        made += [
            {"type": f"{kind}.done", **place, "text": turn.text, "logprobs": []},
            {"type": "response.content_part.done", **place, "part": said},
            {"type": "response.output_item.done", "output_index": 0, "item": output[0]},
        ]
        for index, (id_, name, arguments) in enumerate(turn.calls, start=1):
            space, _, name = name.rpartition("/")
            of_space = {"namespace": space} if space else {}
            output.append(call(id=f"fc_{id_}", call_id=id_, name=name, arguments=arguments, **of_space))
            begun = {**output[index], "status": "in_progress", "arguments": ""}
            where = {"item_id": begun["id"], "output_index": index}
            made.append({"type": "response.output_item.added", "output_index": index, "item": begun})
            kind = "response.function_call_arguments"
            made += [{"type": f"{kind}.delta", **where, "delta": piece} for piece in pieces(arguments)]
            made.append({"type": f"{kind}.done", **where, "arguments": arguments})
            made.append({"type": "response.output_item.done", "output_index": index, "item": output[index]})
        completed = response(*output, model=body["model"], usage={**USAGE, **counts})
        made.append({"type": "response.completed", "response": completed})
        return [named({**event, "sequence_number": number}) for number, event in enumerate(made)]

    @staticmethod
    def whole(body: Document, turn: Turn) -> Document:
        raise Refused(f"{body['model']} requires a stream for {turn.text!r}")

    overflow = "Your input exceeds the context window of this model. Please adjust your input and try again."


OLDER_AZURE = frozenset(
    (
        *("model", "messages", "stream", "n", "temperature", "top_p", "max_tokens", "stop", "user", "seed"),
        *("presence_penalty", "frequency_penalty", "logit_bias", "tools", "tool_choice", "response_format"),
    )
)
"""The members of a chat that older API versions of Azure accept."""


class Chats(OpenAI):
    """OpenAI's chat completions. Models of the kinds `chat…` accept the members of OLDER_AZURE alone."""

    path = "/v1/chat/completions"

    @staticmethod
    def turn(body: Document, kind: str) -> Turn:
        if kind.startswith("chat") and (unknown := next((name for name in body if name not in OLDER_AZURE), None)):
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
        printed = [texts(message["content"]) for message in results]
        if kind in LONG:
            return next_of_long(tools, [texts(message["content"]) for message in messages])
        if kind == "chat_edits" and tools:
            return next_edits(tools, printed)
        if kind == "chat_picture" and tools:
            seen = [part for message in messages for part in parts(message["content"]) if part["type"] == "image_url"]
            return next_picture(tools, len(results), len(seen))
        return next_turn(tools, printed, kind)

    @staticmethod
    def events(body: Document, turn: Turn) -> Events:
        events = chats.chunks(Chats.whole(body, turn))
        if not (turn.tokens or (body.get("stream_options") or {}).get("include_usage")):
            del events[-2]
        return events

    @staticmethod
    def whole(body: Document, turn: Turn) -> Document:
        calls = [
            {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
            for id_, name, arguments in turn.calls
        ]
        called: Document = {"tool_calls": calls, "finish_reason": "tool_calls"} if calls else {}
        given = turn.tokens or 25
        usage = {"prompt_tokens": given, "completion_tokens": 15, "total_tokens": given + 15}
        return {**chats.completion(turn.text, usage=usage, **called), "model": body["model"]}

    overflow = "This model's maximum context length is 128000 tokens. However, your messages resulted in 208310 tokens."


API = type[Messages] | type[Responses] | type[Chats]
APIS: Mapping[str, API] = {api.path: api for api in (Messages, Responses, Chats)}


def parts(content: Any) -> list[Document]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content or []


def openai_error(kind: str, text: str) -> Document:
    types = {"token": "authentication_error", "limit": "requests"}
    codes = {
        "overflow": "context_length_exceeded",
        "token": "invalid_token",
        "limit": "rate_limit_exceeded",
        "stream": "unsupported_value",
    }
    param = "stream" if kind == "stream" else None
    error = {"message": text, "type": types.get(kind, "invalid_request_error"), "param": param, "code": codes.get(kind)}
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

    verifier: Verifier
    requests: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    tokens: defaultdict[str, set[str | None]] = field(default_factory=lambda: defaultdict(set))
    revoked: defaultdict[str, set[str | None]] = field(default_factory=lambda: defaultdict(set))
    """By model: the tokens that are rejected, because a tool call was sent with them."""
    tries: Counter[str] = field(default_factory=Counter)
    """By model: the requests that met the fault of an upstream which fails for a while."""

    def answer(self, request: Received) -> Dialogue:
        path = request.target.partition("?")[0]
        if path == "/requests":
            tokens = {model: len(seen) for model, seen in self.tokens.items()}
            return [Send(reply({"requests": self.requests, "tokens": tokens}))]
        if path == "/check":
            return [Send(reply(self.verifier.tally.as_json()))]
        try:
            self.verifier.claims(request.header("authorization") or "")
        except TokenRefused as refused:
            return [Send(reply(openai_error("token", f"token refused: {refused}"), 401))]
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
            return self._play(api, request, KIND.split(model)[0], model)
        except Refused as refused:
            return [Send(reply(api.error("", str(refused)), 400))], 400

    def _play(self, api: API, request: Received, kind: str, model: str) -> tuple[Dialogue, int]:
        body: Document = request.json()
        token, fault = request.header("authorization"), kind.removeprefix("chat_")
        if token in self.revoked[model]:
            fault = "refused"
        failed = self._limit(api, fault, model) or _failure(api, body, fault)
        if failed is not None:
            return failed
        turn = api.turn(body, kind)
        if kind == "chat_edits" and turn.calls:
            self.revoked[model].add(token)
        if not body.get("stream"):
            whole = reply(api.whole(body, turn))
            return [Send(whole[: len(whole) - 9]), Fin()] if fault == "dies" else [Send(whole)], 200
        events = api.events(body, turn)
        half = len(events) // 2
        if fault == "streams":
            self.tries[model] += 1
        if fault == "dies" or (fault == "streams" and self.tries[model] == 1):
            return [*begin_stream(), Send(chunked(events[:half])), Pause(0.1), Fin()], 200
        if turn.calls and turn.calls[0][0] == SLOW_CALL and kind in ("task", "chat", "mcp"):
            return [*begin_stream(), Send(chunked(events[:half])), Pause(SILENCE_S), *ended(events[half:])], 200
        return [*begin_stream(), *ended(events)], 200

    def _limit(self, api: API, fault: str, model: str) -> tuple[Dialogue, int] | None:
        if fault not in ("busy", "limited"):
            return None
        self.tries[model] += 1
        if fault == "limited" and self.tries[model] > 1:
            return None
        text = "Rate limit reached for this team."
        return [Send(reply(api.error("limit", text), 429, retry_after=str(LIMITED_S)))], 429


def _failure(api: API, body: Document, fault: str) -> tuple[Dialogue, int] | None:
    """Return the answer to a request that `fault` lets fail each time."""
    match fault:
        case "refused":
            return [Send(reply(api.error("token", "The token was revoked."), 401))], 401
        case "overflow":
            return [Send(reply(api.error("overflow", api.overflow), 400))], 400
        case "login":
            return [Send(reply(LOGIN_PAGE, 200, content_type="text/html"))], 200
        case "ragflow":
            return [Send(reply(RAGFLOW))], 200
        case "whole" if body.get("stream"):
            return [Send(reply(api.error("stream", NEVER_STREAMS), 400))], 400
        case "streams" if not body.get("stream"):
            return [Send(reply(api.error("stream", ONLY_STREAMS), 400))], 400
        case "compacts" | "bursts" if sum(message["role"] == "tool" for message in body["messages"]) > 1:
            overflow = api.error("overflow", api.overflow)
            if fault == "compacts" or not body.get("stream"):
                return [Send(reply(overflow, 400))], 400
            begun = api.events(body, Turn("I read"))[:3]
            return [*begin_stream(), *ended([*begun, data(overflow)])], 200
    return None


if __name__ == "__main__":
    serve_answers(Upstream(verifier(*sys.argv[1:])).answer)
