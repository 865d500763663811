import pytest

from gatepass.config.upstream import Assistant, assistant
from gatepass.dialects.base import Dialect
from gatepass.dialects.ragflow import RagflowDialect, chat_url, list_url
from gatepass.errors import ModelNotFound
from gatepass.types import Call, Target, Timeouts
from tests.rows import CHAT, EMBEDDINGS, MODELS

BASE = "http://rag:9380/api/v1"


def written(operation=CHAT, target: str | None = "2e3b", paths="current", model="my-bot"):
    dialect: Dialect = RagflowDialect(paths=paths)
    call = Call("gp-1", operation, "me", model, b"{}", ())
    return dialect.encode(call, Target("rag", target), BASE, Timeouts())


@pytest.mark.parametrize(
    ("target", "paths", "path"),
    [
        ("2e3b", "current", "/openai/2e3b/chat/completions"),
        ("2e3b", "old", "/chats_openai/2e3b/chat/completions"),
        ("agent:77", "current", "/agents/chat/completions"),
        ("agent:77", "old", "/agents_openai/77/chat/completions"),
        (None, "current", "/openai/my-bot/chat/completions"),
    ],
)
def test_the_assistant_stands_in_the_path(target, paths, path):
    request = written(target=target, paths=paths)
    assert (request.method, request.url, request.body) == ("POST", BASE + path, b"{}")


def test_the_list_is_one_of_assistants_and_is_not_shown():
    request = written(MODELS)
    assert (request.method, request.url, request.body) == ("GET", BASE + "/chats?page=1&page_size=1", b"")
    assert not RagflowDialect.lists_models


def test_url_of_an_unsupported_operation_is_joined_plainly():
    """No call gets here: RagflowBody refuses it before."""
    assert written(EMBEDDINGS).url == BASE + "/embeddings"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("2e3b", Assistant("2e3b", is_agent=False)),
        ("chat:2e3b", Assistant("2e3b", is_agent=False)),
        ("agent:77", Assistant("77", is_agent=True)),
        ("team:77", Assistant("team:77", is_agent=False)),
    ],
)
def test_a_models_name_names_the_assistant(name, meant):
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
    assert chat_url(base, name, paths) == f"http://rag:9380{path}"


def test_a_prefix_of_the_servers_own_stays():
    assert chat_url("https://h/tools/rag", "i", "old") == "https://h/tools/rag/api/v1/chats_openai/i/chat/completions"


@pytest.mark.parametrize(
    ("name", "paths"), [("..", "current"), (".", "old"), ("agent:..", "old"), ("chat:", "current")]
)
def test_an_id_is_no_step_through_the_path(name, paths):
    with pytest.raises(ModelNotFound, match="cannot be the name of a model"):
        chat_url("http://rag", name, paths)


@pytest.mark.parametrize("base", ["http://rag:9380", "http://rag:9380/api/v1"])
def test_assistants_are_listed_at_one_path_in_every_version(base):
    assert list_url(base) == "http://rag:9380/api/v1/chats?page=1&page_size=1"
