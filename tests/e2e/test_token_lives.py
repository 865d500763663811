"""Streams of the real clients over many token lifetimes: no request fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.e2e.servers import (
    TOKEN_LIFE_S,
    CheckedServer,
    Gatepass,
    Issuer,
    TokenCall,
    node_client,
    python_client,
)

WORKERS = 4
NODE_S = 15.0
MARGIN_S = 60.0
LEAST_STREAMS = 20
LEAST_LIFE_S = 0.6 * TOKEN_LIFE_S
"""A refresh starts at 80 % of the lifetime minus 5 % jitter. Whole seconds can shorten a lifetime by one second."""


@dataclass(slots=True)
class Watch:
    """The calls of the issuer and the check during the test."""

    began_s: float = field(default_factory=time.time)
    elapsed_s: float = 0.0
    calls: list[TokenCall] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    """The tokens of the requests."""
    requests: int = 0
    """The requests at the check. gatepass repeats a request if llama.cpp closes the reused connection, so this number
    can be larger than that of the streams."""
    least_life_left_s: float | None = None


@contextmanager
def watching(issuer: Issuer, server: CheckedServer) -> Iterator[Watch]:
    before, watch = server.tally(), Watch()
    yield watch
    after = server.tally()
    watch.elapsed_s = time.time() - watch.began_s
    watch.calls = [call for call in issuer.calls() if call.at_s >= watch.began_s]
    watch.refusals = after.refusals[len(before.refusals) :]
    watch.tokens = {token for token, count in after.tokens.items() if count != before.tokens.get(token)}
    watch.requests = sum(after.tokens.values()) - sum(before.tokens.values())
    watch.least_life_left_s = after.least_life_left_s


def assert_no_failed_request(watch: Watch, report: dict[str, Any], least_lives: int) -> None:
    assert report["failures"] == []
    assert watch.refusals == []
    assert watch.requests >= report["finished"] > LEAST_STREAMS
    assert len(watch.tokens) >= least_lives


def assert_one_call_per_life(watch: Watch, least_calls: int) -> None:
    assert {call.status for call in watch.calls} == {200}
    gaps_s = [later.at_s - earlier.at_s for earlier, later in pairwise(watch.calls)]
    assert all(LEAST_LIFE_S <= gap_s < TOKEN_LIFE_S for gap_s in gaps_s), gaps_s
    assert least_calls <= len(watch.calls) <= watch.elapsed_s / LEAST_LIFE_S + 1
    assert len(watch.tokens) <= len(watch.calls) + 1, "at most one used token is older than the calls"


def print_report(title: str, watch: Watch, report: dict[str, Any]) -> None:
    print(
        f"\n{title}: {report['finished']} streams ({report['answer_tokens']} tokens) in {watch.elapsed_s:.1f} s, "
        f"{len(report['failures'])} failed. Check: {watch.requests} requests, {len(watch.refusals)} refused, "
        f"{len(watch.tokens)} tokens used, {watch.least_life_left_s:.2f} s of life at least. "
        f"Issuer: {len(watch.calls)} calls."
    )


def stream_for(client: Callable[..., Any], gatepass: Gatepass, seconds: float, *command: str) -> Any:
    return client(gatepass, *command, str(seconds), str(WORKERS), timeout_s=seconds + MARGIN_S)


def test_python_client_streams_over_five_token_lives(
    issuer: Issuer, chat_server: CheckedServer, gatepass: Gatepass, seconds: float
):
    with watching(issuer, chat_server) as watch:
        report = stream_for(python_client, gatepass, seconds, "chat")
    print_report("openai for Python", watch, report)
    lives = int(seconds // 12)
    assert_no_failed_request(watch, report, lives)
    assert_one_call_per_life(watch, lives)


def test_node_client_streams_over_a_token_life(issuer: Issuer, chat_server: CheckedServer, gatepass: Gatepass):
    with watching(issuer, chat_server) as watch:
        report = stream_for(node_client, gatepass, NODE_S)
    print_report("openai for Node", watch, report)
    assert_no_failed_request(watch, report, 2)
    assert_one_call_per_life(watch, 1)
