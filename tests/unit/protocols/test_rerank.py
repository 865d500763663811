"""The options of a rerank request."""

import json
import re

import pytest

from gatepass.config.upstream import RerankShape
from gatepass.errors import InvalidRequest, UpstreamInvalid
from gatepass.normalize.rules import apply_changes
from gatepass.protocols.rerank import ConvertRerank, RerankOptions, client_ranking
from tests.rows import RERANK
from tests.unit.normalize.calls import a_call


def body(**members) -> bytes:
    return json.dumps({"model": "r", "query": "q", **members}).encode()


@pytest.mark.parametrize(
    ("members", "asked"),
    [
        ({"documents": ["a", "b"], "top_n": 1}, RerankOptions(2, top_n=1)),
        ({"documents": ["a"], "top_n": None, "return_documents": False}, RerankOptions(1)),
        ({"documents": ["a"], "top_n": 0}, RerankOptions(1)),
        ({"documents": ["a"], "return_documents": "true", "return_len": "true"}, RerankOptions(1, echoed=(b'"a"',))),
        (
            {"documents": [{"text": "a"}, "b"], "return_documents": True},
            RerankOptions(2, echoed=(b'{"text": "a"}', b'"b"')),
        ),
        ({"texts": ["a", "b"], "raw_scores": False, "truncate": True}, RerankOptions(2, is_tei=True)),
        ({"texts": ["a"], "return_text": True}, RerankOptions(1, is_tei=True, echoed=(b'"a"',))),
        ({"query": {"image": "…"}, "documents": [{"image": "…"}]}, RerankOptions(1)),
    ],
)
def test_a_request_states_the_form_of_its_reply(members, asked):
    assert RerankOptions.of(body(**members)) == asked


@pytest.mark.parametrize(
    ("members", "param", "expected"),
    [
        ({"query": ["q"], "documents": ["a"]}, "query", "must be a string"),
        ({}, "documents", "no `documents`"),
        ({"documents": ["a"], "texts": ["a"]}, "texts", "both"),
        ({"documents": "a"}, "documents", "must be a list"),
        ({"texts": []}, "texts", "is empty"),
        ({"documents": ["a", 1]}, "documents[1]", "must be a string"),
        ({"documents": ["a"], "top_n": -1}, "top_n", "an integer of at least 1"),
        ({"documents": ["a"], "top_n": True}, "top_n", "an integer of at least 1"),
        ({"documents": ["a"], "return_documents": "yes"}, "return_documents", "true or false"),
    ],
)
def test_a_bad_request_is_reported_by_the_name_of_the_member(members, param, expected):
    with pytest.raises(InvalidRequest) as caught:
        RerankOptions.of(body(**members))
    assert caught.value.param == param
    assert expected in caught.value.message


def test_a_request_without_a_query_is_rejected():
    with pytest.raises(InvalidRequest, match="no `query`"):
        RerankOptions.of(b'{"model":"r","documents":["a"]}')


RAGFLOW = b'{"model": "r", "query": "q", "documents": ["a", "b"], "top_n": 2}'
RAGFLOW_COHERE = b'{"model":"r","query":"q","documents":["a","b"],"top_n":2,"return_documents":false}'
RAGFLOW_XINFERENCE = (
    b'{"model": "r", "query": "q", "return_documents": "true", "return_len": "true", "documents": ["a", "b"]}'
)
RAGFLOW_TEI = b'{"query":"q","texts":["a","b"],"raw_scores":false,"truncate":true}'


def sent(body: bytes, shape: RerankShape, model: str | None = None) -> bytes:
    return apply_changes(a_call(body, RERANK), [ConvertRerank(shape, model)])[0].body


@pytest.mark.parametrize("body", [RAGFLOW, RAGFLOW_COHERE, b'{"model":"r","query":"q","documents":["a"],"new":{}}'])
def test_request_in_the_upstreams_shape_keeps_its_bytes(body):
    whole = a_call(body, RERANK)
    assert apply_changes(whole, [ConvertRerank()])[0] is whole


@pytest.mark.parametrize("body", [RAGFLOW, RAGFLOW_COHERE, RAGFLOW_XINFERENCE])
def test_tei_receives_its_own_shape_without_top_n(body):
    assert json.loads(sent(body, "tei")) == {"model": "r", "query": "q", "texts": ["a", "b"], "truncate": True}


