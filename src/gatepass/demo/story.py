"""The demo's steps, told through the real `openai` client: each does one thing and checks what came of it."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import openai
from openai import AsyncOpenAI

from gatepass.demo.answer import Understood, answer
from gatepass.demo.signing import Distrust, Minted
from gatepass.demo.stage import CHAT_MODEL, EMBEDDINGS_MODEL, Stage
from gatepass.demo.vectors import vector

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
IMAGES = [f"data:image/png;base64,{base64.b64encode(PNG).decode()}", base64.b64encode(GIF).decode()]
"""One as a data URL, one as bare base64, as RAGFlow and Ollama's friends send them."""

Say = Callable[[str], object]


class StepFailed(Exception):
    """What a step saw is not what it should have seen; the text says what."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What every step has at hand: the stage, one client in front of gatepass, and a voice."""

    stage: Stage
    client: AsyncOpenAI
    say: Say


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    title: str
    play: Callable[[Scene], Awaitable[None]]


async def tell(stage: Stage, say: Say) -> bool:
    """Play every step, each with its verdict; True only if all were right. A failed step stops no later one."""
    failed = []
    async with _client(f"{stage.gateway.url}/v1", stage.key()) as client:
        for number, step in enumerate(STEPS, start=1):
            say(f"\n{number}. {step.title}")
            reason = await _outcome(step, Scene(stage, client, say))
            say(f"   {step.name}: ok" if reason is None else f"   {step.name}: FAILED - {reason}")
            if reason is not None:
                failed.append(step.name)
    say(f"\nFAILED: {', '.join(failed)}" if failed else "\nAll steps were right.")
    return not failed


async def _outcome(step: Step, scene: Scene) -> str | None:
    try:
        await step.play(scene)
    except StepFailed as error:
        return str(error)
    except openai.OpenAIError as error:
        return f"{type(error).__name__}: {error}"
    return None


def _check(right: object, complaint: str) -> None:
    if not right:
        raise StepFailed(complaint)


@asynccontextmanager
async def _client(base_url: str, key: str) -> AsyncIterator[AsyncOpenAI]:
    """One that repeats nothing, so that every failure is seen, and goes through no proxy to reach this machine."""
    async with openai.DefaultAsyncHttpxClient(trust_env=False) as http:
        yield AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=30.0, http_client=http)


