"""Example messages of docs/reference/errors.md. tests/docs/test_errors.py finds the text of each in the code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gatepass.config.network import TimeoutSettings
from gatepass.errors import Fault, TransportFault
from gatepass.proxy.upstream_call import total_timeout, upstream_error

TIMEOUTS = TimeoutSettings().value("upstreams.chat")
HOST = "https://llm.corp.example/v1"
FAULTS: Mapping[str, TransportFault] = {
    "upstream_connect": TransportFault(Fault.CONNECT, "connection refused"),
    "upstream_dns": TransportFault(Fault.DNS, "Name or service not known"),
    "upstream_tls": TransportFault(Fault.TLS, "certificate has expired"),
    "upstream_closed": TransportFault(Fault.CLOSED, ""),
    "upstream_timeout_connect": TransportFault(Fault.TIMEOUT_CONNECT, "", limit_s=5),
    "upstream_timeout_first_byte": TransportFault(Fault.TIMEOUT_FIRST_BYTE, "", limit_s=600),
    "upstream_timeout_idle": TransportFault(Fault.TIMEOUT_IDLE, "", limit_s=300),
}
MESSAGES: Mapping[str, str] = {
    "invalid_api_key": "The API key is not known to gatepass. Check the client's API key setting.",
    "session_required": "The session has ended, or another gatepass than gateway-2 made it. Sign in again.",
    "forbidden_host": "Without keys gatepass serves only requests to localhost. Set access.keys (see `gatepass keys"
    " new`) to serve others.",
    "forbidden_origin": "CORS: without keys gatepass does not serve pages of other origins, such as"
    " 'https://chat.corp.example'. Set access.keys, and add that origin to profiles.NAME.cors_origins.",
    "forbidden_peer": "Without keys gatepass serves only clients on the same machine. This client is at 10.0.0.7. Set"
    " access.keys (see `gatepass keys new`) to serve others.",
    "model_not_allowed": "The caller 'ragflow' may not use the model 'gpt-4o'.",
    "operation_not_allowed": "The caller 'ragflow' may not use GET files, because the upstream stores the objects of"
    " all callers under one credential. List all that the caller uses in access.keys[].operations, such as [chat,"
    ' models, "GET files"]. Everything else is then closed.',
    "mcp_not_allowed": "This key may not use the tool 'delete_page'. Use another key, or add the tool to"
    " access.keys[].mcp.",
    "role_not_allowed": "The caller 'ragflow' may not read /metrics, because its key has the role caller. Use a key"
    " with the role viewer or admin (`gatepass keys new --role viewer`).",
    "mcp_server_not_allowed": "The key of 'ragflow' may not use the MCP server 'search', because its `mcp` does not"
    " list it. This key may use: /mcp/tools.",
    "mcp_session_not_found": "This caller has no such session. Initialize a new one.",
    "mcp_sessions_unavailable": "The store does not say whose session this is. Retry with the same session.",
    "model_not_found": "The model 'gpt-5' is not configured. Configured: gpt-4o. Correct the name, or add it under"
    ' `models` in the gatepass configuration, or add `"*": {upstream: NAME}` there for all other models.',
    "unknown_path": "No operation has the path /api/v1/models. The base URL is http://localhost:8080/v1. The base URL"
    " of this client seems to end in /api/v1.",
    "method_not_allowed": "GET is not possible at /v1/chat/completions; use POST.",
    "unsupported_upgrade": "gatepass does not support WebSockets. Send the request with POST to /v1/responses.",
    "plain_http": "The client speaks plain HTTP, and gatepass requires TLS. Begin its base URL with https://.",
    "tls_handshake_failed": "The client certificate is not valid: certificate has expired.",
    "receive_timeout": "The request body was not complete after 20 s (limits.receive_s).",
    "invalid_json": "The body is empty. Send a JSON object.",
    "invalid_request": "`stream` must be true, false or null.",
    "invalid_image": "images requires a user message, and `messages` has none.",
    "mcp_header_mismatch": "The header mcp-name differs from the body. Send the same in both.",
    "body_too_large": "The request body is larger than 33554432 bytes (limits.body_bytes).",
    "body_too_complex": "The body has more than 500000 commas and brackets outside of its texts (limits.body_values)."
    " Send less structure in one request.",
    "unsupported_encoding": "gatepass does not read a body with content-encoding 'gzip'. Send it plain.",
    "unsupported_media_type": "Send the body as `content-type: application/json`.",
    "head_too_large": "The request has more than 100 header fields.",
    "unsupported_transfer_coding": "The request's Transfer-Encoding is not `chunked`. Send the body with a"
    " Content-Length, or as `chunked`.",
    "unsupported_version": "The version in the request line is not HTTP/1.1 or HTTP/1.0.",
    "overloaded": "The limit of 4000 requests in flight is reached (limits.connections).",
    "concurrency_limited": "The caller 'ragflow' has reached its limit of 8 concurrent requests"
    " (access.keys[].limits.max_concurrent). Retry when one of them has ended.",
    "limit_reached": "The group 'imports' has used its limit of 100000 tokens per minute"
    " (access.groups.NAME.limits.tokens.minute). Retry in 12 s.",
    "limits_unavailable": "The store that counts the limits does not reply (`store.on_store_failure` is `reject`).",
    "targets_limited": "Every target of the model 'gpt-4o' asked to wait, for at least 12 s.",
    "targets_drained": "Every target of the model 'gpt-4o' is drained by the operator (`gatepass target`).",
    "draining": "gatepass is stopping. Retry the request: another instance can serve it.",
    "not_started": "gatepass was not started: its lifespan is not running. Enter its lifespan in the event loop that"
    " serves the requests.",
    "unsupported_operation": "The upstream 'chat' has no /messages/count_tokens: it has chat alone (`protocols`)."
    " Nothing was sent.",
    "internal_error": "Internal error while handling the request. Search the gatepass log for `request_failed`.",
    "token_unavailable": "no token for credential corp: no connection to sso.corp.example (connection refused). Check"
    " the host and port in credentials.corp.token_url, whether it is up, and whether this network needs"
    " network.proxy; next attempt in 3 s",
    "upstream_invalid": "The upstream's answer is larger than limits.reply_bytes.",
    "upstream_html": 'The upstream "chat" (llm.corp.example) answered 200 OK with an HTML page titled "Sign in"'
    " instead of JSON, which is invalid as a reply: a login page or a portal is in front of it. Check"
    " upstreams.chat.base_url and its credential.",
    "upstream_empty": 'The upstream "chat" (llm.corp.example) answered 200 OK with an empty body.',
    "upstream_redirect": 'The upstream "chat" (llm.corp.example) answered 302 Found, a redirect to sso.corp.example,'
    " which is invalid as a reply: gatepass does not follow redirects. Check upstreams.chat.base_url (https instead of"
    " http, the whole path) and whether a login page is in front of it.",
    "upstream_timeout_total": total_timeout("chat", replace(TIMEOUTS, total_s=600)).message,
    "upstream_auth": 'The upstream "chat" (llm.corp.example) does not accept the credential that gatepass sends: Token'
    " has expired. Tried with the token of the credential 'corp', and once more with a new one, fetched 5 s ago."
    " Compare these settings with what this upstream requires: credentials.corp.scope, credentials.corp.audience,"
    " upstreams.chat.token_placement. `gatepass token corp` fetches a new token and shows its claims and where it is"
    " sent. `gatepass doctor gpt-4o --call` tries it.",
    "upstream_error": "The model `gpt-5` does not exist.",
    **{code: upstream_error(fault, "chat", HOST, TIMEOUTS).message for code, fault in FAULTS.items()},
}
