"""The faulty servers of `tests/stress/chaos.py`: an issuer and an upstream with planted faults."""

import asyncio
import base64
import contextlib
import gzip
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.integration import test_faults
from tests.integration.answers import DONE, delta
from tests.integration.scripted import (
    LAST_CHUNK,
    Dialogue,
    Fin,
    Hold,
    Move,
    Pause,
    Received,
    Rst,
    Scripted,
    Send,
    begin_stream,
    chunk,
    head,
    reply,
    stream,
)
from tests.stress.ledger import Ledger, Receipt, text_of, vector_of

MARK = "planted7f3acd91e2"
"""Part of every secret: client secrets, tokens, API keys."""
BOUND_S = 180.0
UPSTREAM_FAULTS = 0.45
ISSUER_FAULTS = 0.3
REJECTED_PARAMETERS = ("seed", "top_p", "frequency_penalty", "presence_penalty", "logit_bias")
UPSTREAM_KINDS = (*("table", "cut") * 2, "stall", "401", "403", "429", "reject parameter", "echo", "large")
NO_LIVES = {"no-life": None, "zero": 0, "minus-one": -1}
"""Values of `expires_in` that state no end."""
TOKEN_KINDS = (*("plain",) * 3, "text", "float", "short", "same", "skewed", "over", *NO_LIVES, "slow", "pieces")
_EVENT_FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "crlf": lambda one: one.replace(b"\n", b"\r\n"),
    "comments": lambda one: b": ping\n\n" + one,
    "ids": lambda one: b"id: 1\n" + one + b": ping\n\n",
}
"""Valid formats of an event (S9)."""


class Issuer:
    """Token endpoints of two credentials, with the faults T1 to T20."""

    def __init__(self, seed: int, ledger: Ledger) -> None:
        self._seed = seed
        self._ledger = ledger
        self._calls: dict[str, int] = {}
        self._last: dict[str, tuple[str, float]] = {}
        self.secret = ""
        self.outage_until_s = 0.0
        self.decoy_url = ""
        self.is_calm = False

    def answer(self, request: Received) -> Dialogue:
        name = request.target.split("/")[1]
        number = self._calls[name] = self._calls.get(name, 0) + 1
        r = Random(f"{self._seed}:issuer:{name}:{number}")
        is_outage = time.monotonic() < self.outage_until_s
        is_faulty = r.random() < ISSUER_FAULTS or is_outage
        if is_faulty and not self.is_calm:
            # the secret as it was received: gatepass cannot know one that is newer than the request
            sent = re.search(rf"{MARK}-secret-[0-9]+", request.body.decode())
            faults = self._faults(r, sent[0] if sent else self.secret)
            kind = r.choice(sorted(faults))
            self._ledger.faults[f"issuer {kind}"] += 1
            return faults[kind]
        if self.secret not in request.body.decode() + request.target:
            self._ledger.faults["issuer old-secret"] += 1
            received = request.body.decode()  # echoed, and not the new secret, which gatepass cannot know yet
            return [Send(reply({"error": "invalid_client", "error_description": f"not {received}"}, 401))]
        return self._minted(name, number, r)

    def _minted(self, name: str, number: int, r: Random) -> Dialogue:
        now_s = time.monotonic()
        last = self._last.get(name)
        kind = "plain" if self.is_calm else r.choice(TOKEN_KINDS)
        token, life_s = f"{MARK}.{name}.{number}", float(r.randint(8, 25))
        if kind == "same" and last is not None and last[1] > now_s + 1:
            token, life_s = last[0], last[1] - now_s
        elif kind == "short":
            life_s = float(r.randint(1, 3))
        special: dict[str, Any] = {"text": str(int(life_s)), "float": life_s, "over": -60, **NO_LIVES}
        life = special.get(kind, int(life_s))
        document = {"access_token": token, "token_type": "Bearer"} | ({} if life is None else {"expires_in": life})
        end_s = None if kind in NO_LIVES else now_s + float(life)
        self._ledger.add_token(token, end_s)
        self._last[name] = token, now_s if end_s is None else end_s
        self._ledger.faults[f"token {kind}"] += 1
        data = reply(document, 200, date="Mon, 01 Jan 2035 00:00:00 GMT") if kind == "skewed" else reply(document)
        before: list[Move] = [Pause(1.0)] if kind == "slow" else []
        return [*before, Send(data, piece_bytes=7 if kind == "pieces" else None)]

    def _faults(self, r: Random, secret: str) -> dict[str, Dialogue]:
        echoed = f"client_secret={secret}&amp; {base64.b64encode(f'chat:{secret}'.encode()).decode()}"
        bad = reply({"error": "server_error", "error_description": echoed}, 500)
        return {
            "fin": [Fin()],
            "rst": [Rst()],
            "hang": [Hold()],
            "dribble": [Send(bad, piece_bytes=1, pause_s=0.2)],
            "500": [Send(bad)],
            "503": [Send(reply(echoed.encode(), 503, content_type="text/plain"))],
            "429": [Send(reply({"error": "slow_down"}, 429, retry_after=str(r.randint(1, 2))))],
            "html": [Send(reply(f"<html><title>Login</title>{echoed}</html>".encode(), content_type="text/html"))],
            "empty": [Send(reply(b""))],
            "garbage": [Send(reply(r.randbytes(300)))],
            "no-http": [Send(b"-ERR unknown command\r\n\r\n"), Fin()],
            "null": [Send(reply({"access_token": None, "expires_in": 60}))],
            "line-break": [Send(reply({"access_token": "abc\r\nx-evil: 1", "expires_in": 60}))],
            "no-token": [Send(reply({"status": "ok"}))],
            "cut": [Send(bad[:-9]), r.choice((Fin(), Rst()))],
            "redirect": [Send(reply(b"", 307, location=f"{self.decoy_url}/token"))],
            "huge": [
                Send(head(200, content_type="application/json", transfer_encoding="chunked")),
                *[Send(chunk(b" " * 65_536))] * 64,
                Hold(),
            ],
        }


