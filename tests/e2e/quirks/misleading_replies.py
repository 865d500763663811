"""Rows 1 to 4, 7, 10, 33 and 51: replies that are not what their status or content type declares."""

from collections.abc import Callable
from typing import Any

from tests.e2e.quirks.replies import (
    DONE,
    HTML,
    PIECES,
    TEXT,
    USAGE,
    Reply,
    Request,
    Serve,
    always,
    chunk,
    chunks,
    completion,
    compliant,
    encoded,
    error,
    event_stream,
    first_chunk,
    json_reply,
    raw_stream,
    text_chunks,
)
from tests.e2e.quirks.row import CHAT, STREAM, Failure, Row
from tests.e2e.quirks.tools import TOOL_ANSWER, TOOLS

LOGIN = b"<!doctype html><html><head><title>Sign in - Corp SSO</title></head><body><form>password</form></body></html>"
BUSY = b"<html><head><title>503 Service Temporarily Unavailable</title></head><body>nginx</body></html>"
LAST_NOT_USER = "The last content of this conversation is not from user."


def expired(reply: Reply) -> Serve:
    """Reject the first received token with `reply`, and accept all others."""

    def serve(request: Request) -> Reply:
        return reply if request.remembered.setdefault("dead", request.token) == request.token else compliant(request)

    return serve


def wrapped(request: Request) -> Reply:
    def wrap(document: Any) -> Any:
        return {"code": 0, "msg": "ok", "data": document}

    return event_stream(map(wrap, chunks(request))) if request.stream else json_reply(wrap(completion(request)))


def always_json(request: Request) -> Reply:
    return json_reply(completion(request))


def unasked_events(request: Request) -> Reply:
    return event_stream(chunks(request))


def in_stream(document: Any) -> Serve:
    """Return a stream whose only event is an error, or a 400 if no stream was requested."""
    return lambda request: (
        raw_stream(b"data: " + encoded(document) + b"\n\n") if request.stream else json_reply(document, 400)
    )


def only_done(request: Request) -> Reply:
    return raw_stream(DONE) if request.stream else Reply()


def ragflow_chunks() -> list[Any]:
    empty = {"function_call": None, "tool_calls": None, "role": "assistant", "reasoning_content": None}
    chunks_made = [chunk({"content": piece} | empty, usage=None) for piece in PIECES]
    return [*chunks_made, chunk({"content": None} | empty, "stop", usage=USAGE)]


def ragflow(middle: Callable[[list[Any]], list[Any]]) -> Serve:
    """Return a stream unless `stream` is false, without a space after `data:`."""

    def serve(request: Request) -> Reply:
        if request.body.get("stream") is False:
            return compliant(request)
        made = middle(ragflow_chunks())
        return raw_stream(*(b"data:" + encoded(item) + b"\n\n" for item in made), b"data:[DONE]\n\n")

    return serve


def repeated(made: list[Any]) -> list[Any]:
    return [*made[:-1], chunk({"content": TEXT, "role": "assistant"}, usage=None), made[-1]]


def error_in_content(_: list[Any]) -> list[Any]:
    return [first_chunk(), *text_chunks(("**ERROR**: the gnomes are on strike",)), chunk(finish="stop")]


EXPIRED = (
    Row(1, "expired-401", "401 for an expired token", expired(json_reply(error("expired", code="token_expired"), 401)),
        route="renewed"),
    Row(1, "expired-200", 'a 200 with `{"code":401,"msg":"token expired"}`',
        expired(json_reply({"code": 401, "msg": "token expired"})), route="renewed"),
)  # fmt: skip

ENVELOPES = (
    Row(2, "ragflow-102", 'a 200 with RAGFlow\'s `{"code":102}`',
        always(json_reply({"code": 102, "message": LAST_NOT_USER})),
        Failure((400,), words=LAST_NOT_USER)),
    Row(2, "siliconflow-20042", 'a 200 with `{"code":20042,"data":null}`',
        always(json_reply({"code": 20042, "message": "The gnomes strike.", "data": None})),
        Failure((502,), words="The gnomes strike.")),
    Row(2, "sglang-200", 'a stream of `{"object":"error"}`', in_stream(
        {"object": "error", "message": "Too many gnomes", "type": "BadRequestError", "param": None, "code": 400}),
        Failure((400,), words="Too many gnomes")),
    Row(3, "wrapped", 'every answer wrapped: `{"code":0,"data":{…}}`', wrapped),
)  # fmt: skip

PAGES = (
    Row(4, "html-200", "a login page with 200", always(Reply(200, HTML, (LOGIN,))),
        Failure((502,), "upstream_html", "Sign in")),
    Row(4, "redirect-login", "302 to a login", always(Reply(302, HTML, (b"moved",), (("location", "/login?next=x"),))),
        Failure((502,), "upstream_redirect")),
    Row(4, "html-503", "a proxy's page with 503", always(Reply(503, HTML, (BUSY,))),
        Failure((503,), "upstream_html", "Temporarily Unavailable")),
    Row(51, "empty-200", "a 200 without a body", always(Reply()), Failure((502,), "upstream_empty")),
    Row(51, "only-done", "a stream with `[DONE]` alone", only_done, Failure((502,), "upstream_empty")),
)  # fmt: skip

FORMS = (
    Row(7, "json-for-stream", "JSON although a stream was requested", always_json),
    Row(7, "json-for-stream-tools", "the same with tool calls", always_json, TOOL_ANSWER, body=TOOLS),
    Row(10, "events-unasked", "a stream although none was requested", unasked_events),
)  # fmt: skip

RAGFLOW = (
    Row(33, "ragflow-chunks", "RAGFlow's chunks: role, nulls, usage in the finish", ragflow(list), modes=CHAT),
    Row(33, "ragflow-repeats", "RAGFlow up to 0.25.6: the whole reply repeated at the end", ragflow(repeated),
        route="ragflow"),
    Row(33, "ragflow-strikes", "RAGFlow: `**ERROR**:` as content", ragflow(error_in_content),
        Failure(words="on strike"), modes=STREAM, route="ragflow"),
    Row(33, "ragflow-parts", "RAGFlow: rejects lists of parts", lambda request: compliant(request)
        if all(isinstance(item["content"], str) for item in request.messages)
        else json_reply({"code": 100, "data": None, "message": "TypeError('expected string or buffer')"}),
        messages=({"role": "user", "content": [{"type": "text", "text": "What colour is the sky?"}]},),
        route="ragflow"),
)  # fmt: skip

ROWS = (*EXPIRED, *ENVELOPES, *PAGES, *FORMS, *RAGFLOW)
