"""Write the pages of the HTTP API and of the headers, from the operation table and the lists of header names.

tests/docs/test_http_reference.py sends each example.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from docs.entries import Entry, page

from gatepass.auth.cors import EXPOSED
from gatepass.dialects.base import FORWARDED, PARAMETERS, RELAYED, RELAYED_PREFIXES
from gatepass.operations.table import COHERE_V2, OPERATIONS, PREFIXES
from gatepass.server.pages import PATHS
from gatepass.types import (
    CREDENTIALS,
    HOP_BY_HOP,
    NEVER_RELAYED,
    NEVER_RELAYED_PREFIXES,
    SET_BY_GATEPASS,
    Operation,
)

ROOT = "http://127.0.0.1:8080"
LIMITS_OF_KEY = "../operations/keys.md#limit-the-operations-of-a-key"


@dataclass(frozen=True)
class Example:
    """A request and the reply of gatepass. `upstream` is the upstream's reply, if gatepass changes it."""

    reply: Any
    body: Mapping[str, Any] | None = None
    form: Mapping[str, str] | None = None
    """The parts of a multipart form; `@NAME` is a file."""
    upstream: Any = None
    output: str = ""
    """The file that curl writes, for a reply that is not text."""


@dataclass(frozen=True)
class Path:
    """What the page adds to a row of the operation table, or to a page of `server.pages`."""

    about: str
    example: Example
    returns: str = ""
    key: str = ""