class Upstream:
    """Replies with the text of `text_of`, or with a fault of S1 to S13."""

    def __init__(self, seed: int, ledger: Ledger) -> None:
        self._seed = seed
        self._ledger = ledger
        self._attempts: dict[str, int] = {}
        self._revoked: set[str] = set()
        self.is_calm = False
        self.tokens: set[str] = set()

    def revoke(self) -> None:
        """Reject all tokens received so far with 401."""
        self._revoked |= self.tokens

    def answer(self, request: Received) -> Dialogue:
        now_s = time.monotonic()
        if request.method == "GET":  # the names that metrics may have
            return [Send(reply({"object": "list", "data": []}))]
        body = request.json()
        uid = str(body["input"] if "input" in body else body["messages"][0]["content"])
        attempt = self._attempts[uid] = self._attempts.get(uid, 0) + 1
        r = Random(f"{self._seed}:upstream:{uid}:{attempt}")
        token = (request.header("authorization") or "").removeprefix("Bearer ")
        route = request.target.split("/")[1]
        self.tokens.add(token)
        is_accepted = token not in self._revoked and self._ledger.is_valid(token, now_s)
        is_other_credential = token.split(".")[1:2] != ["embed" if route == "embed" else "chat"]
        if is_other_credential:
            self._ledger.add_violation(f"{uid}: a token of another credential")
        if not is_accepted:
            name, dialogue, may_repeat = "401", self._unauthorized(token), True
        elif self.is_calm or r.random() > UPSTREAM_FAULTS:
            name, dialogue, may_repeat = self._good(uid, body, r)
        else:
            name, dialogue, may_repeat = self._fault(uid, body, token, r)
        is_stale = route != "once" and isinstance(dialogue[0], Fin | Rst)
        self._ledger.faults[f"upstream {name}"] += 1
        self._ledger.receive(Receipt(uid, token, name, may_repeat=may_repeat, is_stale=is_stale), now_s)
        return dialogue

    @staticmethod
    def _unauthorized(token: str) -> Dialogue:
        return [Send(reply({"error": {"message": f"Invalid token {token}", "code": "invalid_token"}}, 401))]

    def _good(self, uid: str, body: dict[str, Any], r: Random) -> tuple[str, Dialogue, bool]:
        if "input" in body:
            data = [{"object": "embedding", "index": 0, "embedding": vector_of(uid)}]
            return "good vectors", [Send(reply({"object": "list", "model": "e", "data": data}))], False
        as_stream = bool(body.get("stream"))
        if not self.is_calm and r.random() < 0.1:
            as_stream = not as_stream  # a stream that was not requested, or a whole reply to a stream request
        return self._good_stream(uid, r) if as_stream else self._good_reply(uid, r)

    @staticmethod
    def _good_reply(uid: str, r: Random) -> tuple[str, Dialogue, bool]:
        kind, data = r.choice(("whole", "gzip", "pieces", "chunked", "close")), json.dumps(completion(uid)).encode()
        if kind == "gzip":
            return "good gzip", [Send(reply(gzip.compress(data), content_encoding="gzip"))], False
        if kind == "chunked":
            named = {"content_type": "application/json", "transfer_encoding": "chunked"}
            return "good chunked", [Send(head(200, **named) + chunk(data) + LAST_CHUNK)], False
        end: Dialogue = [Fin()] if kind == "close" else []
        return f"good {kind}", [Send(reply(data), 61 if kind == "pieces" and len(data) < 9000 else None), *end], False

    @staticmethod
    def _good_stream(uid: str, r: Random) -> tuple[str, Dialogue, bool]:
        kind = r.choice(("events", "paced", "pieces", "one", "no-done", "tail", "hints", "fin", *_EVENT_FORMATS))
        events = [_EVENT_FORMATS[kind](one) if kind in _EVENT_FORMATS else one for one in [*events_of(uid, r), DONE]]
        if kind == "no-done":
            events.pop()
        elif kind == "one":
            events = [b"".join(events)]
        if kind in ("paced", "tail"):
            pause_s = 0.002 if len(events) > 60 else 0.02
            moves: list[Move] = [*begin_stream()]
            for one in events:
                moves += [Send(chunk(one)), Pause(pause_s)]
            return f"good {kind}", [*moves, Hold() if kind == "tail" else Send(LAST_CHUNK)], False
        data = (b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" if kind == "hints" else b"") + stream(*events)
        piece = 13 if kind == "pieces" and len(data) < 9000 else None
        return f"good {kind}", [Send(data, piece), *([Fin()] if kind == "fin" else [])], False

    def _fault(self, uid: str, body: dict[str, Any], token: str, r: Random) -> tuple[str, Dialogue, bool]:
        is_stream = bool(body.get("stream"))
        kind = r.choice(UPSTREAM_KINDS)
        if kind == "401":
            return "401", self._unauthorized(token), True
        if kind == "403":
            return "403", [Send(reply({"error": {"message": f"no {token}", "code": "no_access"}}, 403))], False
        if kind == "429":
            return "429", [Send(reply({"error": {"message": "slow", "code": "slow"}}, 429, retry_after="1"))], False
        if kind == "echo":
            message = f"failed: Authorization: Bearer {token} {base64.b64encode(token.encode()).decode()}"
            return "echo", [Send(reply(message.encode(), 500, content_type="text/plain", x_echo=token))], False
        named = [name for name in REJECTED_PARAMETERS if name in body]
        if kind == "reject parameter" and named:
            message = f"Unsupported parameter: '{named[0]}' is not supported with this model."
            error = {"message": message, "param": named[0], "code": "unsupported_parameter"}
            return "reject parameter", [Send(reply({"error": error}, 400))], True
        if "input" in body:
            data = reply({"object": "list", "model": "e", "data": [{"index": 0, "embedding": vector_of(uid)}]})
            return "cut vectors", [Send(data[: r.randint(1, len(data) - 1)]), r.choice((Fin(), Rst(), Hold()))], False
        if kind == "large":
            return "large", self._large(is_stream), False
        if kind in ("cut", "stall"):
            data = stream(*events_of(uid, r), DONE) if is_stream else reply(completion(uid))
            data = data[: r.randint(1, len(data) - 1)]
            return kind, [Send(data), Hold() if kind == "stall" else r.choice((Fin(), Rst()))], False
        tables = [test_faults.EITHER, test_faults.STREAM if is_stream else test_faults.PLAIN]
        faults = {name: fault for table in tables for name, fault in table.items()}
        name = r.choice([name for name in sorted(faults) if not name.startswith("events-unasked")])
        return name, faults[name].does, "page" in name

    @staticmethod
    def _large(is_stream: bool) -> Dialogue:
        """Return a reply above the configured limits."""
        if is_stream:
            return [*begin_stream(), *[Send(chunk(b"data: " + b"x" * 65_536))] * 32, Hold()]
        named = {"content_type": "application/json", "transfer_encoding": "chunked"}
        return [Send(head(200, **named)), *[Send(chunk(b" " * 65_536))] * 112, Hold()]


def completion(uid: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text_of(uid)}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}


