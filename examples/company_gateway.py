"""A company's LLM gateway: it accepts valid tokens of issuer.py alone, and rejects parameters that it does not know.

    python examples/company_gateway.py
    curl http://127.0.0.1:9002/v1/models -H "Authorization: Bearer TOKEN"

Its model echoes: an answer names the question and the images, so that a client sees what arrived.
"""

import argparse
import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

import jwt
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

SIGNING_KEY = "the-issuer-and-its-servers-share-this-key"
CHAT = frozenset(("model", "messages", "stream", "stream_options", "temperature", "max_tokens"))
EMBEDDINGS = frozenset(("model", "input", "encoding_format"))


def answer(messages: list[dict[str, Any]]) -> str:
    """Return what the model says: about the images of a conversation, or else about its last text."""
    text, types = "", list[str]()
    for message in messages:
        content = message["content"]
        parts: list[dict[str, Any]] = [{"text": content}] if isinstance(content, str) else content
        text = " ".join(part["text"] for part in parts if "text" in part)
        urls = [part["image_url"]["url"] for part in parts if "image_url" in part]
        types += [url.removeprefix("data:").partition(";")[0] for url in urls]
    if types:
        return f"I see {len(types)} images: {', '.join(types)}."
    return f'You said "{text}" and I answer word by word, each the moment it is made.'


def vector(text: str) -> list[float]:
    """Return eight numbers that depend on `text` alone, and that 32-bit floats represent exactly."""
    return [byte / 256 for byte in hashlib.sha256(text.encode()).digest()[:8]]


async def events(chunk: dict[str, Any], words: list[str], usage: Any, pace_s: float) -> AsyncIterator[str]:
    """Yield the events of a streamed chat, one for each word."""
    for delta in ({"role": "assistant"}, *({"content": word} for word in words), {}):
        choice = {"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}
        yield f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n"
        await asyncio.sleep(pace_s)
    if usage is not None:
        yield f"data: {json.dumps({**chunk, 'choices': [], 'usage': usage})}\n\n"
    yield "data: [DONE]\n\n"


def create_app(model: str, audience: str, pace_s: float = 0.12) -> FastAPI:
    """Serve `model` to tokens for `audience`, with `pace_s` seconds between the words of a stream."""

    def authenticate(bearer: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> str:
        """Return the start of the hash of a valid token, which identifies it without revealing it."""
        try:
            jwt.decode(bearer.credentials, SIGNING_KEY, ["HS256"], audience=audience)
        except jwt.ExpiredSignatureError:
            raise HTTPException(401, "The token has expired") from None
        except jwt.PyJWTError:
            raise HTTPException(401, "The token was not issued for this server") from None
        return hashlib.sha256(bearer.credentials.encode()).hexdigest()[:8]

    def check(body: dict[str, Any], known: frozenset[str]) -> None:
        """Refuse what a strict gateway refuses, in OpenAI's words."""
        if unknown := sorted(set(body) - known):
            raise HTTPException(400, f"Unrecognized request argument supplied: {', '.join(unknown)}")
        if body.get("model") != model:
            raise HTTPException(404, f"The model `{body.get('model')}` does not exist")

    app = FastAPI(dependencies=[Depends(authenticate)])

    @app.exception_handler(HTTPException)
    def refuse(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": {"message": error.detail, "type": "invalid_request_error"}}, error.status_code)

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": model, "object": "model"}]}

    @app.post("/v1/chat/completions")
    def chat(body: dict[str, Any], token: Annotated[str, Depends(authenticate)]) -> Response:
        check(body, CHAT)
        words = re.findall(r"\S+ ?", answer(body["messages"]))
        usage = {"prompt_tokens": 1, "completion_tokens": len(words), "total_tokens": 1 + len(words)}
        # `system_fingerprint` identifies the token, so that the client sees which one gatepass sent
        head = {"id": "chatcmpl-1", "created": 1, "model": model, "system_fingerprint": token}
        if not body.get("stream"):
            message = {"role": "assistant", "content": "".join(words)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
        chunk = {**head, "object": "chat.completion.chunk"}
        told = usage if (body.get("stream_options") or {}).get("include_usage") else None
        return StreamingResponse(events(chunk, words, told, pace_s), media_type="text/event-stream")

    @app.post("/v1/embeddings")
    def embeddings(body: dict[str, Any]) -> dict[str, Any]:
        check(body, EMBEDDINGS)
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        data = [{"object": "embedding", "index": at, "embedding": vector(text)} for at, text in enumerate(texts)]
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        return {"object": "list", "data": data, "model": model, "usage": usage}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9002)
    parser.add_argument("--model", default="demo-chat", help="also the audience of its tokens (default: %(default)s)")
    options = parser.parse_args()
    uvicorn.run(create_app(options.model, options.model), port=options.port, log_level="warning")
