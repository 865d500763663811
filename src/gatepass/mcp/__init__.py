"""What gatepass knows of MCP (Model Context Protocol): messages, access by name, filtered replies, errors, headers.

It covers the revisions with a handshake, up to 2025-11-25, and 2026-07-28 without one. Every function is pure. Nothing
here is imported unless `mcp` is configured. Must not import `proxy` or anything above it.
"""