def test_a_client_of_tei_is_understood_everywhere():
    body = b'{"query":"q","texts":["\\u00e9","b"],"raw_scores":false,"truncate":true,"return_text":true,"new":1}'
    assert sent(body, "jina", "r") == b'{"query":"q","documents":["\\u00e9","b"],"new":1,"model":"r"}'
    assert sent(RAGFLOW_TEI, "jina") == b'{"query":"q","documents":["a","b"]}'


def test_raw_scores_are_supported_by_tei_only():
    body = b'{"query":"q","texts":["a"],"raw_scores":true}'
    assert sent(body, "tei") == body
    with pytest.raises(InvalidRequest) as caught:
        sent(body, "jina")
    assert caught.value.param == "raw_scores"


OBJECTS = b'{"query":{"text":"q"},"documents":["a",{"text":"b","title":"t"}],"rank_fields":["title"]}'
TRUNCATED = b'{"query":"q","documents":["a"],"truncate":false,"new":1}'


@pytest.mark.parametrize(
    ("body", "shape", "model", "expected"),
    [
        (OBJECTS, "jina", None, OBJECTS),
        (OBJECTS, "tei", None, b'{"query":{"text":"q"},"texts":["a",{"text":"b","title":"t"}],"truncate":true}'),
        (TRUNCATED, "tei", None, b'{"query":"q","texts":["a"],"truncate":false,"new":1}'),
        (RAGFLOW, "jina", "other", RAGFLOW),
        (RAGFLOW_XINFERENCE, "jina", None, b'{"model":"r","query":"q","documents":["a", "b"]}'),
    ],
)
def test_a_request_has_the_form_of_its_upstream_and_requests_no_documents(body, shape, model, expected):
    assert sent(body, shape, model) == expected


PLAIN, TEI = RerankOptions(3), RerankOptions(3, is_tei=True)
TEXTS = (b'"a"', b'{"text":"b","title":"t"}', b'"\\u00e9"')

COHERE = (
    b'{"id":"1", "results": [{"index":2,"relevance_score":0.9},{"index":0,"relevance_score":1e-3}],'
    b'"meta":{"api_version":{"version":"2"}}}'
)
TEI_REPLY = b'[{"index":2,"score":0.9},{"index":0,"score":1e-3}]'
VLLM = (
    b'{"id":"rerank-1","model":"r","usage":{"total_tokens":56},"results":['
    b'{"index":2,"document":{"text":"x","multi_modal":null},"relevance_score":0.9},'
    b'{"index":0,"document":{"text":"a"},"relevance_score":1e-3}]}'
)
XINFERENCE = (
    b'{"id":"2","results":[{"index":2,"relevance_score":0.9,"document":null},'
    b'{"index":0,"relevance_score":1e-3,"document":null}],"meta":{"tokens":null}}'
)
SCORED = b'{"object":"list","data":[{"index":2,"score":0.9,"object":"score"},{"index":0,"score":1e-3}],"model":"r"}'
DIGITS, NESTED = b"9" * 400, b"[" * 400_000 + b"]" * 400_000


def scores(document) -> list[tuple[int, float]]:
    """As RAGFlow reads them: by name, nothing else."""
    if isinstance(document, list):
        return [(result["index"], result["score"]) for result in document]
    return [(result["index"], result["relevance_score"]) for result in document["results"]]


ECHOED = b'{"results":[{"index":0,"document":{"text":"a"},"relevance_score":1}]}'


@pytest.mark.parametrize(
    ("reply", "asked"),
    [
        *((COHERE, PLAIN), (TEI_REPLY, TEI), (COHERE, RerankOptions(3, top_n=2))),
        (ECHOED, RerankOptions(3, echoed=TEXTS)),
    ],
)
def test_correct_ranking_is_the_same_object(reply, asked):
    assert client_ranking(reply, asked, "chat") is reply


