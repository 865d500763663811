"""The request path: from a received request to its relayed reply and its access log line.

Start with `handler.handle`, then `attempt.try_call`, `response.classify` and `relay.relay`.
`context` holds the state of one request, `app_state` everything that is made from one configuration.
This package must not import `gatepass.server` or `gatepass.cli`: a server calls `handle` with its RequestCycle.
"""
