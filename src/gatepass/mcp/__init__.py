"""The relay to MCP (Model Context Protocol) servers: `exchange` serves a request with the parts of `proxy`.

It covers the revisions with a handshake, up to 2025-11-25, and 2026-07-28 without one. `message` and `access` are pure,
`servers` holds the sessions. Nothing here is imported unless `mcp` is configured. Must not import `server` or `cli`.
"""
