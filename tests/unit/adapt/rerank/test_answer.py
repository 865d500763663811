"""A reranker's answer, as the client reads it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.adapt.rerank.answer import Unfit, answer
from gatepass.adapt.rerank.question import Asked

PLAIN, TEI = Asked(3), Asked(3, is_tei=True)
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
DIGITS, NESTED = b"9" * 400, b"[" * 5000 + b"]" * 5000
REPLIES = [COHERE, TEI_REPLY, VLLM, XINFERENCE, SCORED]


def read(reply: bytes | Unfit):
    assert isinstance(reply, bytes)
    return json.loads(reply)


def scores(document) -> list[tuple[int, float]]:
    """As RAGFlow reads them: by name, nothing else."""
    if isinstance(document, list):
        return [(result["index"], result["score"]) for result in document]
    return [(result["index"], result["relevance_score"]) for result in document["results"]]


@pytest.mark.parametrize("asked", [PLAIN, TEI])
@pytest.mark.parametrize("reply", REPLIES)
def test_every_reply_says_the_same_to_every_client(reply, asked):
    told = read(answer(reply, asked))
    assert isinstance(told, list) is asked.is_tei
    assert scores(told) == [(2, 0.9), (0, 0.001)]


@pytest.mark.parametrize(("reply", "asked"), [(COHERE, PLAIN), (TEI_REPLY, TEI), (COHERE, Asked(3, top_n=2))])
def test_what_is_right_already_is_the_same_object(reply, asked):
    assert answer(reply, asked) is reply


def test_an_echo_that_was_asked_for_and_is_there_is_the_same_object():
    asked = Asked(3, echoed=TEXTS)
    reply = b'{"results":[{"index":0,"document":{"text":"a"},"relevance_score":1}]}'
    assert answer(reply, asked) is reply


@pytest.mark.parametrize("reply", REPLIES)
def test_documents_come_only_where_they_were_asked_for(reply):
    for asked in (PLAIN, TEI):
        told = read(answer(reply, asked))
        results = told if asked.is_tei else told["results"]
        assert not any({"document", "text"} & result.keys() for result in results)


def test_documents_that_were_asked_for_are_those_of_the_request():
    reply = b'[{"index":0,"score":3},{"index":1,"score":2},{"index":2,"score":1,"text":"mine"}]'
    told = read(answer(reply, Asked(3, echoed=TEXTS)))
    documents = [result["document"] for result in told["results"]]
    assert documents == [{"text": "a"}, {"text": "b", "title": "t"}, {"text": "é"}]
    plain = read(answer(reply, Asked(3, is_tei=True, echoed=(b'"a"', b'"b"', b'"c"'))))
    assert [result["text"] for result in plain] == ["a", "b", "mine"]


def test_a_document_that_came_as_a_text_becomes_what_clients_read():
    reply = b'{"results":[{"index":0,"relevance_score":1,"document":"a"}]}'
    assert read(answer(reply, Asked(1, echoed=(b'"a"',))))["results"][0]["document"] == {"text": "a"}


def test_members_that_nobody_knows_stay_by_the_byte():
    told = answer(SCORED, PLAIN)
    assert told == (
        b'{"object":"list","model":"r","results":[{"index":2,"object":"score","relevance_score":0.9},'
        b'{"index":0,"relevance_score":1e-3}]}'
    )


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (PLAIN, b'{"results":[{"index":2,"relevance_score":0.9},{"index":0,"relevance_score":1e-3}]}'),
        (Asked(3, top_n=1), b'{"results":[{"index":2,"relevance_score":0.9}]}'),
    ],
)
def test_a_bare_list_becomes_its_results_and_nothing_else(asked, expected):
    assert answer(TEI_REPLY, asked) == expected


def test_the_best_are_kept_where_the_upstream_knows_no_top_n():
    reply = b'[{"index":0,"score":-3},{"index":1,"score":-1},{"index":2,"score":-2}]'
    assert scores(read(answer(reply, Asked(3, top_n=2)))) == [(1, -1), (2, -2)]
    assert scores(read(answer(reply, Asked(3, top_n=3)))) == [(0, -3), (1, -1), (2, -2)]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"nonsense", "the reply is no list of objects"),
        (b"[1]", "the reply is no list of objects"),
        (b'{"object":"list"}', 'the reply has no "results"'),
        (b'{"results":null}', '"results" is no list of objects'),
        (b'{"data":{"x":1}}', '"data" is no list of objects'),
        (b'{"results":[]}', "it ranks none of 3 documents"),
        (b"[]", "it ranks none of 3 documents"),
        (b'[{"score":1}]', 'a result has no "index" from 0 to 2'),
        (b'[{"index":3,"score":1}]', 'a result has no "index" from 0 to 2'),
        (b'[{"index":-1,"score":1}]', 'a result has no "index" from 0 to 2'),
        (b'[{"index":true,"score":1}]', 'a result has no "index" from 0 to 2'),
        (b'[{"index":"0","score":1}]', 'a result has no "index" from 0 to 2'),
        (b'[{"index":1}]', "the result of document 1 has no score"),
        (b'[{"index":1,"score":null}]', "the result of document 1 has no score"),
        (b'[{"index":1,"score":"0.5"}]', "the result of document 1 has no score"),
        (b'[{"index":1,"score":1e999}]', "the result of document 1 has no score"),
        (b'[{"index":1,"score":%b}]' % DIGITS, "the result of document 1 has no score"),
        (b'[{"index":1,"score":-%b}]' % DIGITS, "the result of document 1 has no score"),
        (b'[{"index":%b,"score":1}]' % DIGITS, 'a result has no "index" from 0 to 2'),
        (b'[{"index":-%b,"score":1}]' % DIGITS, 'a result has no "index" from 0 to 2'),
        (b'[{"index":1,"score":"\xff"}]', "the result of document 1 has no score"),
        (b'{"data":[{"index":1,"score":1,"x":"\xff"}]}', "the reply is no text in UTF-8"),
        (b'{"data":[{"index":1,"score":1}],"meta":"\xff"}', "the reply is no text in UTF-8"),
        (b'{"results":%b}' % NESTED, "the reply is no list of objects"),
        (NESTED, "the reply is no list of objects"),
        (b'[{"index":1,"score":1},{"index":1,"score":0}]', "it ranks a document twice"),
    ],
)
def test_what_would_be_read_as_zeros_is_refused_with_the_reason(reply, reason):
    assert answer(reply, PLAIN) == Unfit(reason)


@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=9).flatmap(
        lambda values: st.tuples(st.just(values), st.permutations(range(len(values))), st.integers(1, 10))
    ),
    st.booleans(),
    st.sampled_from([("results", "relevance_score"), ("data", "score"), ("", "score")]),
)
def test_a_document_keeps_its_score_whatever_the_order_and_the_shape(drawn, is_tei, names):
    values, order, top_n = drawn
    (name, score), asked = names, Asked(len(values), top_n=top_n, is_tei=is_tei)
    listed = [{"index": index, score: values[index]} for index in order]
    told = scores(read(answer(json.dumps({name: listed} if name else listed).encode(), asked)))
    assert len(told) == min(top_n, len(values))
    assert all(values[index] == value for index, value in told)
    assert sorted((value for _, value in told), reverse=True) == sorted(values, reverse=True)[:top_n]
