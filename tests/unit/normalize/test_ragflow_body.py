import json

import pytest

from gatepass.errors import InvalidImage, ModelNotFound
from gatepass.normalize.ragflow_body import RagflowBody
from gatepass.normalize.rules import normalize
from gatepass.types import Call, Target
from tests.rows import CHAT, EMBEDDINGS

BODY = {"model": "my-bot", "messages": [{"role": "user", "content": "Hi"}]}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def call(body, stream=False, operation=CHAT):
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Call("id", operation, "me", "my-bot", text, (), stream)


def sent(body, stream=False, rule=None, target="chat:2e3b"):
    result = normalize(call(body, stream), Target("rag", target), (rule or RagflowBody(),))
    return json.loads(result.body), result.adapted


@pytest.mark.parametrize("stream", [True, False])
def test_model_is_the_placeholder_and_stream_is_always_set(stream):
    assert sent(BODY, stream) == (BODY | {"model": "model", "stream": stream}, ())


def test_parts_become_one_text():
    parts = [{"type": "text", "text": "One"}, "two", {"text": "three"}]
    body, adapted = sent(BODY | {"messages": [{"role": "user", "content": parts, "name": "n"}]})
    assert body["messages"] == [{"role": "user", "content": "One\ntwo\nthree", "name": "n"}]
    assert adapted == ("content=text",)


def test_null_becomes_an_empty_text_and_other_messages_stay():
    messages = [{"role": "assistant", "content": None}, {"role": "user", "content": "Hi"}, {"role": "x"}, 7]
    body, adapted = sent(BODY | {"messages": messages})
    assert body["messages"] == [{"role": "assistant", "content": ""}, *messages[1:]]
    assert adapted == ("content=text",)


def test_content_of_another_kind_is_the_upstreams_to_refuse():
    body, adapted = sent(BODY | {"messages": [{"role": "user", "content": 7}]})
    assert (body["messages"], adapted) == ([{"role": "user", "content": 7}], ())
    assert sent({"model": "m", "messages": "no"})[0]["messages"] == "no"
    assert sent({"model": "m"})[0] == {"model": "model", "stream": False}


def test_an_image_is_refused_by_its_place():
    with pytest.raises(InvalidImage, match=r"messages\[0\]\.content\[1\] is not text") as caught:
        sent(BODY | {"messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, PICTURE]}]})
    assert caught.value.param == "messages[0].content[1]"


def test_members_that_sdks_merge_into_the_top_level_move_into_extra_body():
    body, adapted = sent(BODY | {"reference": True, "reference_metadata": {"include": True}, "other": 1})
    assert body["extra_body"] == {"reference": True, "reference_metadata": {"include": True}}
    assert ("reference" in body, body["other"]) == (False, 1)
    assert adapted == ("extra_body=reference,reference_metadata",)


def test_members_of_the_clients_extra_body_have_precedence():
    body, _ = sent(BODY | {"reference": True, "extra_body": {"reference": False, "x": 1}})
    assert body["extra_body"] == {"reference": False, "x": 1}
    assert sent(BODY | {"reference": True, "extra_body": 7})[0]["extra_body"] == 7


def test_an_agent_is_named_in_the_body_where_its_path_does_not():
    body, _ = sent(BODY, target="agent:77")
    assert (body["agent_id"], body["openai-compatible"]) == ("77", True)
    assert "agent_id" not in sent(BODY, target="agent:77", rule=RagflowBody(paths="old"))[0]


def test_operations_other_than_chat_are_refused_with_the_remedy():
    with pytest.raises(ModelNotFound) as caught:
        normalize(call({"model": "m", "input": "x"}, operation=EMBEDDINGS), Target("rag", "i"), (RagflowBody(),))
    assert caught.value.message == (
        'The upstream "rag" is RAGFlow, which supports only chat. For embeddings set operations.embeddings,'
        " or the entry of this model under models, to another upstream."
    )
    assert (caught.value.http_status, caught.value.param) == (404, "model")