HI = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
MODEL = {"id": "gpt-4o", "object": "model", "created": 0, "owned_by": "gatepass"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
FILE = {"id": "file-1", "object": "file", "bytes": 5, "created_at": 1, "filename": "in.jsonl", "purpose": "batch"}
BATCH = {"id": "batch-1", "object": "batch", "status": "validating", "input_file_id": "file-1"}
RESPONSE = {
    "id": "resp-1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "gpt-4o",
    "output": [
        {
            "type": "message",
            "id": "msg-1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Hello", "annotations": []}],
        }
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}
PASSES = "gatepass relays the request and the reply unchanged, and reports an error that a JSON or HTML reply contains."
SPEECH = {"file": "@speech.wav", "model": "whisper-1"}
IMAGE = {"created": 1, "data": [{"url": "https://llm.corp.example/1.png"}]}
API: Mapping[tuple[str, str], Path] = {
    ("POST", "/chat/completions"): Path(
        "gatepass adapts the request to the upstream, and checks and repairs the reply or stream.",
        Example(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": "gpt-4o",
                "choices": [
                    {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
                ],
                "usage": USAGE,
            },
            HI,
        ),
    ),
    ("POST", "/completions"): Path(
        "gatepass handles it as it handles a chat.",
        Example(
            {
                "id": "cmpl-1",
                "object": "text_completion",
                "created": 1,
                "model": "gpt-4o",
                "choices": [{"index": 0, "text": "Hello", "finish_reason": "stop", "logprobs": None}],
                "usage": USAGE,
            },
            {"model": "gpt-4o", "prompt": "Hi"},
        ),
    ),
    ("POST", "/embeddings"): Path(
        "gatepass splits the inputs if the upstream accepts fewer, and checks the number and the order of the vectors.",
        Example(
            {
                "object": "list",
                "data": [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}],
                "model": "bge-m3",
                "usage": {"prompt_tokens": 1, "total_tokens": 1},
            },
            {"model": "bge-m3", "input": ["Hi"]},
        ),
    ),
    ("POST", "/rerank"): Path(
        "gatepass converts the request to the upstream's shape (Jina, Cohere, TEI or Xinference) and the reply back to"
        f" the client's. Further paths are `{COHERE_V2}`, and the root of the API for a body with `query`.",
        Example(
            {"id": "rerank-1", "results": [{"index": 0, "relevance_score": 0.9}], "model": "bge-reranker"},
            {"model": "bge-reranker", "query": "a token", "documents": ["A token expires."]},
        ),
    ),
    ("POST", "/responses"): Path(
        "gatepass adapts the request, and checks the reply or stream. It converts whole replies and streams into each"
        " other.",
        Example(RESPONSE, {"model": "gpt-4o", "input": "Hi"}),
    ),
    ("POST", "/audio/transcriptions"): Path(PASSES, Example({"text": "Hello"}, form=SPEECH)),
    ("POST", "/audio/translations"): Path(PASSES, Example({"text": "Hello"}, form=SPEECH)),
    ("POST", "/audio/speech"): Path(
        PASSES,
        Example("…", {"model": "tts-1", "voice": "alloy", "input": "Hello"}, output="speech.mp3"),
        returns="the audio",
    ),
    ("POST", "/images/generations"): Path(PASSES, Example(IMAGE, {"model": "gpt-image-1", "prompt": "A key"})),
    ("POST", "/images/edits"): Path(
        PASSES, Example(IMAGE, form={"image": "@key.png", "prompt": "Red", "model": "gpt-image-1"})
    ),
    ("POST", "/images/variations"): Path(PASSES, Example(IMAGE, form={"image": "@key.png", "model": "dall-e-2"})),
    ("POST", "/moderations"): Path(
        PASSES,
        Example(
            {"id": "modr-1", "model": "omni", "results": [{"flagged": False}]}, {"model": "omni", "input": "Hello"}
        ),
    ),
    ("POST", "/files"): Path(PASSES, Example(FILE, form={"file": "@in.jsonl", "purpose": "batch"})),
    ("GET", "/files"): Path(PASSES, Example({"object": "list", "data": [FILE]})),
    ("GET", "/files/{id}"): Path(PASSES, Example(FILE)),
    ("DELETE", "/files/{id}"): Path(PASSES, Example({"id": "file-1", "object": "file", "deleted": True})),
    ("GET", "/files/{id}/content"): Path(PASSES, Example("…", output="out.jsonl"), returns="the file"),
    ("POST", "/batches"): Path(
        PASSES,
        Example(
            BATCH,
            {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"},
        ),
    ),
    ("GET", "/batches"): Path(PASSES, Example({"object": "list", "data": [BATCH]})),
    ("GET", "/batches/{id}"): Path(PASSES, Example(BATCH)),
    ("POST", "/batches/{id}/cancel"): Path(PASSES, Example({**BATCH, "status": "cancelling"})),
    ("GET", "/responses/{id}"): Path(PASSES, Example(RESPONSE)),
    ("DELETE", "/responses/{id}"): Path(PASSES, Example({"id": "resp-1", "object": "response", "deleted": True})),
    ("POST", "/responses/{id}/cancel"): Path(PASSES, Example({**RESPONSE, "status": "cancelled"})),
    ("GET", "/responses/{id}/input_items"): Path(PASSES, Example({"object": "list", "data": []})),
    ("GET", "/models"): Path(
        "The names under `models`, and the lists of the upstreams of `*` and other globs. A key with `models` sees only"
        " its own.",
        Example({"object": "list", "data": [MODEL]}),
    ),
    ("GET", "/models/{model}"): Path("One entry of the list. The name may contain slashes.", Example(MODEL)),
}

