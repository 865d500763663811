import pytest

from gatepass.config.network import TokenPlacement
from gatepass.config.references import UnresolvedReference
from gatepass.observability.redaction import Redactor
from gatepass.tokens.credential_injector import CredentialInjector
from gatepass.types import OutboundRequest, Secret

PLAIN = OutboundRequest(
    "POST", "https://llm.corp.example/v1/chat/completions", ((b"accept", b"application/json"),), b"{}"
)
ACCEPT = PLAIN.headers[0]


def added(injector: CredentialInjector, token: str | None = "abc", request: OutboundRequest = PLAIN):
    """Return the request that `injector` made of `request`: its new headers, and the query of its URL."""
    loaded = injector.authorize(request, None if token is None else Secret(token))
    assert (loaded.method, loaded.body, loaded.timeouts) == (request.method, request.body, request.timeouts)
    assert loaded.url.startswith(request.url)
    return [field for field in loaded.headers if field != ACCEPT], loaded.url.removeprefix(request.url)


QUERIED = OutboundRequest("GET", "https://azure.example/models?api-version=1", (ACCEPT,))


@pytest.mark.parametrize(
    ("placement", "token", "request_", "fields", "query"),
    [
        (None, "ragflow-abc~.+/=", PLAIN, [(b"authorization", b"Bearer ragflow-abc~.+/=")], ""),
        (None, "a{token}b", PLAIN, [(b"authorization", b"Bearer a{token}b")], ""),
        (
            {"headers": {"X-Auth-Token": "{token}", "Authorization": "Token t={token};v=1"}},
            "abc",
            PLAIN,
            [(b"x-auth-token", b"abc"), (b"authorization", b"Token t=abc;v=1")],
            "",
        ),
        ({"query": "access_token"}, "24.a/b+c==", PLAIN, [], "?access_token=24.a%2Fb%2Bc%3D%3D"),
        ({"query": "key"}, "abc", QUERIED, [], "&key=abc"),
        ({"headers": {"api-key": "{token}"}, "query": "key"}, "abc", PLAIN, [(b"api-key", b"abc")], "?key=abc"),
    ],
)
def test_a_token_goes_where_its_placement_says(placement, token, request_, fields, query):
    injector = CredentialInjector() if placement is None else CredentialInjector(TokenPlacement(**placement))
    assert added(injector, "another-token", request_) != (fields, query)
    assert added(injector, token, request_) == (fields, query)


def test_request_without_token_and_headers_is_the_very_same():
    assert CredentialInjector().authorize(PLAIN, None) is PLAIN


def test_static_headers_are_sent_with_and_without_a_token():
    injector = CredentialInjector(headers={"AI-Resource-Group": Secret("default")})
    group = (b"ai-resource-group", b"default")
    assert added(injector) == ([group, (b"authorization", b"Bearer abc")], "")
    assert added(injector, None) == ([group], "")


def test_static_header_replaces_the_clients():
    client = OutboundRequest("POST", PLAIN.url, ((b"openai-organization", b"mine"), (b"user-agent", b"sdk")))
    injector = CredentialInjector(headers={"OpenAI-Organization": Secret("ours")})
    assert injector.authorize(client, None).headers == ((b"user-agent", b"sdk"), (b"openai-organization", b"ours"))


@pytest.mark.parametrize("value", ["", "a b", "a\r\nx: y", "tokén", "a\x00", "a\x7f", "a\ud800"])
def test_invalid_token_is_rejected_without_being_quoted(value):
    with pytest.raises(ValueError) as raised:
        added(CredentialInjector(), value)
    assert str(raised.value) == "the token is empty or contains a space, a line break or a non-ASCII character"
    assert raised.value.__cause__ is raised.value.__context__ is None


@pytest.mark.parametrize("placement", [TokenPlacement(), TokenPlacement(query="access_token")])
def test_token_that_cannot_be_sent_leaves_no_other_one_in_its_place(placement):
    injector = CredentialInjector(placement)
    injector.authorize(PLAIN, Secret("first-token"))
    for _ in range(2):
        with pytest.raises(ValueError):
            injector.authorize(PLAIN, Secret("two words"))


@pytest.mark.parametrize("bad", ["two\nlines", ""])
def test_static_header_that_was_never_good_is_reported_before_any_request(bad):
    with pytest.raises(UnresolvedReference, match=r"^upstreams\.chat\.headers\.X-Key: (begins|is empty)"):
        CredentialInjector(headers={"X-Key": Secret(bad)}, upstream="chat")


def test_static_headers_that_may_be_secrets_are_masked_and_names_are_not():
    redactor = Redactor()
    CredentialInjector(headers={"X-Key": Secret("0123456789abcdef"), "X-Group": Secret("default")}, redactor=redactor)
    assert redactor.mask("key 0123456789abcdef of group default") == "key *** of group default"
