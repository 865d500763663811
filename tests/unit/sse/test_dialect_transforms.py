"""The changes of a dialect's replies before validation."""

import json

from gatepass.sse.dialect_transforms import RagflowTransforms
from tests.unit.sse.documents import origin


def test_ragflows_streams_and_documents_are_changed():
    reply = {"choices": [{"message": {"role": "assistant", "content": "hi", "reference": {"chunks": []}}}]}
    body, _ = RagflowTransforms().document(json.dumps(reply).encode(), origin())
    assert json.loads(body)["choices"][0]["message"]["content"] == "hi"
    assert RagflowTransforms().stream(origin()) is not RagflowTransforms().stream(origin())
