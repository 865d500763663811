"""What a rerank request asks for."""

import json

import pytest

from gatepass.adapt.rerank.question import Asked, is_question
from gatepass.errors import InvalidRequest


def body(**members) -> bytes:
    return json.dumps({"model": "r", "query": "q", **members}).encode()


@pytest.mark.parametrize(
    ("members", "asked"),
    [
        ({"documents": ["a", "b"], "top_n": 1}, Asked(2, top_n=1)),
        ({"documents": ["a"], "top_n": None, "return_documents": False}, Asked(1)),
        ({"documents": ["a"], "top_n": 0}, Asked(1)),
        ({"documents": ["a"], "return_documents": "false"}, Asked(1)),
        ({"documents": ["a"], "return_documents": "true", "return_len": "true"}, Asked(1, echoed=(b'"a"',))),
        ({"documents": [{"text": "a"}, "b"], "return_documents": True}, Asked(2, echoed=(b'{"text": "a"}', b'"b"'))),
        ({"texts": ["a", "b"], "raw_scores": False, "truncate": True}, Asked(2, is_tei=True)),
        ({"texts": ["a"], "return_text": True}, Asked(1, is_tei=True, echoed=(b'"a"',))),
        ({"documents": {"content": [{"type": "text"}, {"type": "image_url"}]}}, Asked(2)),
        ({"query": {"image": "…"}, "documents": [{"image": "…"}]}, Asked(1)),
    ],
)
def test_a_request_tells_what_its_answer_is_to_be(members, asked):
    assert Asked.of(body(**members)) == asked


@pytest.mark.parametrize(
    ("members", "param", "told"),
    [
        ({"query": ["q"], "documents": ["a"]}, "query", "must be a text"),
        ({"query": None, "documents": ["a"]}, "query", "must be a text"),
        ({}, "documents", "no `documents`"),
        ({"documents": ["a"], "texts": ["a"]}, "texts", "both"),
        ({"documents": "a"}, "documents", "must be a list"),
        ({"documents": {"a": 1}}, "documents", "must be a list"),
        ({"documents": {"content": 1}}, "documents", "must be a list"),
        ({"texts": []}, "texts", "is empty"),
        ({"documents": ["a", 1]}, "documents[1]", "must be a text"),
        ({"documents": ["a"], "top_n": -1}, "top_n", "whole number"),
        ({"documents": ["a"], "top_n": "1"}, "top_n", "whole number"),
        ({"documents": ["a"], "top_n": True}, "top_n", "whole number"),
        ({"documents": ["a"], "return_documents": "yes"}, "return_documents", "true or false"),
        ({"documents": ["a"], "return_documents": 1}, "return_documents", "true or false"),
    ],
)
def test_a_bad_request_is_told_by_the_name_of_the_member(members, param, told):
    with pytest.raises(InvalidRequest) as caught:
        Asked.of(body(**members))
    assert caught.value.param == param
    assert told in caught.value.message


def test_a_request_without_a_query_is_told_so():
    with pytest.raises(InvalidRequest, match="no `query`"):
        Asked.of(b'{"model":"r","documents":["a"]}')


@pytest.mark.parametrize("number", [b"1e999", b"1E400", b"-" + b"9" * 5000, b"9" * 5000, b"1.5"])
def test_a_top_n_that_is_no_count_is_told_so(number):
    with pytest.raises(InvalidRequest, match="whole number") as caught:
        Asked.of(b'{"model":"r","query":"q","documents":["a"],"top_n":%b}' % number)
    assert caught.value.param == "top_n"


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (b'{"model":"r","query":"q","documents":["a"]}', True),
        (b'{"query":"q","texts":["a"]}', True),
        (b'{"query":"q"}', False),
        (b'{"model":"m","messages":[{"query":"q","documents":[]}]}', False),
        (b"{}", False),
    ],
)
def test_a_question_is_known_at_the_root_by_its_members(text, is_one):
    assert is_question(text) is is_one
