"""llama.cpp's own behaviour arrives through gatepass as it is."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.servers import CheckedServer, Gatepass, Issuer, python_client

TOUR_S = 60.0
ANSWER_TOKENS = 12


@pytest.fixture(scope="module")
def tour(gatepass: Gatepass) -> dict[str, Any]:
    seen: dict[str, Any] = python_client(gatepass, "tour", timeout_s=TOUR_S)
    return seen


def test_plain_chat_has_text_finish_reason_and_usage(tour: dict[str, Any]):
    (choice,) = tour["plain"]["choices"]
    assert choice["message"]["content"]
    assert choice["finish_reason"] == "length"
    assert tour["plain"]["usage"]["completion_tokens"] == ANSWER_TOKENS
    assert "timings" in tour["plain"], "llama.cpp's own fields survive"


def test_stream_comes_in_pieces_and_ends_with_its_usage(tour: dict[str, Any]):
    *pieces, last = tour["streamed"]
    deltas = [choice["delta"]["content"] for chunk in pieces for choice in chunk["choices"]]
    reasons = [choice["finish_reason"] for chunk in pieces for choice in chunk["choices"]]
    assert sum(bool(delta) for delta in deltas) > ANSWER_TOKENS // 2
    assert reasons[-1] == "length"
    assert set(reasons[:-1]) == {None}
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], ANSWER_TOKENS)
    assert len({chunk["id"] for chunk in tour["streamed"]}) == 1


@pytest.mark.parametrize("call", ["refused", "refused_stream"])
def test_its_own_error_keeps_status_and_text(tour: dict[str, Any], call: str):
    refused = tour[call]
    assert (refused["class"], refused["status"]) == ("BadRequestError", 400)
    assert "exceeds the available context size" in refused["error"]["message"]


def test_wildcard_lists_the_models_of_both_servers(
    tour: dict[str, Any], issuer: Issuer, chat_server: CheckedServer, embed_server: CheckedServer
):
    token = issuer.mint()
    listed = [server.get("/v1/models", token)[1]["data"] for server in (embed_server, chat_server)]
    assert tour["models"] == [model["id"] for models in listed for model in models] == ["minilm", "tiny-chat"]
