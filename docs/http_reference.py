"""Write the page of the HTTP API, from the operation table and the lists of header names.

tests/docs/test_http_reference.py compares it with gatepass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from docs.entries import table

from gatepass.auth.cors import EXPOSED
from gatepass.dialects.base import FORWARDED, PARAMETERS, RELAYED, RELAYED_PREFIXES
from gatepass.operations.table import COHERE_V2, OPERATIONS, PREFIXES
from gatepass.protocols.messages import REQUEST_HEADERS
from gatepass.server.pages import PATHS
from gatepass.types import (
    CREDENTIALS,
    HOP_BY_HOP,
    NEVER_RELAYED,
    NEVER_RELAYED_PREFIXES,
    SET_BY_GATEPASS,
)

TRANSLATED = "Over an upstream with chat completions alone, gatepass [translates](../concepts/translation.md) it."
LIMITS_OF_KEY = "../operations/keys.md#limit-the-operations-of-a-key"
PASSES = "Relayed unchanged. An error that a JSON or HTML reply contains becomes an error."
STORED = f"Relayed unchanged. One of several callers, and a key with `models`, needs [`operations`]({LIMITS_OF_KEY})."
ABOUT: Mapping[str, str] = {
    "/chat/completions": "gatepass adapts the request to the upstream, and checks and repairs the reply or stream.",
    "/completions": "gatepass handles it as it handles a chat.",
    "/embeddings": "gatepass splits the inputs if the upstream accepts fewer, and checks the number and the order of"
    " the vectors.",
    "/rerank": "gatepass converts the request to the upstream's shape (Jina, Cohere, TEI or Xinference) and the reply"
    f" back to the client's. Further paths are `{COHERE_V2}`, and the root of the API for a body with `query`.",
    "/responses": "gatepass adapts the request, and checks the reply or stream. It converts whole replies and streams"
    f" into each other. {TRANSLATED}",
    "/messages": "gatepass adapts the request, and checks the reply or stream. It converts whole replies and streams"
    f" into each other. {TRANSLATED}",
    "/models": "The names under `models`, and the lists of the upstreams of `*` and other globs. A key with `models`"
    " sees only its own.",
    "/models/{model}": "One entry of the list. The name may contain slashes.",
}
"""What gatepass does at a path of the operation table, if it does more than to relay."""
READER = "a viewer or admin; without `access.keys` none, from this machine only"
OPEN = "none"
OWN_PAGES: Mapping[str, tuple[str, str]] = {
    "/healthz": ("The process runs. It never checks an upstream, so use it for liveness.", OPEN),
    "/readyz": (
        "At least one upstream has a usable token or needs none, and gatepass is not stopping. Else 503.",
        OPEN,
    ),
    "/metrics": ("The [metrics](metrics.md) of all workers.", f"{READER}; none with `access.metrics_open`"),
    "/status": ("The state of each credential, key and store, without a token, key or secret.", READER),
    "/usage": ("What each caller used of each model, by day, as [`gatepass usage`](cli.md#gatepass-usage).", READER),
    "/learned": (
        "The learned rules of the models that the key may use. `?as=config` returns their YAML.",
        READER,
    ),
    "/": (
        (
            "The version and the base URL, in a browser. `HEAD /` is 200 for every client. A GET that does not accept"
            " `text/html` is 404 `unknown_path`."
        ),
        "none; without `access.keys` from this machine only",
    ),
}
"""What each page of `server.pages` returns, and the key that it requires."""
HTTP_TITLE = """# HTTP API

This page is for engineers who send requests to gatepass, write a client for it, or miss a header. It lists every path
and every header that gatepass reads, adds or passes on.

```sh
curl http://127.0.0.1:8080/v1/chat/completions -H "Authorization: Bearer $GATEPASS_KEY" \\
  -H 'Content-Type: application/json' -d '{"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}'
```

## Common rules

- **Base URL:** `http://HOST:8080/v1`. Paths also work without `/v1`, with `/v1/v1`, and below `server.base_path`.
  Several slashes count as one, and a slash at the end is ignored.