async def streamed_chat(scene: Scene) -> None:
    question = "Is anybody there?"
    started = time.monotonic()
    text, ends, usage, moments = "", [], None, []
    stream = await scene.client.chat.completions.create(
        model=CHAT_MODEL, messages=[_user(question)], stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            ends += [choice.finish_reason] if choice.finish_reason else []
            if choice.delta.content:
                moments.append(time.monotonic() - started)
                text += choice.delta.content
                scene.say(f"   {moments[-1]:5.2f} s  {choice.delta.content.strip()}")
    _check(text == answer(Understood(question)), f"the answer is not the model's: {text!r}")
    _check(ends == ["stop"], f"the stream did not end well: finish_reason {ends}")
    _check(usage is not None, "the usage that was asked for did not come")
    spread, made_in = moments[-1] - moments[0], scene.stage.chat.pace_s * (len(moments) - 1)
    _check(spread > made_in / 2, f"{len(moments)} chunks came within {spread:.2f} s, made in {made_in:.2f} s")
    scene.say(f"   {len(moments)} chunks, each as it was made")


async def stray_images(scene: Scene) -> None:
    question, strays = [_user("What is on them?")], {"images": IMAGES}
    try:
        await _directly(scene.stage, _token(scene.stage, -1), question, extra_body=strays)
    except openai.BadRequestError as error:
        scene.say(f"   the model server itself refuses `images`: {error.status_code} {_words(error)}")
    else:
        raise StepFailed("the model server took a member that it does not know")
    raw = await scene.client.chat.completions.with_raw_response.create(
        model=CHAT_MODEL, messages=question, extra_body=strays
    )
    text, adapted = raw.parse().choices[0].message.content, raw.headers.get("x-gatepass-adapted", "")
    scene.say(f"   through gatepass: x-gatepass-adapted: {adapted}")
    scene.say(f"   the model: {text}")
    expected = answer(Understood("What is on them?", ("image/png", "image/gif")))
    _check(text == expected, f"the model should have said: {expected}")
    _check("images" in adapted, "the reply does not tell that images were moved")


async def embeddings(scene: Scene) -> None:
    texts, create = ["the gate is open", "the cat sleeps"], scene.client.embeddings.create
    expected = [vector(text) for text in texts]
    plain = await create(model=EMBEDDINGS_MODEL, input=texts, encoding_format="float")
    _check([item.embedding for item in plain.data] == expected, "the vectors are not those of the texts")
    packed = await create(model=EMBEDDINGS_MODEL, input=texts)  # this client asks for base64 and unpacks it
    _check([item.embedding for item in packed.data] == expected, "the vectors (base64) are not those of the texts")
    token = scene.stage.embeddings.seen[-1].fingerprint
    others = {minted.fingerprint for minted in scene.stage.issuer.minted_for("chat")}
    _check(token not in others, "the embeddings' host was shown the chat's token")
    scene.say(
        f"   {len(texts)} vectors of {len(expected[0])} numbers from {scene.stage.embeddings_url}, by token {token}"
    )


async def renewal(scene: Scene) -> None:
    question = "Are you still there?"
    first = _token(scene.stage, 0)
    scene.say(f"   nothing is asked until the first token ({first.fingerprint}) is dead")
    await _outlive(first, scene.say)
    reply = await scene.client.chat.completions.create(model=CHAT_MODEL, messages=[_user(question)])
    text = reply.choices[0].message.content
    _check(text == answer(Understood(question)), f"the answer is not the model's: {text!r}")
    used = scene.stage.chat.seen[-1].fingerprint
    _check(used != first.fingerprint, "the chat was answered on the dead token")
    second = _token(scene.stage, 1)
    ahead = first.expires_at - second.issued_at
    _check(ahead > 0, f"the second token was fetched {-ahead:.1f} s after the first had died")
    _check(not scene.stage.chat.refused, f"the model server refused tokens: {dict(scene.stage.chat.refused)}")
    scene.say(f"   answered at once, by token {used}: the first was replaced {ahead:.1f} s before its end")


async def stale_check(scene: Scene) -> None:
    first, refused = _token(scene.stage, 0), scene.stage.chat.refused
    await _outlive(first, scene.say)
    before = refused[Distrust.STALE]
    try:
        await _directly(scene.stage, first, [_user("Do you know me?")])
    except openai.AuthenticationError as error:
        scene.say(f"   shown directly, {first.fingerprint} is refused: {error.status_code} {_words(error)}")
    else:
        raise StepFailed(f"the model server answered on the dead token {first.fingerprint}")
    _check(refused[Distrust.STALE] == before + 1, "the model server did not refuse it for its age")


async def _directly(stage: Stage, token: Minted, messages: list[Any], **more: Any) -> None:
    """Ask the model server itself, past gatepass."""
    async with _client(f"{stage.chat_url}/v1", token.token) as client:
        await client.chat.completions.create(model=CHAT_MODEL, messages=messages, **more)


async def _outlive(token: Minted, say: Say) -> None:
    while (left := token.expires_at - time.time()) > 0:
        say(f"   ... {left:4.1f} s left")
        await asyncio.sleep(min(left + 0.05, 4.0))


def _token(stage: Stage, index: int) -> Minted:
    """One of the chat's tokens, in the order in which gatepass fetched them."""
    minted = stage.issuer.minted_for("chat")
    _check(minted[index:], f"of the chat's tokens gatepass has fetched {len(minted)}, which is too few")
    return minted[index]


def _user(text: str) -> Any:
    return {"role": "user", "content": text}


def _words(error: openai.APIStatusError) -> str:
    return str(error.body.get("message", error.message)) if isinstance(error.body, dict) else error.message


STEPS = (
    Step("stream", "A streamed chat: the chunks as they come", streamed_chat),
    Step("images", "A chat with stray `images`, which the model server does not know", stray_images),
    Step("embeddings", "Embeddings, from another host with another login", embeddings),
    Step("renewal", "A chat after the first token has died", renewal),
    Step("stale-check", "The dead token, shown to the model server directly", stale_check),
)
