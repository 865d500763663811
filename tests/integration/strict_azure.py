"""An upstream that rejects every unknown member with Azure's messages, and streams as Azure does.

The messages are quoted from real logs; a comment names the thread if there is one. Use it as the
`answer` of a Scripted upstream::

    async with Scripted(answer=StrictAzure().answer) as upstream: ...
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from tests.integration.scripted import Dialogue, Received, Send, event, reply, stream

TEXT = "It works. é"
CALLS = (("search", {"q": "x"}), ("lookup", {"q": "y"}))
TRANSCRIPT, SPOKEN = "you", b"ID3\x04spoken"
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}

CHAT_MEMBERS = frozenset(
    (
        *("model", "messages", "stream", "stream_options", "temperature", "top_p", "n", "stop", "max_tokens"),
        *("max_completion_tokens", "presence_penalty", "frequency_penalty", "logit_bias", "user", "seed", "tools"),
        *("tool_choice", "parallel_tool_calls", "response_format", "logprobs", "top_logprobs", "functions"),
        *("function_call", "reasoning_effort", "store", "metadata", "modalities", "data_sources"),
    )
)
COMPLETION_MEMBERS = frozenset(
    (
        *("model", "prompt", "suffix", "stream", "stream_options", "temperature", "top_p", "n", "stop", "max_tokens"),
        *("max_completion_tokens", "presence_penalty", "frequency_penalty", "logit_bias", "user", "seed", "logprobs"),
        *("echo", "best_of"),
    )
)
VECTOR_MEMBERS = frozenset(("model", "input", "encoding_format", "dimensions", "user", "input_type"))
SPEECH_MEMBERS = frozenset(("model", "input", "voice", "response_format", "speed", "instructions"))
RANK_MEMBERS = frozenset(("model", "query", "documents", "top_n", "return_documents"))
TEI_MEMBERS = frozenset(("model", "query", "texts", "raw_scores", "return_text", "truncate", "truncation_direction"))
NESTED = MappingProxyType(
    {
        "messages[]": frozenset(("role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal")),
        "messages[].tool_calls[]": frozenset(("id", "type", "function")),
        "messages[].tool_calls[].function": frozenset(("name", "arguments")),
        "tools[]": frozenset(("type", "function")),
        "tools[].function": frozenset(("name", "description", "parameters", "strict")),
        "stream_options": frozenset(("include_usage",)),
    }
)
"""The members that are allowed, by position."""
MOST_INPUTS = 16


@dataclass(frozen=True, slots=True)
class Deployment:
    """A model and what it does not take: `fixed` members in o3-mini's words, `only_default` in gpt-5's."""

    name: str
    fixed: frozenset[str] = frozenset()
    only_default: frozenset[str] = frozenset()
    streams: bool = True
    whole: bool = True


_O_SERIES = frozenset(
    ("temperature", "top_p", "presence_penalty", "frequency_penalty", "logprobs", "logit_bias", "parallel_tool_calls")
)
DEPLOYMENTS = (
    Deployment("gpt-4o"),
    Deployment("o3-mini", fixed=_O_SERIES),
    Deployment("gpt-5", only_default=frozenset(("temperature", "top_p"))),
    Deployment("o1", fixed=_O_SERIES, streams=False),
    Deployment("stream-only", whole=False),
)
INSTEAD = MappingProxyType({"max_tokens": "max_completion_tokens"})


class Refused(Exception):
    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        kind = "invalid_request_error"
        self.status = status
        self.body: dict[str, Any] = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(slots=True)
class StrictAzure:
    """`token`: the bearer token that each request must have; None accepts any. `ranks`: the form of rerank requests.

    `make_message` makes the message of a chat reply from the request's members; it may raise Refused.
    `refusals` holds the text of each rejection, in order.
    """

    token: str | None = None
    base: str = "/v1"
    ranks: Literal["jina", "tei"] = "jina"
    deployments: Sequence[Deployment] = DEPLOYMENTS
    make_message: Callable[[Mapping[str, Any]], dict[str, Any]] = field(default=lambda body: _message(body))
    refusals: list[str] = field(default_factory=list)

    def answer(self, request: Received) -> Dialogue:
        try:
            return [Send(self._answered(request))]
        except Refused as refused:
            self.refusals.append(str(refused))
            return [Send(reply(refused.body, refused.status))]

    def _answered(self, request: Received) -> bytes:
        if self.token is not None and request.header("authorization") != f"Bearer {self.token}":
            raise Refused("Unauthorized. Access token is missing, invalid, or expired.", status=401, code="401")
        path = request.target.partition("?")[0]
        handler = _HANDLERS.get((request.method, path.removeprefix(self.base)))
        if handler is None or not path.startswith(self.base):
            raise Refused("Resource not found", status=404, code="404")
        if request.method == "GET" and request.body:
            raise Refused("A GET request must not have a body.")
        return handler(self, request)

    def models(self, _: Received) -> bytes:
        listed = [{"id": one.name, "object": "model", "created": 1, "owned_by": "azure"} for one in self.deployments]
        return reply({"object": "list", "data": listed})

    # --- chat ---------------------------------------------------------------------------------------------

    def chat(self, request: Received) -> bytes:
        body = _json(request)
        _check_members(body, CHAT_MEMBERS)
        self.check_model(body)
        _check_nested(body)
        _check_messages(body)
        message = self.make_message(body)
        return _streamed(body, message) if body.get("stream") else _whole(body, message)

    def complete(self, request: Received) -> bytes:
        body = _json(request)
        _check_members(body, COMPLETION_MEMBERS)
        self.check_model(body)
        if not isinstance(body.get("prompt"), str):
            raise Refused("Invalid type for 'prompt': expected a string.", param="prompt")
        head = _head(body, "text_completion")
        pieces = _text_choices(TEXT) if body.get("stream") else [{"index": 0, "text": TEXT, "finish_reason": "stop"}]
        made = [{**head, "choices": [{**choice, "logprobs": None}]} for choice in pieces]
        if not body.get("stream"):
            return reply({**made[0], "usage": USAGE})
        asked = (body.get("stream_options") or {}).get("include_usage")
        counted = [{**head, "choices": [], "usage": USAGE}] if asked else []
        return stream(*map(event, [*made, *counted]), event("[DONE]"))

    def check_model(self, body: Mapping[str, Any]) -> None:
        """Raises Refused for an unknown model and for unsupported members."""
        found = next((one for one in self.deployments if one.name == body.get("model")), None)
        if found is None:
            expected = "The API deployment for this resource does not exist."
            raise Refused(expected, status=404, code="DeploymentNotFound")
        _check_deployment(body, found)

    # --- the rest -----------------------------------------------------------------------------------------

    def embeddings(self, request: Received) -> bytes:
        body = _json(request)
        _check_members(body, VECTOR_MEMBERS)
        inputs = body.get("input")
        inputs = inputs if isinstance(inputs, list) else [inputs]
        if len(inputs) > MOST_INPUTS:
            raise Refused(f"Too many inputs. The max number of inputs is {MOST_INPUTS}.")
        if body.get("encoding_format", "float") != "float":
            raise Refused("base64 encoding is not currently supported", param="encoding_format")
        vectors = [vector(text, body.get("dimensions", 3)) for text in inputs]
        data = [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(vectors)]
        usage = {"prompt_tokens": len(inputs), "total_tokens": len(inputs)}
        return reply({"object": "list", "data": data, "model": body["model"], "usage": usage})

    def rerank(self, request: Received) -> bytes:
        body = _json(request)
        known, name = (TEI_MEMBERS, "texts") if self.ranks == "tei" else (RANK_MEMBERS, "documents")
        _check_ranked(body, known, name)
        order = sorted(((score(text), index) for index, text in enumerate(body[name])), reverse=True)
        if self.ranks == "tei":
            return reply([{"index": index, "score": value} for value, index in order])
        results = [{"index": index, "relevance_score": value} for value, index in order[: body.get("top_n") or None]]
        return reply({"model": body["model"], "results": results, "usage": {"total_tokens": 5}})

    def transcribe(self, request: Received) -> bytes:
        kind = request.header("content-type") or ""
        boundary = kind.partition("boundary=")[2].encode()
        if not boundary or not request.body.rstrip().endswith(b"--" + boundary + b"--"):
            raise Refused("The request has no multipart form.")
        fields = re.findall(rb'form-data; name="(\w+)"', request.body)
        if sorted(fields) != [b"file", b"model"] or b"RIFF" not in request.body:
            raise Refused("Unrecognized form field, or no audio.", param="file")
        return reply({"text": TRANSCRIPT})

    def speech(self, request: Received) -> bytes:
        _check_members(_json(request), SPEECH_MEMBERS)
        return reply(SPOKEN, content_type="audio/mpeg")


_Handler = Callable[[StrictAzure, Received], bytes]
_HANDLERS: Mapping[tuple[str, str], _Handler] = MappingProxyType(
    {
        ("GET", "/models"): StrictAzure.models,
        ("POST", "/chat/completions"): StrictAzure.chat,
        ("POST", "/completions"): StrictAzure.complete,
        ("POST", "/embeddings"): StrictAzure.embeddings,
        ("POST", "/rerank"): StrictAzure.rerank,
        ("POST", "/audio/transcriptions"): StrictAzure.transcribe,
        ("POST", "/audio/speech"): StrictAzure.speech,
    }
)


def vector(text: str, dimensions: int) -> list[float]:
    """Numbers that differ between texts, exact in float32."""
    return [len(text) + place / 4 for place in range(dimensions)]


def score(text: str) -> float:
    return len(text) / 64


# --- what it refuses ------------------------------------------------------------------------------------


def _json(request: Received) -> dict[str, Any]:
    if request.header("content-type") != "application/json":
        raise Refused("Expected content-type application/json.", status=415)
    body: dict[str, Any] = request.json()
    return body


def _check_members(body: Mapping[str, Any], known: frozenset[str]) -> None:
    strays = [name for name in body if name not in known]
    if strays:
        raise Refused(f"Unrecognized request argument supplied: {strays[0]}")


def _check_nested(body: Any) -> None:
    for place, where, inner in _objects(body, "", ""):
        strays = [name for name in inner if name not in NESTED.get(place, frozenset(inner))]
        if strays:
            param = f"{where}.{strays[0]}"
            raise Refused(f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")


def _objects(body: Any, place: str, where: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every object below: its place in general (`tools[]`), in particular (`tools[0]`), itself."""
    if isinstance(body, dict):
        yield place, where, body
        for name, value in body.items():
            yield from _objects(value, f"{place}.{name}".lstrip("."), f"{where}.{name}".lstrip("."))
    elif isinstance(body, list):
        for index, value in enumerate(body):
            yield from _objects(value, f"{place}[]", f"{where}[{index}]")