READER = "a key with the role `viewer` or `admin`; without `access.keys` none, from this machine only"
OPEN = "none"
STATUS = {
    "ready": True,
    "draining": False,
    "in_flight": 0,
    "credentials": {},
    "keys": [
        {
            "name": "ragflow",
            "role": "admin",
            "profile": "plain",
            "expires": None,
            "models": None,
            "operations": None,
            "state": "valid",
        }
    ],
    "reload_problems": [],
    "store": None,
}
OWN_PAGES: Mapping[str, Path] = {
    "/healthz": Path(
        "Report that the process runs. It never checks an upstream, so use it for liveness.",
        Example({"status": "ok"}),
        key=OPEN,
    ),
    "/readyz": Path(
        "Report whether at least one upstream has a usable token or needs none, and gatepass is not stopping.\n\n"
        "`/readyz?strict` requires a usable token of every credential, which no upstream rejected in the last minute."
        " Use `/readyz` for a load balancer, so that one failing issuer does not remove a replica that"
        " serves the models of another.",
        Example({"ready": True}),
        '`{"ready": true}`, or status 503 and `{"ready": false}`',
        OPEN,
    ),
    "/metrics": Path(
        "Return the [metrics](metrics.md) of all workers.",
        Example("gatepass_requests_in_flight_limit 4000"),
        "the text format of Prometheus",
        f"{READER}; none with `access.metrics_open`",
    ),
    "/status": Path(
        "Return the state of each credential, key and store. It contains no token, key or secret.",
        Example(STATUS),
        key=READER,
    ),
    "/learned": Path(
        "Return the learned rules of the models that the key may use.\n\n"
        "`/learned?as=config` returns the YAML that makes them permanent.",
        Example({"rules": []}),
        key=READER,
    ),
    "/": Path(
        "Show a browser the version of gatepass and the base URL for clients. A request that does not accept"
        " `text/html` is 404 `unknown_path`.",
        Example("<title>gatepass</title>"),
        "an HTML page",
        "none; without `access.keys` from this machine only",
    ),
}
HTTP_TITLE = """# HTTP API

This page is for engineers who send requests to gatepass, or write a client for it. It lists every path of gatepass.
[Headers](headers.md) lists the headers of requests and replies.

## Common rules

- **Base URL:** `http://HOST:8080/v1`. Paths also work without `/v1`, with `/v1/v1`, and below `server.base_path`.
  Several slashes count as one, and a slash at the end is ignored.
- **Profile:** `/for/PROFILE/v1/…` selects a [profile](configuration.md#profilesname) for one request. It has precedence
  over the profile of the key. An unknown profile is 404 [`unknown_path`](errors.md#unknown_path).
- **Key:** `Authorization: Bearer KEY`, `x-api-key: KEY` or `api-key: KEY`. Without `access.keys`, gatepass requires no
  key and serves only this machine.
- **Body:** one JSON object in UTF-8, not compressed, of at most `limits.body_bytes`. Some operations require a
  multipart form.
- **Query:** gatepass forwards {parameters} of requests that it relays unchanged. It removes all others.
- **Errors:** OpenAI's error object, see [Read an error](../errors.md).
- **Methods:** `HEAD` works where `GET` does. `OPTIONS` answers the preflight of an origin in
  `profiles.NAME.cors_origins`. Any other method is 405 [`method_not_allowed`](errors.md#method_not_allowed).

The replies of the examples are those of one upstream. `$GATEPASS_KEY` is the key of an admin.
"""
NOT_SERVED = """## Paths that gatepass does not serve

These are 404 [`unknown_path`](errors.md#unknown_path):

- `/openai/deployments/NAME/chat/completions` is the form of Azure OpenAI. Use an OpenAI client, not an Azure client.
  For Azure as an upstream, see [dialects](../dialects.md).
- `/docs`, `/redoc` and `/openapi.json`. In Python, `create_app(config).openapi()` returns the OpenAPI document.

These are 400 [`unsupported_api`](errors.md#unsupported_api) in Anthropic's format, and require a key:

- `/v1/messages` and all paths below it, such as `/v1/messages/count_tokens`. Use an OpenAI client.

A WebSocket at a path of a `POST` operation is 426 [`unsupported_upgrade`](errors.md#unsupported_upgrade).
"""


def http_api_page() -> str:
    parameters = ", ".join(f"`{name.decode()}`" for name in sorted(PARAMETERS) if b"%" not in name)
    title = HTTP_TITLE.replace("{parameters}", parameters)
    parts: list[Entry | str] = ["## Operations\n"]
    parts += [operation_entry(operation) for operation in OPERATIONS]
    parts.append(
        "## Pages\n\nThe pages are at the root and below `server.base_path`. gatepass writes no access line for them.\n"
    )
    parts += [page_entry(path) for path in ("/", *PATHS)]
    return page(title, [*parts, NOT_SERVED])


