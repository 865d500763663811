"""Cohere's rerank clients: `v1` asks `/v1/rerank` of the base URL, `v2` asks `/v2/rerank`."""

from __future__ import annotations

import os
import sys

import cohere
from harness import TIMEOUT_S, Seen, Told, play

ROOT = os.environ["OPENAI_BASE_URL"].removesuffix("/v1")
KEY = os.environ["OPENAI_API_KEY"]


def rerank(told: Told, seen: Seen) -> None:
    made = {"v1": cohere.Client, "v2": cohere.ClientV2}[sys.argv[1]]
    client = made(KEY, base_url=ROOT, timeout=TIMEOUT_S)
    answer = client.rerank(model=told["model"], query=told["query"], documents=told["documents"])
    seen.ranks = [[entry.index, entry.relevance_score] for entry in answer.results]


if __name__ == "__main__":
    play({"rerank": rerank})