def _check_deployment(body: Mapping[str, Any], deployment: Deployment) -> None:
    for name in body:
        if name in deployment.fixed or (deployment.fixed and name in INSTEAD):
            reported = f"Unsupported parameter: '{name}' is not supported with this model."
            reported += f" Use '{INSTEAD[name]}' instead." if name in INSTEAD else ""
            raise Refused(reported, param=name, code="unsupported_parameter")
        if name in deployment.only_default and body[name] != 1:
            reported = (
                f"Unsupported value: '{name}' does not support {body[name]} with this model."
                " Only the default (1) value is supported."
            )
            raise Refused(reported, param=name, code="unsupported_value")
    if body.get("stream") and not deployment.streams:
        reported = (
            "Unsupported value: 'stream' does not support true with this model."
            " Only the default (false) value is supported."
        )
        raise Refused(reported, param="stream", code="unsupported_value")
    if not body.get("stream") and not deployment.whole:
        # infiniflow/ragflow#5912, DashScope's words
        reported = "This model only support stream mode, please enable the stream parameter to access the model. "
        raise Refused(reported, code="invalid_parameter_error")
    if "stream_options" in body and not body.get("stream"):
        reported = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise Refused(reported, param="stream_options")


def _check_messages(body: Mapping[str, Any]) -> None:
    for index, message in enumerate(body["messages"]):
        if message.get("content") is None and not message.get("tool_calls"):
            param = f"messages.[{index}].content"
            raise Refused("Invalid value for 'content': expected a string, got null.", param=param)
        parts = message["content"] if isinstance(message.get("content"), list) else []
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        if not all(re.match(r"https?://|data:image/[a-z]+;base64,", url) for url in urls):
            # infiniflow/ragflow#9438
            raise Refused("Image url should be a valid url or data:image/TYPE;base64")


