"""What a dialect's replies need before they are judged."""

import json

from gatepass.sse.dialect_transforms import NoTransforms, RagflowTransforms, dialect_transforms
from tests.unit.sse.documents import origin


def test_only_ragflow_needs_anything():
    assert [dialect_transforms(dialect) for dialect in ("openai", "azure", "ragflow")] == [
        NoTransforms(),
        NoTransforms(),
        RagflowTransforms(),
    ]
    assert [dialect_transforms(dialect).is_plain for dialect in ("openai", "azure", "ragflow")] == [True, True, False]


def test_plain_changes_nothing():
    body = b'{"choices": []}'
    assert NoTransforms().stream(origin(), wants_usage=True) is None
    assert NoTransforms().document(body, origin()) == (body, ())
    assert NoTransforms().document(body, origin())[0] is body


def test_ragflows_streams_and_documents_are_changed():
    said = {"choices": [{"message": {"role": "assistant", "content": "hi", "reference": {"chunks": []}}}]}
    body, _ = RagflowTransforms().document(json.dumps(said).encode(), origin())
    assert json.loads(body)["choices"][0]["message"]["content"] == "hi"
    assert RagflowTransforms().stream(origin(), wants_usage=True) is not RagflowTransforms().stream(
        origin(), wants_usage=True
    )
