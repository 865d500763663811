"""The usual forwarder of examples: FastAPI, httpx and a StreamingResponse, library defaults."""

from __future__ import annotations

import os

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

OUR_OWN = {"connection", "transfer-encoding", "content-encoding", "content-length"}

client = httpx.AsyncClient(base_url=os.environ["UPSTREAM_URL"], timeout=None)  # noqa: S113 - answers take long
app = FastAPI()


@app.post("/v1/{path:path}")
async def forward(path: str, request: Request) -> StreamingResponse:
    headers = {"authorization": "Bearer upstream-token", "content-type": "application/json"}
    forwarded = client.build_request("POST", "/" + path, content=await request.body(), headers=headers)
    reply = await client.send(forwarded, stream=True)
    return StreamingResponse(
        reply.aiter_bytes(),
        status_code=reply.status_code,
        headers={name: value for name, value in reply.headers.items() if name not in OUR_OWN},
        background=BackgroundTask(reply.aclose),
    )
