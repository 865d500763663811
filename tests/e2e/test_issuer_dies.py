"""The issuer ends: gatepass uses its last token until it expires, and never afterwards."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.e2e.servers import (
    KEY,
    REPLY_S,
    TOKEN_LIFE_S,
    CheckedServer,
    Issuer,
    listening,
    start_check,
    start_gatepass,
    start_issuer,
    start_model,
)

LATE_MS = 600
"""The part of a second at which tokens are issued. A JWT has whole seconds, so the lifetime is shorter by this."""
MOST_S = TOKEN_LIFE_S + 2.0
PACE_S = 0.02
"""Pause between two requests until the token expires."""


def ask(url: str) -> tuple[int, str | None, str]:
    """Send one small chat and return status, `retry-after` and body."""
    body = {"model": "tiny-chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    fields = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), fields)  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(request, timeout=REPLY_S) as reply:  # noqa: S310 - loopback
            return reply.status, None, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["retry-after"], error.read().decode()


def test_expired_token_is_never_sent_when_the_issuer_is_gone(tmp_path: Path):
    with (
        start_issuer(LATE_MS) as issuing,
        start_model("tiny-chat.gguf") as model,
        start_check(issuer := Issuer(listening(issuing)), listening(model)) as checking,
    ):
        server = CheckedServer(listening(checking))
        with start_gatepass(tmp_path, issuer, server, server) as process:
            url = listening(process)
            assert ask(url)[0] == 200
            minted_s = issuer.calls()[-1].at_s
            assert minted_s % 1 > 0.5
            issuing.stop()
            served = 0
            while (answer := ask(url))[0] == 200:
                served += 1
                assert time.time() < minted_s + MOST_S, "a token was used beyond its life"
                time.sleep(PACE_S)
            dead_s = time.time() - minted_s

        status, retry_after, body = answer
        assert (status, json.loads(body)["error"]["code"]) == (503, "token_unavailable")
        assert retry_after is not None
        assert server.tally().refusals == []
        assert served > 10
        assert dead_s > 0.8 * TOKEN_LIFE_S, "the token was given up while it was good"
