"""An MCP server over stdio with one tool."""

from harness import add
from mcp.server import MCPServer

server = MCPServer("adding", log_level="WARNING")
server.tool()(add)

if __name__ == "__main__":
    server.run("stdio")
