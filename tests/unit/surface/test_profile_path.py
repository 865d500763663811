"""A profile in the path."""

import pytest

from gatepass.config.profiles import BUILT_IN, PLAIN
from gatepass.errors import UnknownPath
from gatepass.surface.profile_path import chosen, split_profile


@pytest.mark.parametrize(
    ("path", "base_path", "found"),
    [
        ("/for/dify/v1/chat/completions", "", ("dify", "/v1/chat/completions")),
        ("/for/ragflow/v1/v1/embeddings", "", ("ragflow", "/v1/v1/embeddings")),
        ("/for/ragflow/chat/completions", "", ("ragflow", "/chat/completions")),
        ("/llm/for/dify/v1/models", "/llm", ("dify", "/llm/v1/models")),
        ("/for/dify", "", ("dify", "/")),
        ("/for/dify/", "", ("dify", "/")),
        ("//for/dify/v1/models", "", ("dify", "/v1/models")),
        ("/for//dify//v1/models", "", ("dify", "/v1/models")),
        ("/llm//for/dify/v1/models", "/llm", ("dify", "/llm/v1/models")),
        ("/for/dify/v1/models//data/llama", "", ("dify", "/v1/models//data/llama")),
        ("/v1/models/a/for/b", "", (None, "/v1/models/a/for/b")),
        ("/v1/chat/completions", "", (None, "/v1/chat/completions")),
        ("/v1/for/dify", "", (None, "/v1/for/dify")),
        ("/for/dify/v1/models", "/llm", (None, "/for/dify/v1/models")),
        ("/fort/dify", "", (None, "/fort/dify")),
    ],
)
def test_a_path_tells_its_profile_and_what_it_is_without_it(path, base_path, found):
    assert split_profile(path, base_path) == found


def test_the_path_wins_over_the_key_and_both_over_plain():
    assert chosen(BUILT_IN, "dify", "ragflow") is BUILT_IN["dify"]
    assert chosen(BUILT_IN, None, "ragflow") is BUILT_IN["ragflow"]
    assert chosen(BUILT_IN, None, None) is PLAIN


@pytest.mark.parametrize("name", ["", "rag", "x" * 5000])
def test_a_profile_that_is_none_is_told_with_those_that_are(name):
    with pytest.raises(UnknownPath) as caught:
        chosen(BUILT_IN, name, "ragflow")
    assert "ragflow" in caught.value.message
    assert len(caught.value.message) < 400
