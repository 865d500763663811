"""The tree of errors: every way that a request can fail, with a stable code and the hop that failed.

docs/reference/errors.md lists them with their codes, by the hop that failed:

- CallerError, hop `client`: the caller can fix it.
- GatewayError, hop `gatepass`: this process.
- TokenUnavailable, hop `credential:NAME`.
- UpstreamError, hop `upstream:NAME`. UpstreamErrorReply has the upstream's own status, code and text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, ClassVar


def documentation(page: str, sentence: str = "{}") -> str:
    """Return `sentence` with the address of a page such as `docs/mcp.md`.

    Returns "" if the package names no address: an installation has no folder docs.
    """
    # imported here, because only advice needs it
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        links = metadata("gatepass").get_all("Project-URL") or ()
    except PackageNotFoundError:
        links = ()
    address = next((link.partition(", ")[2] for link in links if link.startswith("Documentation, ")), "")
    return sentence.format(address.removesuffix("docs/index.md") + page) if address else ""


class GatepassError(Exception):
    """Base class of all errors that a client can receive.

    - `message`: what failed and what to do. It is sent to clients, so it never contains a secret.
    - `code`: stable. `make reference` writes its heading in docs/reference/errors.md from the docstring of the class.
    - `status`: the HTTP status, if the response has not started. `http_status` may be the upstream's instead.
    - `retryable`: whether the same request can succeed later. An error that is not retryable is sent with
      `x-should-retry: false`.
    - `hop`: the part that failed. Each kind of error sets it.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    hop: str

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message, self.http_status = message, self.status
        self.param, self.retry_after_s = param, retry_after_s
        self.relayed: tuple[tuple[bytes, bytes], ...] = ()
        """Response headers of the upstream that are relayed with this error, such as x-ratelimit-*."""
        self.is_told = False
        """The client has received it: an event of the upstream states it."""
        self.should_retry: bool | None = None
        """Whether a retry can succeed, if the upstream's `x-should-retry` or the cause says so; else None."""
        self.trace_id = ""
        """The trace of the request that received it, "" without `tracing`."""

    @property
    def public_code(self) -> str:
        """The code in the error response."""
        return self.code


class CallerError(GatepassError):
    """The request is invalid or not permitted; nothing was sent to an upstream."""

    status, hop = 400, "client"


class InvalidApiKey(CallerError):
    """The request has no API key, an unknown or expired one, or two that differ.

    gatepass reads the headers `Authorization`, `x-api-key` and `api-key`.
    docs/operations/keys.md#rotate-a-key-without-an-interruption shows how to replace a key.

    Action: Set the client's API key to the one that `gatepass keys new` printed. If it is lost or has expired, run
    `gatepass keys new --name NAME --write` and `gatepass reload` for another one.
    """

    code, status = "invalid_api_key", 401


class SessionRequired(CallerError):
    """A request of the page at `/ui` has no session, or its session has ended.

    A session ends after 8 hours, with a restart, when its caller signs out, and when its key ends or changes. One
    gatepass does not know the sessions of another.

    Action: Sign in again on the page.
    """

    code, status = "session_required", 401


class ForbiddenHost(CallerError):
    """The `Host` of the request is not a name of this gatepass.

    Without keys, gatepass accepts only loopback names; `/healthz`, `/readyz` and an open `/metrics` also accept an IP
    address of this machine. The page at `/ui` accepts addresses and the names of `server.ui_hosts`.

    Action: Set `access.keys`, or add the name to `server.ui_hosts` for the page.
    """

    code, status = "forbidden_host", 403


class ForbiddenOrigin(CallerError):
    """A web page called gatepass from a browser, and its origin is not allowed.

    The page sees only a network error. The reason is in the browser's console and in the access line. The page at `/ui`
    accepts only requests of its own origin: a proxy in front of gatepass must pass on `Host`.

    Action: Set `access.keys`, because without keys gatepass serves no page of another origin. Then add the origin to
    `server.cors_origins`.
    """

    code, status = "forbidden_origin", 403


class ForbiddenPeer(CallerError):
    """gatepass runs without keys in another application, and the request may come from another machine.

    Action: Set `access.keys`. docs/embedding.md#who-may-connect has the details.
    """

    code, status = "forbidden_peer", 403


