"""A real MCP server over stdio, with one tool."""

from __future__ import annotations

from mcp.server import MCPServer  # type: ignore[import-not-found] # in the environment of the Agents SDK
from trial import add  # type: ignore[import-not-found] # beside this script

server = MCPServer("adding", log_level="WARNING")
server.tool()(add)

if __name__ == "__main__":
    server.run("stdio")