@pytest.mark.parametrize("reply", [COHERE, TEI_REPLY, VLLM, XINFERENCE, SCORED])
def test_every_reply_has_its_scores_and_no_documents_that_nobody_requested(reply):
    for asked in (PLAIN, TEI):
        reported = json.loads(client_ranking(reply, asked, "chat"))
        results = reported if asked.is_tei else reported["results"]
        assert not any({"document", "text"} & result.keys() for result in results)
        assert scores(reported) == [(2, 0.9), (0, 0.001)]


def test_returned_documents_are_those_of_the_request():
    reply = b'[{"index":0,"score":3},{"index":1,"score":2},{"index":2,"score":1,"text":"mine"}]'
    reported = json.loads(client_ranking(reply, RerankOptions(3, echoed=TEXTS), "chat"))
    documents = [result["document"] for result in reported["results"]]
    assert documents == [{"text": "a"}, {"text": "b", "title": "t"}, {"text": "é"}]
    plain = json.loads(client_ranking(reply, RerankOptions(3, is_tei=True, echoed=(b'"a"', b'"b"', b'"c"')), "chat"))
    assert [result["text"] for result in plain] == ["a", "b", "mine"]


def test_a_document_that_came_as_a_text_becomes_what_clients_read():
    reply = b'{"results":[{"index":0,"relevance_score":1,"document":"a"}]}'
    assert json.loads(client_ranking(reply, RerankOptions(1, echoed=(b'"a"',)), "chat"))["results"][0]["document"] == {
        "text": "a"
    }


def test_unknown_members_keep_their_bytes():
    reported = client_ranking(SCORED, PLAIN, "chat")
    assert reported == (
        b'{"object":"list","model":"r","results":[{"index":2,"object":"score","relevance_score":0.9},'
        b'{"index":0,"relevance_score":1e-3}]}'
    )


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (PLAIN, b'{"results":[{"index":2,"relevance_score":0.9},{"index":0,"relevance_score":1e-3}]}'),
        (RerankOptions(3, top_n=1), b'{"results":[{"index":2,"relevance_score":0.9}]}'),
    ],
)
def test_a_bare_list_becomes_its_results_and_nothing_else(asked, expected):
    assert client_ranking(TEI_REPLY, asked, "chat") == expected


def test_best_results_are_kept_if_the_upstream_has_no_top_n():
    reply = b'[{"index":0,"score":-3},{"index":1,"score":-1},{"index":2,"score":-2}]'
    assert scores(json.loads(client_ranking(reply, RerankOptions(3, top_n=2), "chat"))) == [(1, -1), (2, -2)]
    assert scores(json.loads(client_ranking(reply, RerankOptions(3, top_n=3), "chat"))) == [(0, -3), (1, -1), (2, -2)]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"nonsense", "the reply is not a list of objects"),
        (b'{"object":"list"}', 'the reply has no "results"'),
        (b'{"data":{"x":1}}', '"data" is not a list of objects'),
        (b'{"results":[]}', "it ranks none of 3 documents"),
        (b'[{"score":1}]', 'a result has no "index" from 0 to 2'),
        (b'[{"index":3,"score":1}]', 'a result has no "index" from 0 to 2'),
        (b'[{"index":-1,"score":1}]', 'a result has no "index" from 0 to 2'),
        (b'[{"index":true,"score":1}]', 'a result has no "index" from 0 to 2'),
        (b'[{"index":1}]', "the result of document 1 has no score"),
        (b'[{"index":1,"score":null}]', "the result of document 1 has no score"),
        (b'[{"index":1,"score":%b}]' % DIGITS, "the result of document 1 has no score"),
        (b'[{"index":%b,"score":1}]' % DIGITS, 'a result has no "index" from 0 to 2'),
        (b'[{"index":1,"score":"\xff"}]', "the result of document 1 has no score"),
        (b'{"data":[{"index":1,"score":1,"x":"\xff"}]}', "the reply is not UTF-8"),
        (NESTED, "the reply is not a list of objects"),
        (b'[{"index":1,"score":1},{"index":1,"score":0}]', "it ranks a document twice"),
    ],
)
def test_reply_without_a_ranking_is_refused_with_the_reason(reply, reason):
    with pytest.raises(UpstreamInvalid, match=re.escape(f"The upstream's reply is not a ranking: {reason}.")):
        client_ranking(reply, PLAIN, "chat")
