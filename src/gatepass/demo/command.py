"""`gatepass demo`: show the main features on this machine, without a network.

Each step does one thing with the real `openai` client and checks the result. A signal ends the demo in good order.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import click
import openai
from openai import AsyncOpenAI

from gatepass.demo.servers import (
    CHAT_MODEL,
    EMBEDDINGS_MODEL,
    DemoServers,
    IssuedToken,
    answer,
    demo_servers,
    secrets_in_files,
    vector,
)

# one pixel each, so that the request stays readable
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGES = [f"data:image/png;base64,{PNG}", "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"]
"""A data URL and bare base64: clients send `images` in both forms."""

Say = Callable[[str], object]


class StepFailed(Exception):
    """A step did not see what it should have seen."""


async def play(demo_servers: DemoServers, print_line: Say) -> bool:
    """Run every step and print its result; return whether all succeeded. Later steps run after a failed one too."""
    failed = []
    async with _client(f"{demo_servers.gateway_url}/v1", demo_servers.key) as client:
        for number, (name, (title, step)) in enumerate(STEPS.items(), start=1):
            print_line(f"\n{number}. {title}")
            try:
                await step(demo_servers, client, print_line)
            except (StepFailed, openai.OpenAIError) as error:
                print_line(f"   {name}: FAILED - {error}")
                failed.append(name)
            else:
                print_line(f"   {name}: ok")
    print_line(f"\nFAILED: {', '.join(failed)}" if failed else "\nAll steps succeeded.")
    return not failed


def _check(condition: object, reason: str) -> None:
    if not condition:
        raise StepFailed(reason)


@asynccontextmanager
async def _client(base_url: str, key: str) -> AsyncIterator[AsyncOpenAI]:
    """Open a client without retries, so that every failure is visible, and without the environment's proxy."""
    async with openai.DefaultAsyncHttpxClient(trust_env=False) as http:
        yield AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=30.0, http_client=http)


