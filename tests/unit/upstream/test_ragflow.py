import pytest

from gatepass.call import Call, Operation, Surface, Target, Timeouts
from gatepass.upstream.dialect import Dialect
from gatepass.upstream.ragflow import RagflowDialect

CHAT = Operation("chat", "POST", "/chat/completions", Surface.CHAT, "")
EMBEDDINGS = Operation("embeddings", "POST", "/embeddings", Surface.EMBEDDINGS, "")
MODELS = Operation("models", "GET", "/models", Surface.MODELS, "")
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


def test_what_it_does_not_have_is_joined_plainly():
    """No call gets here: RagflowBody refuses it before."""
    assert written(EMBEDDINGS).url == BASE + "/embeddings"