class ModelNotAllowed(CallerError):
    """The key has a list of `models`, and the request names a model or a server beyond it.

    Another member of the body may name the model, a server or a credential: `access.keys[].models` lists these members.

    Action: Use another key, or add the model to `access.keys[].models`.
    """

    code, status = "model_not_allowed", 403


class OperationNotAllowed(CallerError):
    """The key does not open the operation, or the stored response that the request names.

    Files, batches and stored responses are closed to a key without `operations`, because the upstream stores those of
    all callers under one credential. A request names a stored response by `previous_response_id`, `conversation` or
    `prompt.id`.

    Action: Add the entry that the message names to `access.keys[].operations`. If the key has no such list, list all
    operations of its caller, because gatepass closes all others: docs/operations/keys.md#limit-the-operations-of-a-key.
    """

    code, status = "operation_not_allowed", 403


class McpNotAllowed(CallerError):
    """The key may not call the tool: its list of tools at `access.keys[].mcp` does not have it.

    Action: Use another key, or add the tool to `access.keys[].mcp`.
    """

    code, status = "mcp_not_allowed", 403


class RoleNotAllowed(CallerError):
    """The role of the key does not allow the request.

    Action: Call models with a key of the role `caller`, and read pages with a `viewer`; an `admin` does both.
    """

    code, status = "role_not_allowed", 403


class McpServerNotAllowed(CallerError):
    """The key may not use the MCP server.

    A key with `models` or `operations` and without `mcp` may use none.

    Action: Use another key, or add the server to `access.keys[].mcp`.
    """

    code, status = "mcp_server_not_allowed", 403


class McpSessionNotFound(CallerError):
    """The caller has not opened the MCP session that the request names, or its server does not know it any more.

    Another caller opened it, it was not used for 24 hours, or gatepass or the server was restarted. Several processes
    of gatepass share it only with a store.

    Action: None: MCP clients then initialize a new session.
    """

    code, status = "mcp_session_not_found", 404


class ModelNotFound(CallerError):
    """gatepass has no route for the model, or for a request of this operation without a model.

    A route is an entry of `models`, an upstream under `operations`, or the model `*`. Names are case-sensitive. With
    hop `upstream:…` it is the upstream's own: see `upstream_error`.

    Action: Correct the name in the client (`GET /v1/models` lists the names), or add the model to `models`. Without the
    entry `"*"`, each model needs its own. `gatepass check --route NAME` prints the route of a model.
    """

    code, status = "model_not_found", 404


class UnknownPath(CallerError):
    """gatepass does not serve the path.

    The base URL ends in `/chat/completions`, or is that of another server, such as `/api/v1`; or the path `/for/NAME`
    names an unknown profile. Below `/v1/messages` the status is 400, because Claude Code reports any 404 as an unknown
    model.

    Action: Use the base URL in the message, `http://HOST/v1`. Clients append the path of the operation themselves.
    """

    code, status = "unknown_path", 404


class MethodNotAllowed(CallerError):
    """The path exists with another method.

    Action: Use a method of the response header `allow`.
    """

    code, status = "method_not_allowed", 405

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class UnsupportedUpgrade(CallerError):
    """The client requests a WebSocket at a path that gatepass serves over HTTP only.

    Action: Switch WebSockets off in the client. Codex does so itself, see docs/clients/codex.md.
    """

    code, status = "unsupported_upgrade", 426


class PlainHttp(CallerError):
    """The client speaks HTTP without TLS to a gatepass with `server.tls`. gatepass closed the connection.

    The client receives no response. The log has the event `refused`.

    Action: Begin the client's base URL with `https`.
    """

    code = "plain_http"


class TlsHandshakeFailed(CallerError):
    """The TLS handshake with a client failed. The message contains the reason.

    The client receives no response. The log has the event `refused`.

    Action: If the client does not trust the certificate of gatepass, add its CA to the client.
    """

    code = "tls_handshake_failed"


class ReceiveTimeout(CallerError):
    """The head or the body of the request did not arrive in time.

    A client has 20 s for the head and for each next piece of the body. A body must arrive with 1 KiB per second on
    average, beyond the first 20 s.

    Action: Send the request again. If it often fails, look for a proxy on the way that holds requests back.
    """

    code, status, retryable = "receive_timeout", 408, True