def _check_ranked(body: Mapping[str, Any], known: frozenset[str], name: str) -> None:
    """As FastAPI does: 422 with a list."""
    faults = [("extra_forbidden", "Extra inputs are not permitted", stray) for stray in body if stray not in known]
    faults += [("missing", "Field required", needed) for needed in ("query", name) if needed not in body]
    flags = ("return_documents", "raw_scores", "return_text", "truncate")
    faults += [
        ("bool_type", "Input should be a valid boolean", flag) for flag in flags if isinstance(body.get(flag), str)
    ]
    if faults:
        refused = Refused(faults[0][1], status=422)
        refused.body = {
            "detail": [{"type": kind, "loc": ["body", at], "msg": reported} for kind, reported, at in faults]
        }
        raise refused


# --- its replies -----------------------------------------------------------------------------------------


def _message(body: Mapping[str, Any]) -> dict[str, Any]:
    """Two calls in parallel where there are tools and none was called yet; else a text."""
    if not body.get("tools") or any(message["role"] == "tool" for message in body["messages"]):
        return {"role": "assistant", "content": TEXT}
    calls = [
        {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for number, (name, arguments) in enumerate(CALLS)
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def _finish(message: Mapping[str, Any]) -> str:
    return "tool_calls" if message.get("tool_calls") else "stop"


def _head(body: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": body["model"]}


def _whole(body: Mapping[str, Any], message: Mapping[str, Any]) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": _finish(message), "content_filter_results": {}}
    filtered = [{"prompt_index": 0, "content_filter_results": {}}]
    head = _head(body, "chat.completion")
    return reply({**head, "choices": [choice], "usage": USAGE, "prompt_filter_results": filtered})


def _streamed(body: Mapping[str, Any], message: Mapping[str, Any]) -> bytes:
    """The first chunk has no choices but filter results, which RAGFlow's vision class dies of."""
    empty = {"id": "", "object": "", "created": 0, "model": "", "choices": []}
    filtered = {**empty, "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]}
    head = _head(body, "chat.completion.chunk")
    asked = (body.get("stream_options") or {}).get("include_usage")
    none = {"usage": None} if asked else {}
    choices = [
        *({"index": 0, "delta": delta, "finish_reason": None} for delta in _deltas(message)),
        {"index": 0, "delta": {}, "finish_reason": _finish(message)},
    ]
    events = [event(filtered), *(event({**head, "choices": [choice], **none}) for choice in choices)]
    if asked:
        events.append(event({**head, "choices": [], "usage": USAGE}))
    return stream(*events, event("[DONE]"))


def _deltas(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": None if message.get("tool_calls") else ""}
    for index, call in enumerate(message.get("tool_calls", ())):
        function = call["function"]
        yield {"tool_calls": [{**call, "index": index, "function": {**function, "arguments": ""}}]}
        for piece in (function["arguments"][:3], function["arguments"][3:]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
    text = message["content"] or ""
    yield from ({"content": text[at : at + 4]} for at in range(0, len(text), 4))


def _text_choices(text: str) -> list[dict[str, Any]]:
    """A text completion's choices, piece by piece."""
    made = [{"index": 0, "text": text[at : at + 4], "finish_reason": None} for at in range(0, len(text), 4)]
    return [*made, {"index": 0, "text": "", "finish_reason": "stop"}]