def operation_entry(operation: Operation) -> Entry:
    row = API.get((operation.method, operation.path))
    if row is None:
        raise KeyError(f"{operation.method} {operation.path} requires an entry in API (docs/http_reference.py)")
    path = PREFIXES[0] + operation.path
    accepts = "no body"
    if row.example.body is not None:
        accepts = f"a JSON object with {in_order(row.example.body)}, and the other members of the operation"
    elif row.example.form is not None:
        accepts = f"a multipart form with {in_order(row.example.form)}"
    facts = {"Operation": f"`{operation.opened_by or operation.name}`", "Accepts": accepts}
    is_streamed = "stream" in operation.members
    stream = ", or an event stream with `stream: true`" if is_streamed else ""
    facts["Returns"] = row.returns or f"a JSON object{stream}"
    if operation.is_about_stored:
        facts["Key"] = (
            "the role `caller` or `admin`. One of several callers, and a key with `models`, needs an entry in"
            f" [`operations`]({LIMITS_OF_KEY})"
        )
    else:
        facts["Key"] = "the role `caller` or `admin`"
    return Entry(
        f"{operation.method} {path}", f"{operation.summary}. {row.about}", facts, details=shown(operation, row)
    )


def in_order(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def page_entry(path: str) -> Entry:
    row = OWN_PAGES.get(path)
    if row is None:
        raise KeyError(f"the page {path} requires an entry in OWN_PAGES (docs/http_reference.py)")
    about, _, details = row.about.partition("\n\n")
    facts = {"Accepts": "no body", "Returns": row.returns or "a JSON object", "Key": row.key}
    blocks = example_blocks(curl("GET", path, row), row.example.reply)
    return Entry(f"GET {path}", about, facts, details=f"{details}\n\n{blocks}".strip())


def shown(operation: Operation, row: Path) -> str:
    ids = {"files": "file-1", "batches": "batch-1", "responses": "resp-1"}
    own = operation.path.replace("{model}", "gpt-4o").replace("{id}", ids.get(operation.name, ""))
    return example_blocks(curl(operation.method, PREFIXES[0] + own, row), row.example.reply)


def curl(method: str, path: str, row: Path) -> str:
    """Return the command line of the example."""
    example = row.example
    words = ["curl", ROOT + path]
    if method not in ("GET", "POST") or (method == "POST" and example.body is None and example.form is None):
        words += ["-X", method]
    if path == "/":
        words += ["-H", "Accept: text/html"]
    lines = [shlex.join(words)]
    if row.key not in (OPEN, OWN_PAGES["/"].key):
        lines.append('-H "Authorization: Bearer $GATEPASS_KEY"')
    if example.body is not None:
        lines += ["-H 'Content-Type: application/json'", "-d " + shlex.quote(json.dumps(example.body))]
    lines += [f"-F {name}={value}" for name, value in (example.form or {}).items()]
    if example.output:
        lines.append(f"-o {example.output}")
    return " \\\n  ".join(lines)


def example_blocks(command: str, reply: Any) -> str:
    block = f"```sh\n{command}\n```"
    if reply == "…":
        return block
    text = reply if isinstance(reply, str) else json.dumps(reply, ensure_ascii=False)
    return f"{block}\n\n```{'text' if isinstance(reply, str) else 'json'}\n{text}\n```"


# --- the headers


@dataclass(frozen=True)
class Header:
    """One header that gatepass reads or adds."""

    purpose: str
    example: str
    request: str = ""
    response: str = ""


ADDED: Mapping[str, Header] = {
    "x-request-id": Header(
        "The id of the request in the log of gatepass.",
        "x-request-id: 46d9a1412d99be6800000001",
        "the client's own id, if it has only letters, digits and `._:-`; gatepass also sends it to the upstream",
        "every reply of the API, and not of the pages",
    ),
    "x-gatepass-hop": Header(
        "The part that failed: `client`, `gatepass`, `credential:NAME` or `upstream:NAME`.",
        "x-gatepass-hop: credential:corp",
        response="every error",
    ),
    "x-gatepass-adapted": Header(
        "The changes of the request and the reply, separated by commas. [Changes](changes.md) lists them.",
        "x-gatepass-adapted: rename=max_tokens>max_completion_tokens",
        response="if gatepass changed something before it sent the head",
    ),
    "x-gatepass-tried": Header(
        "The changes after a rejection that did not help or did not suffice.",
        "x-gatepass-tried: drop=top_k",
        response="an error after such changes",
    ),
    "x-gatepass-attempts": Header(
        "The number of requests to upstreams. A failed connection counts.",
        "x-gatepass-attempts: 2",
        response="if there was more than one",
    ),
    "retry-after": Header(
        "The seconds until a retry can succeed, at most 86,400.",
        "retry-after: 3",
        response="an error with a known time; also relayed from a successful reply of the upstream",
    ),
    "x-should-retry": Header(
        "Whether the OpenAI SDKs retry. [Read an error](../errors.md#can-a-retry-succeed) has the rules.",
        "x-should-retry: false",
        response="an error that a retry cannot fix, or for which the upstream decided",
    ),
    "server-timing": Header(
        "Milliseconds until the head of the reply (`total`), and the wait for a token (`token`).",
        "server-timing: total;dur=1997.0, token;dur=1993.6",
        response="every reply of the API",
    ),
    "cache-control": Header(
        "No cache may store a reply, because it is for one caller.",
        "cache-control: no-store",
        response="every reply; `no-store, no-transform` for a stream",
    ),
    "x-accel-buffering": Header("nginx does not buffer the stream.", "x-accel-buffering: no", response="every stream"),
    "www-authenticate": Header(
        "The request needs a key.", "www-authenticate: Bearer", response="401 `invalid_api_key`"
    ),
    "allow": Header("The methods of the path.", "allow: GET, HEAD", response="405 `method_not_allowed`"),
    "access-control-allow-origin": Header(
        "A web page of this origin may read the reply. A preflight has more headers that begin with `access-control-`.",
        "access-control-allow-origin: https://chat.corp.example",
        response="if the profile lists the origin of the request",
    ),
    "access-control-expose-headers": Header(
        "The headers that such a page may read.",
        f"access-control-expose-headers: {EXPOSED.decode()}",
        response="as `access-control-allow-origin`",
    ),
    "vary": Header(
        "The reply depends on the origin of the request.",
        "vary: origin",
        response="every reply of a profile with origins",
    ),
}
READ: Mapping[str, Header] = {
    "authorization": Header(
        "The API key of the client. `x-api-key` and `api-key` work too; two different keys are 401."
        " gatepass never forwards it, and adds the token of the upstream instead.",
        "Authorization: Bearer gp-…",
        "every request, if `access.keys` is set",
    ),
    "content-type": Header(
        "The form of the body.",
        "Content-Type: application/json",
        "`application/json`, or `multipart/form-data` for a form; required without `access.keys`",
        "the upstream's; `text/event-stream; charset=utf-8` for a stream",
    ),
    "content-encoding": Header(
        "gatepass accepts no compressed body: 415 `unsupported_encoding`.",
        "Content-Encoding: identity",
        "none, or `identity`",
    ),
    "accept": Header(
        "The form of the reply. gatepass uses `stream` in the body instead, and forwards this header only with requests"
        " that it relays unchanged.",
        "Accept: application/json",
        "optional; `text/html` at `/` selects the page for browsers",
    ),
    "host": Header(
        "Without `access.keys`, it must be a loopback name. gatepass also uses it in messages with a base URL.",
        "Host: localhost:8080",
        "every request",
    ),
    "origin": Header(
        "The origin of a web page. `profiles.NAME.cors_origins` lists the ones that may call gatepass.",
        "Origin: https://chat.corp.example",
        "sent by browsers",
    ),
    "sec-fetch-site": Header(
        "Without `access.keys`, gatepass rejects requests that a page of another site sent.",
        "Sec-Fetch-Site: same-origin",
        "sent by browsers",
    ),
    "x-forwarded-for": Header(
        "The address of the client, for the shares of connections. gatepass reads it only from proxies in"
        " `server.trusted_proxies`.",
        "X-Forwarded-For: 10.0.0.7",
        "sent by a proxy in front of gatepass",
    ),
    "x-forwarded-proto": Header(
        "The scheme of the base URL in messages to the client.", "X-Forwarded-Proto: https", "sent by a proxy"
    ),
}
FORWARDED_WHY: Mapping[str, tuple[str, str]] = {
    "user-agent": ("The name of the client. Without it gatepass sends `gatepass`.", "User-Agent: OpenAI/Python 3.0.0"),
    "openai-organization": ("The organization in OpenAI's API.", "OpenAI-Organization: org-1"),
    "openai-project": ("The project in OpenAI's API.", "OpenAI-Project: proj_1"),
    "traceparent": (
        "The trace of the request (W3C Trace Context).",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ),
    "tracestate": ("More data of the trace.", "tracestate: vendor=1"),
}
RELAYED_GROUPS: Mapping[str, tuple[str, str, str]] = {
    "Limits and waits": (
        "rate|retry",
        "The limits of the account, and the time until the next request.",
        "x-ratelimit-remaining-requests: 99",
    ),
    "Ids and traces": (
        "id$|-id-|trace|ray$",
        "Ids to search for in the upstream's logs.",
        "apim-request-id: 6c3c7a0e-6e1b-4d0f-9f8a-1c8a1f5d2b3c",
    ),
    "Times": ("latency|time", "Durations that proxies measured.", "x-kong-upstream-latency: 412"),
    "The body": ("^content-|^accept", "Descriptions of the body.", "content-disposition: attachment"),
    "The server": (
        "",
        "The region, the deployment and the state of the server.",
        "x-ms-region: westeurope",
    ),
}
"""Groups of relayed headers: a pattern of their names, the purpose and an example. The first match decides."""

HEADERS_TITLE = """# Headers

This page is for engineers who read the headers of a reply, or who miss a header at the upstream or at the client.

gatepass passes on only the headers of two lists, one for requests and one for replies. `forward_headers` and
`forward_response_headers` of an [upstream](configuration.md#upstreamsname) add names to them.
"""


def headers_page() -> str:
    parts: list[Entry | str] = ["## Headers that gatepass adds to a reply\n"]
    parts += [header_entry(name, header) for name, header in ADDED.items()]
    parts.append("## Headers that gatepass reads\n")
    parts += [header_entry(name, header) for name, header in READ.items()]
    parts.append(
        "## Request headers that gatepass forwards\n\nThe upstream receives these headers of the client, and those of"
        " `upstreams.NAME.forward_headers`.\n"
    )
    for name in sorted(name.decode() for name in FORWARDED):
        purpose, example = FORWARDED_WHY[name]
        parts.append(Entry(name, purpose, {"In a request": "forwarded unchanged", "Example": f"`{example}`"}))
    parts.append(f"""### Set by gatepass

gatepass writes or removes these: {listed(name.decode() for name in SET_BY_GATEPASS)}. It adds the headers of
`upstreams.NAME.headers` and of the credential.

### Never forwarded

No setting forwards these: {listed(name.decode() for name in HOP_BY_HOP | CREDENTIALS)}.

## Response headers that gatepass relays

The client receives these headers of a successful reply, and those of `upstreams.NAME.forward_response_headers`.
gatepass removes a header that contains a known secret. It relays `retry-after-ms` and `x-ratelimit-*` of an error.
""")
    names = {name.decode() for name in RELAYED} | {f"{prefix.decode()}*" for prefix in RELAYED_PREFIXES}
    for title, (pattern, purpose, example) in RELAYED_GROUPS.items():
        own = {name for name in names if re.search(pattern, name)}
        names -= own
        facts = f"- Names: {listed(own)}\n- Example: `{example}`\n"
        parts.append(f"### {title}\n\n{purpose}\n\n{facts}")
    never = {name.decode() for name in NEVER_RELAYED} | {f"{prefix.decode()}*" for prefix in NEVER_RELAYED_PREFIXES}
    parts.append(f"### Never relayed\n\nNo setting relays these: {listed(never)}.\n")
    return page(HEADERS_TITLE, parts)


def header_entry(name: str, header: Header) -> Entry:
    facts = {"In a request": header.request, "In a reply": header.response}
    used = {label: text for label, text in facts.items() if text}
    return Entry(name, header.purpose, {**used, "Example": f"`{header.example}`"})


def listed(names: Iterable[str]) -> str:
    return in_order(sorted(names))
