import json

import pytest

from gatepass.operations.table import samples


@pytest.mark.parametrize(
    ("operation", "bodies"),
    [
        (
            "chat",
            [
                {"model": "m", "messages": [{"role": "user", "content": "ping"}], "max_tokens": 1},
                {"model": "m", "messages": [{"role": "user", "content": "ping"}], "max_completion_tokens": 16},
            ],
        ),
        ("completions", [{"model": "m", "prompt": "ping", "max_tokens": 1}]),
        ("embeddings", [{"model": "m", "input": "ping"}]),
        ("rerank", [{"model": "m", "query": "ping", "documents": ["ping"]}]),
    ],
)
def test_each_operation_has_a_sample_of_one_word(operation, bodies):
    found = samples(operation, "m")
    assert [json.loads(call.body) for call in found] == bodies
    assert {(call.operation.name, call.model, call.stream) for call in found} == {(operation, "m", False)}