def events_of(uid: str, r: Random) -> list[bytes]:
    text = text_of(uid)
    step = r.randint(2, 40) if len(text) < 9000 else max(2000, len(text) // 200)
    pieces = [text[at : at + step] for at in range(0, len(text), step)]
    return [delta(role="assistant", content=""), *(delta(content=piece) for piece in pieces), delta("stop")]


@dataclass
class FakeServers:
    """The servers in a separate thread, and the state that they share with the clients."""

    seed: int
    ledger: Ledger
    issuer: Issuer
    upstream: Upstream
    by_name: dict[str, Scripted] = field(default_factory=dict)

    @contextmanager
    def serving(self) -> Iterator[None]:
        loop, ready = asyncio.new_event_loop(), threading.Event()
        over = asyncio.Event()

        async def serve() -> None:
            async with (
                Scripted(answer=self.issuer.answer) as issuer,
                Scripted(answer=self.upstream.answer) as upstream,
                Scripted(answer=self._record_redirect) as decoy,
            ):
                self.by_name = {"issuer": issuer, "upstream": upstream}
                self.issuer.decoy_url = decoy.url
                ready.set()
                while not over.is_set():
                    began_s = time.monotonic()
                    await asyncio.sleep(0.25)
                    self.ledger.add_delay(began_s, time.monotonic() - began_s - 0.25)

        def run() -> None:
            try:
                loop.run_until_complete(serve())
            finally:
                ready.set()

        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(run)
            ready.wait()
            try:
                yield
            finally:
                with contextlib.suppress(RuntimeError):  # the server failed and closed its loop
                    loop.call_soon_threadsafe(over.set)
                if (fault := running.exception(BOUND_S)) is not None:
                    self.ledger.add_violation(f"a server of the test failed: {fault!r}")
            loop.close()

    def _record_redirect(self, request: Received) -> Dialogue:
        self.ledger.add_violation(f"a redirect was followed: {request.target}")
        return [Fin()]
