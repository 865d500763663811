"""Clients of MCP call a server of the official SDK through gatepass: both eras, in Python and TypeScript."""
