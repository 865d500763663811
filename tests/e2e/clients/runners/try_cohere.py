"""Cohere's rerank clients: `v1` calls `/v1/rerank`, `v2` calls `/v2/rerank`."""

import os
import sys

import cohere
from harness import TIMEOUT_S, Result, Scenario, run_all

ROOT = os.environ["OPENAI_BASE_URL"].removesuffix("/v1")
KEY = os.environ["OPENAI_API_KEY"]


def rerank(scenario: Scenario, result: Result) -> None:
    client_class = {"v1": cohere.Client, "v2": cohere.ClientV2}[sys.argv[1]]
    client = client_class(KEY, base_url=ROOT, timeout=TIMEOUT_S)
    answer = client.rerank(model=scenario["model"], query=scenario["query"], documents=scenario["documents"])
    result.ranks = [[entry.index, entry.relevance_score] for entry in answer.results]


if __name__ == "__main__":
    run_all({"rerank": rerank})
