import json

import pytest

from gatepass.operations.table import sample


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("chat", {"model": "m", "messages": [{"role": "user", "content": "ping"}], "max_tokens": 16}),
        ("completions", {"model": "m", "prompt": "ping", "max_tokens": 16}),
        ("embeddings", {"model": "m", "input": "ping"}),
        ("rerank", {"model": "m", "query": "ping", "documents": ["ping"]}),
    ],
)
def test_each_operation_has_a_sample_of_one_word(operation, body):
    call = sample(operation, "m")
    assert json.loads(call.body) == body
    assert (call.operation.name, call.model, call.stream) == (operation, "m", False)