class InvalidJson(CallerError):
    """The body is not one JSON object in UTF-8, or is nested deeper than 64.

    Action: Correct the client's request.
    """

    code = "invalid_json"


class InvalidRequest(CallerError):
    """The request is invalid or ambiguous. The message names the member or the header.

    For example, `model` or `stream` has a wrong type, a member appears twice or in another case (`Model`), or a number
    is too large (`1e999`).

    Action: Correct the client's request.
    """

    code = "invalid_request"


class InvalidImage(CallerError):
    """An entry of `images` is not an image, no user message can have it, or the upstream is RAGFlow and reads none.

    The message contains the index of the image. An entry is a text, or an object with `image_url`, `url`, `data` or
    `blob`, also inside `inline_data` or `source`.

    Action: Send a URL, a data URL, or base64 of a PNG, JPEG, GIF or WebP.
    """

    code = "invalid_image"
    actions: ClassVar[Mapping[str, str]] = {
        "ragflow_images": "Send only text, or set `upstreams.NAME.ragflow.images: drop`, which removes images."
    }


class BodyTooLarge(CallerError):
    """The request body exceeds `limits.body_bytes`, or a file exceeds 512 MiB.

    Action: Send less, or raise the limit.
    """

    code, status = "body_too_large", 413


class BodyTooComplex(CallerError):
    """A JSON body above 256 KiB has too many values, backslashes or members.

    - It has more than 500,000 values, counted as its commas and brackets outside of texts.
    - It has more than 6,000,000 backslashes, or more than 1,000 members at its top level.

    Action: Split the request.
    """

    code, status = "body_too_complex", 413


class UnsupportedEncoding(CallerError):
    """The request body is compressed.

    Action: Send the body uncompressed.
    """

    code, status = "unsupported_encoding", 415


class UnsupportedMediaType(CallerError):
    """gatepass runs without keys and the body is not JSON, or the operation requires a multipart form and received
    none.

    Action: Send the `content-type` that the message names.
    """

    code, status = "unsupported_media_type", 415


class HeadTooLarge(CallerError):
    """The request has more than 100 header fields, or more than 64 KiB of them.

    Action: Remove headers, such as cookies.
    """

    code, status = "head_too_large", 431


class UnsupportedTransferCoding(CallerError):
    """`Transfer-Encoding` is not exactly `chunked`.

    Action: Send the body with a content-length, or as `chunked`.
    """

    code, status = "unsupported_transfer_coding", 501


class UnsupportedVersion(CallerError):
    """The version in the request line is neither HTTP/1.1 nor HTTP/1.0.

    Action: Use HTTP/1.1.
    """

    code, status = "unsupported_version", 505


class GatewayError(GatepassError):
    """This process cannot serve the request."""

    hop = "gatepass"


class Overloaded(GatewayError):
    """Too many requests or too much memory are in use. The message names the limit.

    - `limits.connections` requests are in progress, or the body does not fit into `limits.held_bytes`. While several
      keys exist, no caller can use the last tenth of either.
    - `max_in_flight` requests of each upstream of the model are in progress, and `queue` more wait, or this one waited
      for `queue_s`.
    - All `max_connections` of an upstream stayed in use for `timeouts.connect_s`.

    gatepass sent nothing to the upstream.

    Action: Retry after `retry-after`; raise the limit if it happens often.
    """

    code, status, retryable = "overloaded", 503, True


class ConcurrencyLimited(GatewayError):
    """The caller, its group, the model or the upstream has `max_concurrent` requests in progress.

    Action: Retry after `retry-after`, or raise the limit.
    """

    code, status, retryable = "concurrency_limited", 429, True


class LimitReached(GatewayError):
    """A limit of use is reached. The message names the limit, whose it is, and when to retry. Nothing was sent.

    `gatepass limits` shows what each one uses.

    Action: Retry after `retry-after`, or raise the limit.
    """

    code, status, retryable = "limit_reached", 429, True


class TargetsLimited(GatewayError):
    """Every target of the model asked gatepass to wait, by a 429 or a 503 with `retry-after`. Nothing was sent.

    `gatepass status` shows the waits.

    Action: Retry after `retry-after`, or add a target with its own limit to `models.NAME.targets`.
    """

    code, status, retryable = "targets_limited", 429, True


