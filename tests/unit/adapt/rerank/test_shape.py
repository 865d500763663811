"""Questions to a reranker as each upstream takes them."""

import json
from typing import get_args

import pytest

from gatepass.adapt.changes.change import revised
from gatepass.adapt.rerank.question import Asked
from gatepass.adapt.rerank.shape import Shaped
from gatepass.call import Operation, Surface
from gatepass.config.upstream import RerankShape
from gatepass.errors import InvalidRequest
from tests.unit.adapt.calls import a_call

RERANK = Operation("rerank", "POST", "/rerank", Surface.EMBEDDINGS, "")
SHAPES = get_args(RerankShape)

RAGFLOW = b'{"model": "r", "query": "q", "documents": ["a", "b"], "top_n": 2}'
RAGFLOW_COHERE = b'{"model":"r","query":"q","documents":["a","b"],"top_n":2,"return_documents":false}'
RAGFLOW_XINFERENCE = (
    b'{"model": "r", "query": "q", "return_documents": "true", "return_len": "true", "documents": ["a", "b"]}'
)
RAGFLOW_TEI = b'{"query":"q","texts":["a","b"],"raw_scores":false,"truncate":true}'


def sent(body: bytes, shape: RerankShape, model: str | None = None) -> bytes:
    return revised(a_call(body, RERANK), [Shaped(shape, model)])[0].body


@pytest.mark.parametrize("body", [RAGFLOW, RAGFLOW_COHERE, b'{"model":"r","query":"q","documents":["a"],"new":{}}'])
@pytest.mark.parametrize("shape", ["cohere", "jina", "vllm", "xinference"])
def test_what_imitates_cohere_goes_on_by_the_byte(body, shape):
    whole = a_call(body, RERANK)
    assert revised(whole, [Shaped(shape)])[0] is whole


def test_tei_to_tei_goes_on_by_the_byte():
    whole = a_call(RAGFLOW_TEI, RERANK)
    assert revised(whole, [Shaped("tei")])[0] is whole


def test_booleans_written_as_texts_stay_for_xinference_alone():
    assert sent(RAGFLOW_XINFERENCE, "xinference") == RAGFLOW_XINFERENCE
    for shape in ("cohere", "jina", "vllm"):
        assert sent(RAGFLOW_XINFERENCE, shape) == (
            b'{"model": "r", "query": "q", "return_documents": true, "documents": ["a", "b"]}'
        )


@pytest.mark.parametrize("body", [RAGFLOW, RAGFLOW_COHERE, RAGFLOW_XINFERENCE])
def test_tei_is_asked_in_its_own_words_and_not_for_what_gatepass_does(body):
    assert json.loads(sent(body, "tei")) == {"model": "r", "query": "q", "texts": ["a", "b"], "truncate": True}


def test_what_the_client_says_of_truncating_stays():
    body = b'{"query":"q","documents":["a"],"truncate":false,"new":1}'
    assert sent(body, "tei") == b'{"query":"q","texts":["a"],"truncate":false,"new":1}'


@pytest.mark.parametrize("shape", ["cohere", "jina", "vllm", "xinference"])
def test_a_client_of_tei_is_understood_everywhere(shape):
    body = b'{"query":"q","texts":["\\u00e9","b"],"raw_scores":false,"truncate":true,"return_text":true,"new":1}'
    assert sent(body, shape, "r") == b'{"query":"q","documents":["\\u00e9","b"],"new":1,"model":"r"}'
    assert sent(RAGFLOW_TEI, shape) == b'{"query":"q","documents":["a","b"]}'


def test_a_model_that_the_client_names_stays():
    assert sent(RAGFLOW, "jina", "other") == RAGFLOW


def test_raw_scores_are_had_from_tei_alone():
    body = b'{"query":"q","texts":["a"],"raw_scores":true}'
    assert sent(body, "tei") == body
    with pytest.raises(InvalidRequest) as caught:
        sent(body, "jina")
    assert caught.value.param == "raw_scores"


OBJECTS = b'{"query":{"text":"q"},"documents":["a",{"text":"b","title":"t"}],"x": 1}'


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("jina", OBJECTS),
        ("cohere", b'{"query":"q","documents":["a","b"],"x": 1}'),
        ("vllm", b'{"query":"q","documents":["a","b"],"x": 1}'),
        ("xinference", b'{"query":"q","documents":["a","b"],"x": 1}'),
        ("tei", b'{"query":"q","texts":["a","b"],"x": 1,"truncate":true}'),
    ],
)
def test_objects_become_texts_where_the_upstream_takes_no_objects(shape, expected):
    assert sent(OBJECTS, shape) == expected


@pytest.mark.parametrize("shape", sorted(set(SHAPES) - {"jina"}))
def test_a_picture_is_refused_by_its_place_where_it_cannot_be_ranked(shape):
    with pytest.raises(InvalidRequest) as caught:
        sent(b'{"query":"q","documents":["a",{"image":"x"}]}', shape)
    assert caught.value.param == ("texts[1]" if shape == "tei" else "documents[1]")
    with pytest.raises(InvalidRequest) as caught:
        sent(b'{"query":{"image":"x"},"documents":["a"]}', shape)
    assert caught.value.param == "query"


def test_rank_fields_go_to_cohere_with_their_objects_and_nowhere_else():
    body = b'{"query":"q","documents":[{"title":"t"}],"rank_fields":["title"]}'
    assert sent(body, "cohere") == body
    for shape in sorted(set(SHAPES) - {"cohere"}):
        with pytest.raises(InvalidRequest) as caught:
            sent(body, shape)
        assert caught.value.param == "rank_fields"


def test_a_list_of_parts_is_vllms_own():
    body = b'{"query":{"content":[]},"documents":{"content":[{"type":"text","text":"a"}]}}'
    assert sent(body, "vllm") == body
    for shape in ("jina", "cohere", "xinference"):
        with pytest.raises(InvalidRequest) as caught:
            sent(body, shape)
        assert caught.value.param == "documents"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("body", [RAGFLOW, RAGFLOW_COHERE, RAGFLOW_XINFERENCE, RAGFLOW_TEI, OBJECTS])
def test_every_shape_is_a_question_for_the_same_documents_and_is_stable(body, shape):
    once = sent(body, shape)
    assert Asked.of(once).count == 2
    assert sent(once, shape) == once


def test_the_entry_names_the_shape():
    call, made = revised(a_call(RAGFLOW, RERANK), [Shaped("tei")])
    assert call.adapted == ("rerank=tei",)
    assert made == [Shaped("tei")]