- **Profile:** `/for/PROFILE/v1/…` selects a [profile](configuration.md#profilesname) for one request. It has precedence
  over the profile of the key. An unknown profile is 404 [`unknown_path`](errors.md#unknown_path).
- **Key:** `Authorization: Bearer KEY`, `x-api-key: KEY` or `api-key: KEY`. Without `access.keys`, gatepass requires no
  key and serves only this machine.
- **Body:** one JSON object in UTF-8, not compressed, of at most `limits.body_bytes`. Some operations require a
  multipart form.
- **Query:** gatepass forwards {parameters} of requests that it relays unchanged, and `beta` of the Messages API. It
  removes all others.
- **Errors:** OpenAI's error object, see [Error codes](errors.md). The paths below `/v1/messages` have
  [Anthropic's](#the-messages-api).
- **Methods:** `HEAD` works where `GET` does. `OPTIONS` answers the preflight of an origin in
  `profiles.NAME.cors_origins`. Any other method is 405 [`method_not_allowed`](errors.md#method_not_allowed).
"""
NOT_SERVED = """## The Messages API

Clients of `/v1/messages` receive Anthropic's error object, before a stream and as its event `error`:

```text
{"type": "error", "error": {"type": "api_error", "message": "…", "code": "upstream_closed", "hop": "upstream:chat"}}
```

- If the upstream's own body has this format, the client receives it unchanged, with its status. Only the header
  `x-gatepass-hop` then names the hop. gatepass writes a body anew if it contains a secret, or if the upstream rejects
  the token, because that is not the client's key.
- 404 means an unknown model, because Claude Code reports any 404 so. An unknown path is 400, and so is a 404 of an
  upstream that does not serve `/v1/messages`.
- If a server other than Anthropic's reports too long a context, the message contains
  `capability_rejected: prompt_too_long`. Claude Code then compacts the conversation.
- `/v1/messages/count_tokens` is 404 if the upstream cannot count. gatepass remembers this for each model for ten
  minutes, and sends no further request for it.
- `/v1/messages` has the settings of `operations.messages`, and so does `/v1/messages/count_tokens`. Batches have those
  of `operations.message_batches`.

## Paths that gatepass does not serve

These are 404 [`unknown_path`](errors.md#unknown_path):

- `/openai/deployments/NAME/chat/completions` is the form of Azure OpenAI. Use an OpenAI client, not an Azure client.
  For Azure as an upstream, see [dialects](../dialects.md).
- `/docs`, `/redoc` and `/openapi.json`

Other paths below `/v1/messages`, such as `/v1/messages/NAME`, are 400 [`unknown_path`](errors.md#unknown_path) in
Anthropic's format. It is not 404, which Claude Code reports as an unknown model.

Invalid HTTP and a head that is too large are 4xx in OpenAI's format at each path, because gatepass does not know the
operation yet.

A WebSocket at a path of a `POST` operation is 426 [`unsupported_upgrade`](errors.md#unsupported_upgrade).
"""


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
    "x-gatepass-trace-id": Header(
        "The id of the trace, with [`tracing`](../guides/tracing.md).",
        "x-gatepass-trace-id: 0af7651916cd43dd8448eb211c80319c",
        response="every error",
    ),
    "x-gatepass-adapted": Header(
        "The changes of the request and the reply, separated by commas: [Adaptations](../adaptations.md#every-change).",
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
    "x-gatepass-limit-warning": Header(
        "The limits of a day or month of which at least 80 % are used: [Limits](../guides/limits.md).",
        "x-gatepass-limit-warning: caller-tokens-month 82%",
        response="a response to a request with such a limit",
    ),
    "x-gatepass-targets": Header(
        "The targets that were tried, in order, as `UPSTREAM/MODEL`. The response is that of the last one.",
        "x-gatepass-targets: east/gpt-4o, west/gpt-4o",
        response="more than one attempt, if the model sets how targets are chosen or tried again",
    ),
    "retry-after": Header(
        "The seconds until a retry can succeed, at most 86,400.",
        "retry-after: 3",
        response="an error with a known time; also relayed from a successful reply of the upstream",
    ),
    "x-should-retry": Header(
        "Whether the OpenAI SDKs retry. [Error codes](errors.md#can-a-retry-succeed) has the rules.",
        "x-should-retry: false",
        response="an error that a retry cannot fix, or for which the upstream decided",
    ),
    "x-codex-promo-message": Header(
        "The text of the error, which Codex prints.",
        "x-codex-promo-message: The caller 'ana' has used its limit of 9 requests per hour",
        response="429 of the Responses API with `x-should-retry: false`",
    ),
    "server-timing": Header(
        "Milliseconds until the head of the reply (`total`), and the wait for a token (`token`). After a wait at a full"
        " upstream also `queue`, with the position at its beginning.",
        'server-timing: total;dur=1997.0, token;dur=0.0, queue;dur=812.0;desc="position 3"',
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
    "accept-encoding": Header(
        "The codings that a request body may have.",
        "accept-encoding: identity",
        response="415 `unsupported_encoding`",
    ),
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
        "The compression of the body. A compressed body is 415 `unsupported_encoding`.",
        "Content-Encoding: identity",
        "`identity`",
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


def http_page() -> str:
    parameters = ", ".join(f"`{name.decode()}`" for name in sorted(PARAMETERS) if b"%" not in name)
    return "\n".join([HTTP_TITLE.replace("{parameters}", parameters), paths(), NOT_SERVED, headers()])


def paths() -> str:
    operations = [
        (
            f"`{row.method} {PREFIXES[0]}{row.path}`",
            f"`{row.configured_as}`",
            f"{row.summary}. {STORED if row.is_about_stored else ABOUT.get(row.path, PASSES)}",
        )
        for row in OPERATIONS
    ]
    pages = [(f"`GET {path}`", *page_row(path)) for path in ("/", *PATHS)]
    return f"""## Operations

The second column is the name in a key's `operations` and under `operations` of the configuration. Each operation
requires a key with the role `caller` or `admin`.

{table(("path", "operation", "what it does"), operations)}

## Pages

The pages are at the root and below `server.base_path`. gatepass writes no access line for them.
[Health and status](../operations/health_and_status.md) shows replies.

{table(("path", "what it returns", "key"), pages)}
"""


def page_row(path: str) -> tuple[str, str]:
    if path not in OWN_PAGES:
        raise KeyError(f"the page {path} requires an entry in OWN_PAGES (docs/http_reference.py)")
    return OWN_PAGES[path]


def headers() -> str:
    forwarded = [(f"`{name}`", *FORWARDED_WHY[name]) for name in sorted(name.decode() for name in FORWARDED)]
    names = {name.decode() for name in RELAYED} | {f"{prefix.decode()}*" for prefix in RELAYED_PREFIXES}
    relayed = []
    for title, (pattern, purpose, example) in RELAYED_GROUPS.items():
        own = {name for name in names if re.search(pattern, name)}
        names -= own
        relayed.append((f"{title}: {purpose}", listed(own), f"`{example}`"))
    never = {name.decode() for name in NEVER_RELAYED} | {f"{prefix.decode()}*" for prefix in NEVER_RELAYED_PREFIXES}
    return f"""## Headers that gatepass adds to a reply

{table(("header", "meaning", "sent with", "example"), map(header_row, ADDED, ADDED.values()))}

## Headers that gatepass reads

{table(("header", "meaning", "in a request", "example"), map(header_row, READ, READ.values()))}

## Request headers that gatepass forwards

The upstream receives these headers of the client, and those of `upstreams.NAME.forward_headers`.

{table(("header", "meaning", "example"), ((name, why, f"`{example}`") for name, why, example in forwarded))}

Requests of the Messages API also keep {listed(REQUEST_HEADERS)}.

gatepass writes or removes these: {listed(name.decode() for name in SET_BY_GATEPASS)}. It adds the headers of
`upstreams.NAME.headers` and of the credential.

No setting forwards these: {listed(name.decode() for name in HOP_BY_HOP | CREDENTIALS)}.

## Response headers that gatepass relays

The client receives these headers of a successful reply, and those of `upstreams.NAME.forward_response_headers`.
gatepass removes a header that contains a known secret. It relays `anthropic-ratelimit-*`,
`request-id`, `retry-after-ms` and `x-ratelimit-*` of an error.

{table(("group", "headers", "example"), relayed)}

No setting relays these: {listed(never)}.
"""


def header_row(name: str, header: Header) -> tuple[str, str, str, str]:
    used = header.response or header.request
    if header.response and header.request:
        used = f"{header.response}; in a request: {header.request}"
    return f"`{name}`", header.purpose, used, f"`{header.example}`"


def listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))