class McpSessionsUnavailable(GatewayError):
    """Only the store can tell which caller opened the MCP session, and it does not reply.

    Action: Retry with the same session. If it persists, repair the store (`store` in `/status`).
    """

    code, status, retryable = "mcp_sessions_unavailable", 503, True


class Draining(GatewayError):
    """gatepass is stopping: the request is on a new connection, or its stream exceeded `server.drain_timeout_s`.

    Action: Retry; the load balancer should use another instance.
    """

    code, status, retryable = "draining", 503, True


class NotStarted(GatewayError):
    """The application that embeds gatepass does not run the lifespan of gatepass, or runs it in another event loop.

    Action: Enter the lifespan in the outer application, see docs/embedding.md#in-another-application.
    """

    code, status = "not_started", 500


class UnsupportedOperation(GatewayError):
    """`protocols` of the upstream or model excludes the path, and no chat can serve it; nothing was sent.

    These are `/v1/messages/count_tokens`, message batches, `/v1/responses/compact` and stored responses. Without `chat`
    in `protocols`, chats are among them too.

    Action: None for `/v1/messages/count_tokens`: Claude Code then estimates the tokens. For another path, set
    `operations.NAME.upstream` to an upstream that has it. If this upstream has it, correct `protocols`.
    """

    code, status = "unsupported_operation", 404


class InternalError(GatewayError):
    """A bug in gatepass. The log has a traceback in the event `request_failed`.

    Action: Search the log for the request id, and report the bug with the traceback.
    """

    code, status = "internal_error", 500


