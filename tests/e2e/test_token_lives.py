"""Streams of the real clients for Python and Node over token lifetimes: no request fails."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from tests.e2e.clients.program import Program
from tests.e2e.servers import (
    TOKEN_LIFE_S,
    CheckedServer,
    Issuer,
    listening,
    serve_routes,
    start_check,
    start_issuer,
    start_model,
)

SECONDS = float(os.environ.get("E2E_SECONDS", "25"))
CLIENTS = (
    Program("openai for Python", "python-client", "long_streams.py"),
    Program("openai for Node", "node-client", "long_streams.mjs"),
)
WORKERS = 2
"""Streams at once of each client."""
MARGIN_S = 60.0
LEAST_STREAMS = 20
LEAST_LIFE_S = 0.6 * TOKEN_LIFE_S
"""A refresh starts at 80 % of the lifetime minus 5 % jitter. Whole seconds can shorten a lifetime by one second."""


def test_both_clients_stream_over_token_lives_and_each_life_has_one_call(tmp_path: Path):
    with ExitStack() as started:
        issuer = Issuer(listening(started.enter_context(start_issuer())))
        model = started.enter_context(start_model("tiny-chat.gguf"))
        check = CheckedServer(listening(started.enter_context(start_check(issuer, listening(model)))))
        routes = f"""
upstreams:
  chat: {{base_url: "{check.url}/v1", credential: sso}}
models:
  "*": {{upstream: chat}}
"""
        gatepass = started.enter_context(serve_routes(tmp_path, issuer, routes))
        url, began_s = listening(gatepass), time.time()
        given = [{"seconds": SECONDS, "workers": WORKERS}]
        with ThreadPoolExecutor() as pool:
            reports = list(pool.map(lambda one: one.run(url, given, timeout_s=SECONDS + MARGIN_S), CLIENTS))
        tally, elapsed_s, calls = check.tally(), time.time() - began_s, issuer.calls()
    requests = sum(tally.tokens.values())
    print(
        f"\n{elapsed_s:.1f} s: {requests} requests, {len(tally.tokens)} tokens used, {len(calls)} calls of the issuer, "
        f"{tally.least_life_left_s:.2f} s of life at least"
    )
    for client, report in zip(CLIENTS, reports, strict=True):
        print(f"{client.title}: {report['finished']} streams ({report['answer_tokens']} tokens)")
        assert report["failures"] == [], gatepass.output
        assert report["finished"] > LEAST_STREAMS
    assert tally.refusals == []
    # gatepass repeats a request if llama.cpp closes the reused connection
    assert requests >= sum(report["finished"] for report in reports)
    lives = int(SECONDS // 12)
    assert {call.status for call in calls} == {200}
    gaps_s = [later.at_s - earlier.at_s for earlier, later in pairwise(calls)]
    assert all(gap_s >= LEAST_LIFE_S for gap_s in gaps_s), gaps_s
    assert lives <= len(calls) <= elapsed_s / LEAST_LIFE_S + 1
    assert lives <= len(tally.tokens) <= len(calls)
