"""What the hosts printed at each fault, as the page of each one shows it. `PORT` is a port or a number of a request."""

from collections.abc import Mapping

_ADDRESS = "127.0.0.1:PORT"
_UPSTREAM = f'The upstream "up" ({_ADDRESS})'
REFUSED = f"{_UPSTREAM} does not accept the credential that gatepass sends: The token was revoked."
KEY = "The API key is not known to gatepass. Check the client's API key setting."
DIED = (
    f"{_ADDRESS} closed the connection before its reply was complete; whether it did the work is unknown. Try again "
    "where that does no harm."
)
LOGIN = (
    f'{_UPSTREAM} answered 200 OK with an HTML page titled "Sign in" instead of JSON, probably a login page or a '
    "portal."
)
RAGFLOW = (
    "You don't own the chat 7c1d. The owner of this token has no such assistant in RAGFlow: set `name` of this model "
    "under `models` to its id, or to agent:ID for an agent."
)
LIMITED = "Rate limit reached for this team."

PRINTED: Mapping[str, Mapping[str, str]] = {
    "Claude Code": {
        "refused": f"Failed to authenticate. API Error: 401 {REFUSED}",
        "key": f"Failed to authenticate. API Error: 401 {KEY}",
        "overflow": "Prompt is too long · the request is ~208310 tokens (limit 200000)",
        "dies": f"API Error: 502 {DIED}",
        "limited": "All is well.",
        "busy": f"API Error: Request rejected (429) · {LIMITED}",
        "login": f"API Error: 502 {LOGIN}",
        "chat_refused": f"Failed to authenticate. API Error: 401 {REFUSED}",
        "chat_overflow": "Prompt is too long · the provider said: This model's maximum context length is",
        "chat_dies": f"API Error: 502 {DIED}",
        "chat_limited": "All is well.",
        "chat_ragflow": f"API Error: 400 {RAGFLOW}",
    },
    "Codex": {
        "refused": f"ERROR: unexpected status 401 Unauthorized: {REFUSED}",
        "key": f"ERROR: unexpected status 401 Unauthorized: {KEY}",
        "overflow": "ERROR: Codex ran out of room in the model's context window.",
        "dies": f"ERROR: stream disconnected before completion: {DIED}",
        "limited": "All is well.",
        "busy": "ERROR: exceeded retry limit, last status: 429 Too Many Requests",
        "login": f"ERROR: unexpected status 502 Bad Gateway: {LOGIN}",
        "chat_refused": f"ERROR: unexpected status 401 Unauthorized: {REFUSED}",
        "chat_overflow": "ERROR: Codex ran out of room in the model's context window.",
        "chat_dies": f"ERROR: stream disconnected before completion: {DIED}",
        "chat_limited": "All is well.",
        "chat_ragflow": f"ERROR: unexpected status 404 Not Found: {RAGFLOW}",
    },
}