class TokenUnavailable(GatepassError):
    """The token source returned no valid token. The message contains the issuer's reason without secrets.

    gatepass tries again in the background. It serves again within 4 s after the issuer returns, or `timeout_s` if the
    issuer hung, see docs/concepts/token_life.md#a-failing-issuer. After a refusal, such as a wrong secret, it tries
    rarely, and at once when the file of the secret changes. It reads an environment variable only at start.

    Action: Run `gatepass token NAME`, which tests the credential alone. After a repair at the issuer, `gatepass reload`
    or `gatepass token --retry` fetches at once.
    """

    code, status, retryable = "token_unavailable", 503, True
    actions: ClassVar[Mapping[str, str]] = {
        "refused": "Correct `credentials.NAME.client_id`, `credentials.NAME.client_secret`,"
        " `credentials.NAME.client_auth`. A `file:` is read again by itself; the configuration requires"
        " `gatepass reload`, an environment variable a restart. Then `gatepass token NAME` tests the credential alone."
    }
    """What to do instead of the action above, by the case that `case_of` returns."""

    def __init__(self, message: str, *, credential: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.hop, self.credential = f"credential:{credential}", credential


class UpstreamError(GatepassError):
    """The upstream, or the connection to it, failed.

    - `sent` is False if no byte of the request was written.
    - `of_request`: the request may have caused the error, so the breaker of the target does not count it.
    """

    status, retryable = 502, True

    def __init__(
        self,
        message: str,
        *,
        upstream: str,
        sent: bool = True,
        param: str | None = None,
        retry_after_s: float | None = None,
        of_request: bool = False,
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)
        self.hop, self.sent, self.of_request = f"upstream:{upstream}", sent, of_request


class UpstreamConnect(UpstreamError):
    """No server listens at the address, a firewall blocks the connection, or a proxy refuses it.

    If the proxy answers 407, set `network.proxy_auth`; without a configuration file, `GATEPASS_PROXY` has the user and
    the password.

    Action: Check `base_url`, and whether that server is up.
    """

    code = "upstream_connect"
    actions: ClassVar[Mapping[str, str]] = {
        "proxy_refuses": "The proxy is up and refuses the connection. If it answered 407, set `network.proxy_auth`."
        " Otherwise ask its owner to allow this host and port, or avoid the proxy with `network.no_proxy: [HOST]`."
    }


class UpstreamDns(UpstreamError):
    """The host of `base_url` does not resolve.

    Action: Correct `base_url`, then run `gatepass reload`, in Compose `docker compose -f … up -d --force-recreate
    gatepass`. If it is right, check the DNS of this machine.
    """

    code = "upstream_dns"


class UpstreamTls(UpstreamError):
    """The TLS handshake with the upstream failed. The message names the likely cause.

    - The certificate has expired, or it is for another host name.
    - The CA is unknown. `network.ca_file` adds a CA to the system's trust store.
    - The port has no TLS, or the upstream requires a client certificate.

    Action: Set `network.ca_file` for a company's own CA.
    """

    code = "upstream_tls"


class UpstreamClosed(UpstreamError):
    """The connection closed before the answer was complete.

    In a stream, the error is the last event. It also ends a stream whose `[DONE]` arrives while a choice without a
    finish reason has no content, or has incomplete arguments, and any answer with a tool call whose arguments are no
    JSON.

    Action: Check the upstream's log and the timeouts of proxies. `gatepass doctor MODEL --call` tests a small call. If
    `base_url` begins with http://, the port may speak TLS: begin it with https:// then.
    """

    code = "upstream_closed"


class UpstreamInvalid(UpstreamError):
    """The upstream's reply is not a valid answer to the request, or is too large. The message names the fault.

    - It is not HTTP, not JSON or not a completion, or a choice has no message or text.
    - Embeddings are missing, empty, or differ in length from each other or from `dimensions`.
    - It exceeds `limits.reply_bytes`, or one of its events exceeds `limits.event_bytes`.
    - gatepass must convert it, and it exceeds 16 MiB or 2,000,000 values, or one of its events or vectors exceeds 1
      MiB.

    Action: Check that `base_url` is an OpenAI API and that `dialect` fits.
    """

    code, retryable = "upstream_invalid", False
    actions: ClassVar[Mapping[str, str]] = {
        "mcp_invalid": "If the message names a limit, check whether a setting raises it. Otherwise check that"
        " `mcp.NAME.url` is the endpoint of an MCP server.",
        "long_lines": "If the client reads long lines, give it the base URL `http://HOST/for/plain/v1`. Otherwise"
        " request the answer without a stream.",
        "too_large": "Request less in one answer. If the message names a setting of `limits`, raise it.",
    }


class UpstreamHtml(UpstreamError):
    """The upstream sent a web page instead of an answer: a login page, or a proxy's page for an error.

    At a login page, the credential did not reach the API, so gatepass renews the token once. The message contains the
    page's title. A status of 400 or above is kept; any other status becomes 502.

    Action: Check `credential` and `base_url`.
    """

    code, retryable = "upstream_html", False
    actions: ClassVar[Mapping[str, str]] = {
        "page_504": "A proxy in front of the upstream answered, because it stopped waiting for the upstream. Raise the"
        " timeout of that proxy: gatepass's `timeouts` do not help.",
        "page_5xx": "The upstream, or a proxy in front of it, answered with a page: the upstream is down, overloaded or"
        " has failed. Retry later, or ask the owner of the upstream.",
    }

    def __init__(self, message: str, *, upstream: str, status: int = UpstreamError.status) -> None:
        super().__init__(message, upstream=upstream)
        self.http_status = status


class UpstreamEmpty(UpstreamError):
    """The upstream returned a success without a body, a choice or a vector.

    Action: Retry. Check the upstream's log if it happens again. `gatepass doctor MODEL --call` tests a small call.
    """

    code = "upstream_empty"


class UpstreamRedirect(UpstreamError):
    """The upstream answered with a redirect, often to `https` or a login page. gatepass follows none.

    Action: Set `base_url` to the final URL.
    """

    code, retryable = "upstream_redirect", False

    def __init__(self, message: str, *, upstream: str, target: str | None = None) -> None:
        super().__init__(message, upstream=upstream)
        self.target = target
        """Used for classification only. It may contain a session, so it is neither logged nor sent to the client."""


class UpstreamTimeout(UpstreamError):
    """A timeout of the upstream passed.

    - `connect`: gatepass could not connect within `timeouts.connect_s`.
    - `first_byte`: the upstream began no reply within `timeouts.first_byte_s` of the request's last byte. For a large
      request, it may also mean that the upstream read nothing for that time.
    - `idle`: the upstream sent nothing for `timeouts.idle_s` in the middle of a reply.
    - `total`: the answer was not complete after `timeouts.total_s`.

    Action: Raise `upstreams.NAME.timeouts`, or check the upstream. Reasoning and long prompts take longer. `gatepass
    doctor MODEL --call` tests a small call. If `timeouts` is set under `models`, raise it there.
    """

    code, status = "upstream_timeout", 504
    actions_of_codes: ClassVar[Mapping[str, str]] = {
        "upstream_timeout_connect": "Check the host and port in `base_url`, a firewall between, and whether this"
        " network needs `network.proxy`. If the network is slow, raise `timeouts.connect_s`.",
        "upstream_timeout_idle": "Check the upstream first. `gatepass doctor MODEL --call` tests a small call. A model"
        " that pauses needs a higher `upstreams.NAME.timeouts`. If `timeouts` is set under `models`,"
        " raise it there.",
    }
    """What to do instead of the action above, by the code."""

    def __init__(self, message: str, *, upstream: str, phase: str, sent: bool = True) -> None:
        super().__init__(message, upstream=upstream, sent=sent)
        self.phase = phase

    @property
    def public_code(self) -> str:
        return f"{self.code}_{self.phase}"


_RELOAD = "run `gatepass reload`, in Compose `docker compose -f … up -d --force-recreate gatepass`"
_ANOTHER_UPSTREAM = (
    "set `operations.NAME.upstream` to an upstream that has it, as in"
    ' `{models: {"*": {upstream: NAME}}, operations: {rerank: {upstream: OTHER}}}`'
)


class UpstreamErrorReply(UpstreamError):
    """The upstream's own error, relayed with its status, code and message.

    `code` is the upstream's own if it sends one, and `upstream_error` otherwise. gatepass converts other error formats
    to OpenAI's; `error.upstream` has at most 4 KiB of the original.

    - An error inside an HTTP 200 gets the status of its code or meaning: RAGFlow's 102 becomes 400, or 404 if the text
      contains "not found". An unknown code becomes 502.
    - If the upstream refuses the content, as with `data_inspection_failed`, change the text or ask its owner.
    - If the account has no quota or credit, as with `insufficient_quota` or `Arrearage`, ask its owner for more. A
      retry does not help.

    Action: Follow the upstream's message. If it does not know the model, correct the name in the client, or set
    `models.NAME.name` to its name for it. `gatepass doctor MODEL` lists its names. If the model is listed under
    `models`, correct `models.NAME.upstream`.
    """

    code = "upstream_error"
    actions: ClassVar[Mapping[str, str]] = {
        "no_path": f"If every operation fails, correct `base_url`, then {_RELOAD}. If only this one fails,"
        f" {_ANOTHER_UPSTREAM}, then run `gatepass reload`. If the model is listed under `models`, correct"
        " `models.NAME.upstream`.",
        "no_api": f"If every operation fails, correct `base_url`, then {_RELOAD}. If the upstream has chat"
        " completions, set `upstreams.NAME.protocols: [chat]`: gatepass then serves this operation by them. Otherwise"
        f" {_ANOTHER_UPSTREAM}. Then run `gatepass reload`.",
        "no_chat": "Correct `base_url`: gatepass sent a chat for this request, and the upstream has none there. Then"
        f" {_RELOAD}.",
        "mcp_no_path": "Check `mcp.NAME.url`.",
        "too_long": "Shorten the prompt or the history, or use a model with a longer context.",
        "429": "Wait, or ask the owner of the upstream for a higher limit.",
        "5xx": "The upstream failed. If its message names nothing to correct, retry later, or send the message and the"
        " time of the request to the owner of the upstream. `gatepass doctor MODEL --call` tests a small call.",
    }

    def __init__(
        self,
        message: str,
        *,
        upstream: str,
        status: int,
        kind: str | None = None,
        upstream_code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        raw: Any = None,
        error_body: Any = None,
        of_request: bool = False,
    ) -> None:
        super().__init__(message, upstream=upstream, param=param, retry_after_s=retry_after_s, of_request=of_request)
        self.error_body = error_body
        """The UpstreamErrorBody before gatepass added to its message; rules are learned from it."""
        self.http_status = status
        self.kind, self.upstream_code = kind, upstream_code
        """The upstream's `type` and `code`."""
        self.raw = raw
        """The upstream's error object, size limited, if it has other members."""
        self.original = b""
        """The upstream's body, if the client receives it unchanged (`ClientProtocol.own_error`)."""

    @property
    def public_code(self) -> str:
        return self.upstream_code or self.code


_BY_NEW_KEY = "by one that this upstream issued and that has not been revoked"


class UpstreamAuth(UpstreamErrorReply):
    """The upstream rejects the credential, so a client's retry cannot succeed.

    The message names the credential or the place of the key, the token's age, and whether gatepass tried a second
    token. For a minute after the upstream rejected a new token, gatepass fetches no other one for it.

    Action: Correct what the message names. `gatepass doctor MODEL --call` makes one small call. After a correction, run
    `gatepass reload`. After a repair of the upstream or the issuer, run `gatepass token --retry`.
    """

    code, retryable = "upstream_auth", False
    actions: ClassVar[Mapping[str, str]] = {
        "static_key": f"Replace the key in `credentials.NAME.token` {_BY_NEW_KEY}, then run `gatepass reload`.",
        "header_key": f"Replace the key in `upstreams.NAME.headers.FIELD` {_BY_NEW_KEY}, then run `gatepass reload`.",
        "variable_key": f"Replace the key in the environment variable `VARIABLE` {_BY_NEW_KEY}, then restart gatepass.",
        "no_credential": "Set `upstreams.NAME.credential`.",
        "new_token": "Compare these settings with what the upstream requires: `credentials.NAME.scope`,"
        " `credentials.NAME.audience`, `upstreams.NAME.token_placement`. `gatepass token NAME` fetches a new token and"
        " shows its claims and where it is sent. After a correction, run `gatepass reload`. After a repair of the"
        " upstream or the issuer, run `gatepass token --retry`.",
    }
    """What to do instead of the action above, by the case that `case_of` returns. They also apply to a 403."""

    @property
    def public_code(self) -> str:
        return self.code


class Fault(StrEnum):
    """The kind of a connection failure, independent of the hop."""

    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    PROXY = "proxy"
    CLOSED = "closed"
    INVALID = "invalid"
    TOO_LARGE = "too_large"
    TIMEOUT_CONNECT = "timeout_connect"
    TIMEOUT_FIRST_BYTE = "timeout_first_byte"
    TIMEOUT_IDLE = "timeout_idle"
    TIMEOUT_POOL = "timeout_pool"


def system_reason(error: OSError) -> str:
    """Return the system's text of `error`, such as `connection refused`, without numbers and addresses."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    # an ssl.SSLError, whose numbers are those of OpenSSL; ssl is not imported here, because it loads slowly
    if tls_reason := getattr(error, "verify_message", None) or getattr(error, "reason", None):
        return str(tls_reason).replace("_", " ").lower()
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    # asyncio joins the errors of several addresses in one text. Those of getaddrinfo have negative numbers.
    numbers = map(int, re.findall(r"\[Errno ([0-9]+)\]", str(error)))
    return ", ".join(dict.fromkeys(map(os.strerror, numbers))).lower() or (error.strerror or str(error)).lower()


class TransportFault(Exception):
    """A connection failure, raised by the HTTP client.

    `sent`: a byte of the request may have been written. `stale`: a reused connection closed without a byte of a reply,
    so the server most likely never read the request. RFC 9112 (section 9.3.1) leaves the retry to the client.
    `limit_s`: the timeout that passed, if it is one.
    """

    def __init__(
        self, kind: Fault, detail: str, *, sent: bool = True, stale: bool = False, limit_s: float | None = None
    ) -> None:
        super().__init__(f"{kind.value}: {detail}")
        self.kind, self.detail = kind, detail
        self.sent, self.stale, self.limit_s = sent, stale, limit_s


class ClientGone(Exception):
    """The client closed its connection, so the work for its request is cancelled."""


_TIMEOUTS = frozenset(f"{UpstreamTimeout.code}_{phase}" for phase in ("connect", "first_byte", "idle", "total"))


def kind_of(code: str, hop: str = "") -> type[GatepassError]:
    """Return the class of an error. At an upstream, each code that gatepass has no error for is the upstream's own."""
    for kind in _kinds(UpstreamError if hop.startswith("upstream:") else GatepassError):
        if vars(kind).get("code") == code or (kind is UpstreamTimeout and code in _TIMEOUTS):
            return kind
    return UpstreamErrorReply


def stable_code(code: str, hop: str) -> str:
    """Return a code of docs/reference/errors.md: a closed set, in which an upstream's own code is `upstream_error`."""
    kind = kind_of(code, hop)
    return kind.code if kind is UpstreamErrorReply else code


def _kinds(base: type[GatepassError]) -> Iterator[type[GatepassError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)
