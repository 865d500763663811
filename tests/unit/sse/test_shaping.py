"""What a dialect's replies need before they are judged."""

import json

from gatepass.sse.dialect_transforms import Plain, Ragflow, shaping_of
from tests.unit.sse.documents import origin


def test_only_ragflow_needs_anything():
    assert [shaping_of(dialect) for dialect in ("openai", "azure", "ragflow")] == [Plain(), Plain(), Ragflow()]
    assert [shaping_of(dialect).is_plain for dialect in ("openai", "azure", "ragflow")] == [True, True, False]


def test_plain_changes_nothing():
    body = b'{"choices": []}'
    assert Plain().stream(origin(), wants_usage=True) is None
    assert Plain().document(body, origin()) == (body, ())
    assert Plain().document(body, origin())[0] is body


def test_ragflows_streams_and_documents_are_changed():
    said = {"choices": [{"message": {"role": "assistant", "content": "hi", "reference": {"chunks": []}}}]}
    body, _ = Ragflow().document(json.dumps(said).encode(), origin())
    assert json.loads(body)["choices"][0]["message"]["content"] == "hi"
    assert Ragflow().stream(origin(), wants_usage=True) is not Ragflow().stream(origin(), wants_usage=True)
