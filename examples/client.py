"""A client of gatepass with the openai SDK: each step does one thing, checks the result and prints it.

    OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=key-of-the-client python examples/client.py --seconds 310

It knows one URL and one key. Tokens, other hosts and rejected parameters are gatepass's part.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import httpx2
import openai
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

CHAT_MODEL, EMBEDDINGS_MODEL = "demo-chat", "demo-embed"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGES = [f"data:image/png;base64,{PNG}", "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"]
"""A data URL and bare base64: clients send `images` in both forms."""


def check(condition: object, reason: str) -> None:
    if not condition:
        raise ValueError(reason)


def asking(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


def stream(client: OpenAI, _: float) -> None:
    """A streamed chat: each chunk arrives when the model sends it"""
    started_s, text, end, usage = time.monotonic(), "", None, None
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    for chunk in client.chat.completions.create(model=CHAT_MODEL, messages=asking("Is anybody there?"), **options):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            end = choice.finish_reason or end
            if choice.delta.content:
                text += choice.delta.content
                say(f"{time.monotonic() - started_s:5.2f} s  {choice.delta.content.strip()}")
    check(text.startswith('You said "Is anybody there?"'), f"the answer is another one: {text!r}")
    check(end == "stop", f"the stream ended with the finish reason {end}")
    check(usage, "the stream has no usage, although the client requested it")


def images(client: OpenAI, _: float) -> None:
    """A chat with `images` beside the messages, which the company's gateway rejects"""
    messages, strays = asking("What do you see?"), {"images": IMAGES}
    reply = client.chat.completions.with_raw_response.create(model=CHAT_MODEL, messages=messages, extra_body=strays)
    text = reply.parse().choices[0].message.content
    say(f"x-gatepass-adapted: {reply.headers.get('x-gatepass-adapted')}")
    say(f"the model: {text}")
    check(text == "I see 2 images: image/png, image/gif.", "the model did not see the images")


def embeddings(client: OpenAI, _: float) -> None:
    """Embeddings, from another host with another login"""
    reply = client.embeddings.create(model=EMBEDDINGS_MODEL, input=["the gate is open", "the cat sleeps"])
    vectors = [item.embedding for item in reply.data]
    check([item.index for item in reply.data] == [0, 1] and vectors[0] != vectors[1], f"not two vectors: {vectors}")
    say(f"{len(vectors)} vectors of {len(vectors[0])} numbers")


def tools(client: OpenAI, _: float) -> None:
    """A tool of an MCP server behind the same tokens"""
    params: dict[str, Any] = {"name": "count_words", "arguments": {"text": "one URL and one key"}}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {"Authorization": f"Bearer {client.api_key}", "Accept": "application/json, text/event-stream"}
    reply = httpx2.post(client.base_url.join("/mcp/tools"), json=call, headers=headers, timeout=30)
    say(f"count_words: {reply.text}")
    check(reply.is_success and reply.json()["result"]["content"][0]["text"] == "5 words", "the tool did not answer")


def renewal(client: OpenAI, seconds: float) -> None:
    """Chats for longer than a token lives"""
    ends_s, used = time.monotonic() + seconds, list[str | None]()
    while True:
        reply = client.chat.completions.create(model=CHAT_MODEL, messages=asking("Still there?"))
        if reply.system_fingerprint not in used:
            used.append(reply.system_fingerprint)
            say(f"answered, with token {used[-1]}")
        if (left_s := ends_s - time.monotonic()) <= 0:
            break
        time.sleep(min(left_s, 1.0))
    check(len(used) > 1 or not seconds, "one token served all chats: it lives longer, or was not replaced")


STEPS: tuple[Callable[[OpenAI, float], None], ...] = (stream, images, embeddings, tools, renewal)


def say(line: str) -> None:
    print(f"   {line}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0, help="how long to go on: longer than a token lives")
    options = parser.parse_args()
    client, failed = OpenAI(max_retries=0, timeout=30), list[str]()
    for number, step in enumerate(STEPS, start=1):
        print(f"\n{number}. {step.__doc__}", flush=True)
        try:
            step(client, options.seconds)
        except (ValueError, openai.OpenAIError, httpx2.HTTPError) as error:
            failed.append(step.__name__)
            say(f"{step.__name__}: FAILED - {error}")
        else:
            say(f"{step.__name__}: ok")
    print(f"\nFAILED: {', '.join(failed)}" if failed else "\nAll steps succeeded.", flush=True)
    return len(failed) and 1


if __name__ == "__main__":
    raise SystemExit(main())
