"""A forwarder of FastAPI and httpx with every switch set for speed: raw routes, raw bytes, no limit of the pool."""

from __future__ import annotations

import os

import httpx2
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

HOP_BY_HOP = frozenset((b"connection", b"transfer-encoding", b"keep-alive"))

client = httpx2.AsyncClient(
    limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=60),
    timeout=httpx2.Timeout(600, connect=5),
    trust_env=False,
    headers={"accept-encoding": "identity"},
)
upstream = httpx2.URL(os.environ["UPSTREAM_URL"])
headers = [(b"authorization", b"Bearer upstream-token"), (b"content-type", b"application/json")]


async def forward(request: Request) -> Response:
    url = upstream.copy_with(raw_path=request.url.path.encode())
    reply = await client.send(
        client.build_request("POST", url, content=await request.body(), headers=headers), stream=True
    )
    kept = [(name.lower(), value) for name, value in reply.headers.raw if name.lower() not in HOP_BY_HOP]
    answer = _stream(reply) if reply.headers.get("content-type", "").startswith("text/event-stream") else None
    if answer is None:
        try:
            answer = Response(b"".join([piece async for piece in reply.aiter_raw()]), reply.status_code)
        finally:
            await reply.aclose()
    answer.raw_headers = kept
    return answer


def _stream(reply: httpx2.Response) -> StreamingResponse:
    async def events():
        try:
            async for piece in reply.aiter_raw():
                yield piece
        finally:
            await reply.aclose()

    return StreamingResponse(events(), reply.status_code)


app = FastAPI(routes=[Route("/v1/{path:path}", forward, methods=["POST"])], openapi_url=None)
