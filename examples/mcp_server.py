"""An MCP server behind the company's tokens: Streamable HTTP without sessions, and one tool.

python examples/mcp_server.py
gatepass doctor --config examples/gatepass.yaml
"""

import argparse
from typing import Annotated, Any

import jwt
import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

SIGNING_KEY = "the-issuer-and-its-servers-share-this-key"
AUDIENCE = "demo-chat"
REVISION = "2025-06-18"
COUNT_WORDS = {
    "name": "count_words",
    "description": "Count the words of a text.",
    "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
}
METHOD_NOT_FOUND = -32601
"""An error code of JSON-RPC 2.0."""


def authenticate(bearer: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> None:
    """Refuse a token that has expired, or that was issued for another server."""
    try:
        jwt.decode(bearer.credentials, SIGNING_KEY, ["HS256"], audience=AUDIENCE)
    except jwt.PyJWTError as error:
        raise HTTPException(401, str(error), {"WWW-Authenticate": 'Bearer error="invalid_token"'}) from None


app = FastAPI(dependencies=[Depends(authenticate)])


@app.post("/mcp")
def receive(message: dict[str, Any]) -> Response:
    """Answer one message of JSON-RPC. A server without sessions may answer each with JSON instead of a stream."""
    if "id" not in message:  # a notification
        return Response(status_code=202)
    answer = {"jsonrpc": "2.0", "id": message["id"]}
    match message["method"]:
        case "initialize":
            about = {"serverInfo": {"name": "example", "version": "1"}, "capabilities": {"tools": {}}}
            return JSONResponse({**answer, "result": {"protocolVersion": REVISION, **about}})
        case "tools/list":
            return JSONResponse({**answer, "result": {"tools": [COUNT_WORDS]}})
        case "tools/call" if message["params"]["name"] == "count_words":
            count = len(message["params"]["arguments"]["text"].split())
            return JSONResponse({**answer, "result": {"content": [{"type": "text", "text": f"{count} words"}]}})
        case method:
            return JSONResponse({**answer, "error": {"code": METHOD_NOT_FOUND, "message": f"unknown: {method}"}})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9004)
    uvicorn.run(app, port=parser.parse_args().port, log_level="warning")
