"""Replies, streams and errors of llama.cpp arrive unchanged."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.servers import CheckedServer, Gatepass, Issuer, python_client

CLIENT_S = 60.0
ANSWER_TOKENS = 12


@pytest.fixture(scope="module")
def replies(gatepass: Gatepass) -> dict[str, Any]:
    printed: dict[str, Any] = python_client(gatepass, "one_of_each", timeout_s=CLIENT_S)
    return printed


def test_plain_chat_has_text_finish_reason_and_usage(replies: dict[str, Any]):
    (choice,) = replies["plain"]["choices"]
    assert choice["message"]["content"]
    assert choice["finish_reason"] == "length"
    assert replies["plain"]["usage"]["completion_tokens"] == ANSWER_TOKENS
    assert "timings" in replies["plain"], "llama.cpp's own fields survive"


def test_stream_arrives_in_pieces_and_ends_with_its_usage(replies: dict[str, Any]):
    *pieces, last = replies["streamed"]
    deltas = [choice["delta"]["content"] for chunk in pieces for choice in chunk["choices"]]
    reasons = [choice["finish_reason"] for chunk in pieces for choice in chunk["choices"]]
    assert sum(bool(delta) for delta in deltas) > ANSWER_TOKENS // 2
    assert reasons[-1] == "length"
    assert set(reasons[:-1]) == {None}
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], ANSWER_TOKENS)
    assert len({chunk["id"] for chunk in replies["streamed"]}) == 1


@pytest.mark.parametrize("call", ["refused", "refused_stream"])
def test_its_own_error_keeps_status_and_text(replies: dict[str, Any], call: str):
    error = replies[call]
    assert (error["class"], error["status"]) == ("BadRequestError", 400)
    assert "exceeds the available context size" in error["error"]["message"]


def test_wildcard_lists_the_models_of_both_servers(
    replies: dict[str, Any], issuer: Issuer, chat_server: CheckedServer, embed_server: CheckedServer
):
    token = issuer.mint()
    listed = [server.get("/v1/models", token)[1]["data"] for server in (embed_server, chat_server)]
    assert replies["models"] == [model["id"] for models in listed for model in models] == ["minilm", "tiny-chat"]
