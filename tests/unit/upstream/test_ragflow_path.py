import pytest

from gatepass.errors import ModelNotFound
from gatepass.upstream.ragflow_path import Assistant, assistant, chat_url, list_url


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("2e3b", Assistant("2e3b", is_agent=False)),
        ("chat:2e3b", Assistant("2e3b", is_agent=False)),
        ("agent:77", Assistant("77", is_agent=True)),
        ("team:77", Assistant("team:77", is_agent=False)),
    ],
)
def test_a_models_name_says_which_assistant_is_meant(name, meant):
    assert assistant(name) == meant


@pytest.mark.parametrize(
    "base", ["http://rag:9380", "http://rag:9380/", "http://rag:9380/api/v1", "http://rag:9380/api/v1/"]
)
@pytest.mark.parametrize(
    ("name", "paths", "path"),
    [
        ("2e3b", "current", "/api/v1/openai/2e3b/chat/completions"),
        ("2e3b", "old", "/api/v1/chats_openai/2e3b/chat/completions"),
        ("agent:77", "current", "/api/v1/agents/chat/completions"),
        ("agent:77", "old", "/api/v1/agents_openai/77/chat/completions"),
        ("a/../b?", "current", "/api/v1/openai/a%2F..%2Fb%3F/chat/completions"),
    ],
)
def test_urls_of_both_generations(base, name, paths, path):
    assert chat_url(base, assistant(name), paths) == f"http://rag:9380{path}"


def test_a_prefix_of_the_servers_own_stays():
    assert (
        chat_url("https://h/tools/rag", assistant("i"), "old")
        == "https://h/tools/rag/api/v1/chats_openai/i/chat/completions"
    )


@pytest.mark.parametrize(
    ("name", "paths"), [("..", "current"), (".", "old"), ("agent:..", "old"), ("chat:", "current")]
)
def test_an_id_is_no_step_through_the_path(name, paths):
    with pytest.raises(ModelNotFound, match="no model of the name"):
        chat_url("http://rag", assistant(name), paths)


@pytest.mark.parametrize("base", ["http://rag:9380", "http://rag:9380/api/v1"])
def test_assistants_are_listed_at_one_path_in_every_version(base):
    assert list_url(base) == "http://rag:9380/api/v1/chats?page=1&page_size=1"
