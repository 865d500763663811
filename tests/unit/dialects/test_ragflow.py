import pytest

from gatepass.dialects.base import Dialect
from gatepass.dialects.ragflow import RagflowDialect, chat_url
from gatepass.errors import ModelNotFound
from gatepass.types import Call, Target, Timeouts
from tests.rows import CHAT, MODELS

BASE = "http://rag:9380/api/v1"


def written(operation=CHAT, target: str | None = "2e3b", paths="current", model="my-bot"):
    dialect: Dialect = RagflowDialect(paths=paths)
    call = Call("gp-1", operation, "me", model, b"{}", ())
    return dialect.encode(call, Target("rag", target), BASE, Timeouts())


@pytest.mark.parametrize(
    ("target", "paths", "path"),
    [
        ("agent:77", "current", "/agents/chat/completions"),
        (None, "current", "/openai/my-bot/chat/completions"),
        ("chat:2e3b", "current", "/openai/2e3b/chat/completions"),
        ("team:77", "current", "/openai/team%3A77/chat/completions"),
    ],
)
def test_the_assistant_stands_in_the_path(target, paths, path):
    request = written(target=target, paths=paths)
    assert (request.method, request.url, request.body) == ("POST", BASE + path, b"{}")


def test_the_list_is_one_of_assistants_and_is_not_shown():
    request = written(MODELS)
    assert (request.method, request.url, request.body) == ("GET", BASE + "/chats?page=1&page_size=1", b"")
    assert not RagflowDialect.lists_models


def test_the_base_may_end_with_the_version_and_a_name_stays_one_segment():
    for base in ("http://rag:9380", "http://rag:9380/", "http://rag:9380/api/v1/"):
        assert chat_url(base, "a/../b?", "current") == f"{BASE}/openai/a%2F..%2Fb%3F/chat/completions"
    assert chat_url("https://h/tools/rag", "i", "old") == "https://h/tools/rag/api/v1/chats_openai/i/chat/completions"


@pytest.mark.parametrize(
    ("name", "paths"), [("..", "current"), (".", "old"), ("agent:..", "old"), ("chat:", "current")]
)
def test_an_id_is_no_step_through_the_path(name, paths):
    with pytest.raises(ModelNotFound, match="cannot be the name of a model"):
        chat_url("http://rag", name, paths)
