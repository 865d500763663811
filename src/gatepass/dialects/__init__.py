"""The protocols of upstreams: encode a call as a request, check a reply, read an error. Pure: no I/O.

`base` has `Dialect` (OpenAI) and the header lists, `azure` and `ragflow` override what differs. `reply_check` decides
whether a reply is an error, and `hints` adds advice to a message. `replies` reads what it says.
The package must not import `proxy`, `server`, `normalize`, `sse` or `tokens`.
"""