async def streamed_chat(demo_servers: DemoServers, client: AsyncOpenAI, print_line: Say) -> None:
    question = "Is anybody there?"
    started = time.monotonic()
    text, ends, usage, moments = "", [], None, []
    stream = await client.chat.completions.create(
        model=CHAT_MODEL, messages=_asking(question), stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            ends += [choice.finish_reason] if choice.finish_reason else []
            if choice.delta.content:
                moments.append(time.monotonic() - started)
                text += choice.delta.content
                print_line(f"   {moments[-1]:5.2f} s  {choice.delta.content.strip()}")
    _check(text == answer(question, []), f"the answer is not the model's: {text!r}")
    _check(ends == ["stop"], f"the stream does not end with one finish reason `stop`: {ends}")
    _check(usage is not None, "the stream has no usage, although the client requested it")
    spread, made_in = moments[-1] - moments[0], demo_servers.chat.pace_s * (len(moments) - 1)
    # Half of the time suffices as proof: buffered chunks would arrive within a few milliseconds.
    _check(spread > made_in / 2, f"{len(moments)} chunks came within {spread:.2f} s, made in {made_in:.2f} s")
    print_line(f"   {len(moments)} chunks, each passed on at once")


async def stray_images(demo_servers: DemoServers, client: AsyncOpenAI, print_line: Say) -> None:
    question, strays = _asking("What is on them?"), {"images": IMAGES}
    try:
        await _directly(demo_servers, _token(demo_servers, -1), question, extra_body=strays)
    except openai.BadRequestError as error:
        print_line(f"   the model server rejects `images`: {error.status_code} {_words(error)}")
    else:
        raise StepFailed("the model server accepted an unknown member")
    raw = await client.chat.completions.with_raw_response.create(model=CHAT_MODEL, messages=question, extra_body=strays)
    text, adapted = raw.parse().choices[0].message.content, raw.headers.get("x-gatepass-adapted", "")
    print_line(f"   through gatepass: x-gatepass-adapted: {adapted}")
    print_line(f"   the model: {text}")
    expected = answer("What is on them?", ["image/png", "image/gif"])
    _check(text == expected, f"the model's answer is not the expected one: {expected}")
    _check("images" in adapted, "x-gatepass-adapted does not name the moved images")


async def embeddings(demo_servers: DemoServers, client: AsyncOpenAI, print_line: Say) -> None:
    texts = ["the gate is open", "the cat sleeps"]
    expected = [vector(text) for text in texts]
    reply = await client.embeddings.create(model=EMBEDDINGS_MODEL, input=texts)
    _check([item.embedding for item in reply.data] == expected, "the vectors are not those of the texts")
    token = demo_servers.embeddings.fingerprints[-1]
    # the logins of the upstreams differ, so a token of the other upstream would be a leak
    others = {minted.fingerprint for minted in demo_servers.issuer.minted if minted.audience == "chat"}
    _check(token not in others, "the embeddings server received a token for the chat")
    print_line(
        f"   {len(texts)} vectors of {len(expected[0])} numbers from {demo_servers.embeddings_url}, with token {token}"
    )


async def renewal(demo_servers: DemoServers, client: AsyncOpenAI, print_line: Say) -> None:
    question = "Are you still there?"
    first = _token(demo_servers, 0)
    print_line(f"   no request is sent until the first token ({first.fingerprint}) has expired")
    await _outlive(first, print_line)
    reply = await client.chat.completions.create(model=CHAT_MODEL, messages=_asking(question))
    text = reply.choices[0].message.content
    _check(text == answer(question, []), f"the answer is not the model's: {text!r}")
    used = demo_servers.chat.fingerprints[-1]
    _check(used != first.fingerprint, "the model server accepted the expired token")
    # by the times of the issuer, which does not know when gatepass wanted a token
    ahead = first.expires_at - _token(demo_servers, 1).issued_at
    _check(ahead > 0, f"the second token was fetched {-ahead:.1f} s after the first had expired")
    _check(not demo_servers.chat.refused, f"the model server rejected tokens: {demo_servers.chat.refused}")
    print_line(
        f"   answered at once, with token {used}; gatepass replaced the first token {ahead:.1f} s before its end"
    )


async def stale_check(demo_servers: DemoServers, _: AsyncOpenAI, print_line: Say) -> None:
    first = _token(demo_servers, 0)
    await _outlive(first, print_line)
    try:
        await _directly(demo_servers, first, _asking("Do you know me?"))
    except openai.AuthenticationError as error:
        print_line(f"   the model server rejects {first.fingerprint}: {error.status_code} {_words(error)}")
        _check(
            _words(error) == "The token has expired",
            "the model server rejected the token for another reason than its age",
        )
    else:
        raise StepFailed(f"the model server accepted the expired token {first.fingerprint}")


async def _directly(demo_servers: DemoServers, token: IssuedToken, messages: list[Any], **more: Any) -> None:
    """Send a chat to the model server without gatepass."""
    async with _client(f"{demo_servers.chat_url}/v1", token.token) as client:
        await client.chat.completions.create(model=CHAT_MODEL, messages=messages, **more)


async def _outlive(token: IssuedToken, print_line: Say) -> None:
    while (left := token.expires_at - time.time()) > 0:
        print_line(f"   ... {left:4.1f} s left")
        await asyncio.sleep(min(left + 0.05, 4.0))  # a line every four seconds shows that the demo continues


def _token(demo_servers: DemoServers, index: int) -> IssuedToken:
    """Return one of the chat's tokens, in the order in which gatepass fetched them."""
    minted = [minted for minted in demo_servers.issuer.minted if minted.audience == "chat"]
    _check(minted[index:], f"of the chat's tokens gatepass has fetched {len(minted)}, which is too few")
    return minted[index]


def _asking(text: str) -> Any:
    return [{"role": "user", "content": text}]


def _words(error: openai.APIStatusError) -> str:
    return str(error.body.get("message", error.message)) if isinstance(error.body, dict) else error.message


STEPS: dict[str, tuple[str, Callable[[DemoServers, AsyncOpenAI, Say], Awaitable[None]]]] = {
    "stream": ("A streamed chat: each chunk arrives when the model sends it", streamed_chat),
    "images": ("A chat with `images` beside the messages, which the model server rejects", stray_images),
    "embeddings": ("Embeddings, from another host with another login", embeddings),
    "renewal": ("A chat after the first token has expired", renewal),
    "stale-check": ("The expired token, sent to the model server directly", stale_check),
}

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Printer:
    """Print through `out`, with every known secret replaced by `(hidden)`."""

    def __init__(self, out: Callable[[str], object], secrets: set[str]) -> None:
        self._out = out
        self._secrets = secrets
        self._last: dict[str, IssuedToken] = {}

    def __call__(self, line: str) -> None:
        # a line may quote a reply, and a reply may quote a token
        for secret in self._secrets:
            line = line.replace(secret, "(hidden)")
        self._out(line)

    def minted(self, token: IssuedToken) -> None:
        """Print the fingerprint of a new token, and how long before the end of the last one it came."""
        self._secrets.add(token.token)
        before, self._last[token.audience] = self._last.get(token.audience), token
        life = f"for {token.audience}: {token.fingerprint}, lives {token.expires_at - token.issued_at:.1f} s"
        if before is None:
            self(f"   * token minted {life}")
        else:
            left_s = before.expires_at - token.issued_at
            self(f"   * token refreshed {life}; {left_s:.1f} s before the end of {before.fingerprint}")


async def show(out: Callable[[str], object], *, once: bool, lifetime_s: float) -> int:
    """Run all steps; without `once`, serve until a signal. Return the exit code: 0 if every step succeeded."""
    right = asyncio.Event()
    try:
        tempfile.gettempdir()
    except FileNotFoundError:  # a read-only root
        raise click.ClickException(NO_TEMPORARY_FILES) from None
    with secrets_in_files() as (folder, secret_of):
        printer = Printer(out, set(secret_of.values()))

        async def run() -> None:
            printer(
                "Starting a token issuer, two model servers and gatepass, each on a free port of this machine."
                f" The demo takes {lifetime_s + OTHER_STEPS_S:.0f} seconds."
            )
            async with demo_servers(folder, secret_of, printer.minted, lifetime_s) as running:
                printer(INTRODUCTION.format(running, lifetime_s=lifetime_s))
                if await play(running, printer):
                    right.set()
                    if not once:
                        printer(INVITATION.format(running, model=CHAT_MODEL))
                        # until a signal cancels it
                        await asyncio.Event().wait()

        was_ended = await _ended_by_signal(run())
    if right.is_set():
        printer("\nThe demo has stopped its servers and removed its files.")
    elif was_ended:
        printer("\nEnded before the last step.")
    return 0 if right.is_set() else 1


async def _ended_by_signal(work: Coroutine[Any, Any, None]) -> bool:
    """Await `work`, which the first signal cancels; later signals change nothing."""
    task, loop, signalled = asyncio.create_task(work), asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        if not signalled.is_set():
            signalled.set()
            task.cancel()

    # Handlers instead of KeyboardInterrupt, so that the servers stop and the files with secrets are removed.
    for number in SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        await asyncio.wait({task})
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
    if not task.cancelled():
        task.result()
    return task.cancelled()


OTHER_STEPS_S = 5
"""The time of all steps but the wait for the end of a token."""
NO_TEMPORARY_FILES = (
    "The demo writes its secrets into temporary files, and no folder for them can be written. In a read-only container"
    " add --tmpfs /tmp."
)

INTRODUCTION = """
   issuer         {0.issuer_url}   tokens live {lifetime_s:.0f} s
   model server   {0.chat_url}   rejects expired tokens and unknown parameters
   embeddings     {0.embeddings_url}   another host, another login
   gatepass       {0.gateway_url}   the client has one URL and one key for both"""

INVITATION = """
Still up. Try it from another terminal, and again in a minute; Ctrl-C ends it:

curl -N {0.gateway_url}/v1/chat/completions \\
  -H "Authorization: Bearer $(cat {0.folder}/key)" -H "Content-Type: application/json" \\
  -d '{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "Hi"}}]}}'

Its configuration is {0.folder}/gatepass.yaml
"""


@click.command()
@click.option("--once", is_flag=True, help="End after the last step. Exit code 0 if every step succeeded.")
@click.option("--life", "lifetime_s", type=click.FloatRange(min=3), default=20, hidden=True)
def demo(once: bool, lifetime_s: float) -> None:
    """Run an issuer, two model servers, gatepass and a real client on this machine, and show the main features."""
    logging.getLogger("gatepass").addHandler(logging.NullHandler())  # keeps log lines out of the steps
    sys.exit(asyncio.run(show(click.echo, once=once, lifetime_s=lifetime_s)))
