"""Streams of the real clients for Python and Node over token lifetimes: no request fails."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from tests.e2e.servers import TOKEN_LIFE_S, CheckedServer, Gatepass, Issuer, node_client, python_client

WORKERS = 2
"""Streams at once of each client."""
MARGIN_S = 60.0
LEAST_STREAMS = 20
LEAST_LIFE_S = 0.6 * TOKEN_LIFE_S
"""A refresh starts at 80 % of the lifetime minus 5 % jitter. Whole seconds can shorten a lifetime by one second."""


def test_both_clients_stream_over_token_lives_and_each_life_has_one_call(
    issuer: Issuer, chat_server: CheckedServer, gatepass: Gatepass, seconds: float
):
    arguments, timeout_s = (str(seconds), str(WORKERS)), seconds + MARGIN_S
    before, began_s = chat_server.tally(), time.time()
    with ThreadPoolExecutor() as pool:
        runs = {
            "Python": pool.submit(python_client, gatepass, "chat", *arguments, timeout_s=timeout_s),
            "Node": pool.submit(node_client, gatepass, *arguments, timeout_s=timeout_s),
        }
        reports = {client: run.result() for client, run in runs.items()}
    after, elapsed_s = chat_server.tally(), time.time() - began_s
    calls = [call for call in issuer.calls() if call.at_s >= began_s]
    tokens = [token for token, count in after.tokens.items() if count != before.tokens.get(token)]
    requests = sum(after.tokens.values()) - sum(before.tokens.values())
    print(
        f"\n{elapsed_s:.1f} s: {requests} requests, {len(tokens)} tokens used, {len(calls)} calls of the issuer, "
        f"{after.least_life_left_s:.2f} s of life at least"
    )
    for client, report in reports.items():
        print(f"openai for {client}: {report['finished']} streams ({report['answer_tokens']} tokens)")
        assert report["failures"] == []
        assert report["finished"] > LEAST_STREAMS
    assert after.refusals == before.refusals
    # gatepass repeats a request if llama.cpp closes the reused connection
    assert requests >= sum(report["finished"] for report in reports.values())
    lives = int(seconds // 12)
    assert {call.status for call in calls} == {200}
    gaps_s = [later.at_s - earlier.at_s for earlier, later in pairwise(calls)]
    assert all(LEAST_LIFE_S <= gap_s < TOKEN_LIFE_S for gap_s in gaps_s), gaps_s
    assert lives <= len(calls) <= elapsed_s / LEAST_LIFE_S + 1
    assert lives <= len(tokens) <= len(calls) + 1, "at most one used token is older than the calls"
