import pytest

from gatepass.config.upstream import RejectionConfig
from gatepass.dialects.reply_check import classify_head
from gatepass.errors import (
    UpstreamAuth,
    UpstreamConnect,
    UpstreamEmpty,
    UpstreamErrorReply,
    UpstreamHtml,
    UpstreamInvalid,
    UpstreamRedirect,
)
from gatepass.proxy.upstream_call import as_rejection, is_page, is_rejection
from gatepass.types import UpstreamErrorBody

HOST = "llm.corp.example:8443"
USUAL = RejectionConfig()


def refusal(status: int, code: str | None = None, kind: str | None = None) -> UpstreamErrorReply:
    return UpstreamErrorReply("no", upstream="chat", status=status, kind=kind, upstream_code=code)


def test_unauthorized_is_a_rejection_in_every_shape_and_so_is_a_page():
    unauthorized = UpstreamAuth("no", upstream="chat", status=401)
    for error in (unauthorized, refusal(401), UpstreamHtml("a page", upstream="chat")):
        assert is_rejection(error, USUAL)


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500, 502])
def test_other_statuses_are_rejections_only_if_configured(status):
    assert not is_rejection(refusal(status), USUAL)
    assert is_rejection(refusal(status), RejectionConfig(statuses=[status]))


def test_configured_code_is_a_rejection_whatever_its_status():
    config = RejectionConfig.model_validate({"codes": ["A0230", 40101]})
    for status in (400, 403, 502):
        assert is_rejection(refusal(status, "A0230"), config)
        assert is_rejection(refusal(status, "40101"), config)
        assert not is_rejection(refusal(status, "A0231"), config)
        assert not is_rejection(refusal(status), config)


@pytest.mark.parametrize("kind", [UpstreamConnect, UpstreamEmpty, UpstreamInvalid])
def test_a_reply_that_does_not_mention_a_token_is_no_rejection(kind):
    assert not is_rejection(kind("no", upstream="chat"), RejectionConfig(statuses=[502], codes=["upstream_empty"]))


@pytest.mark.parametrize(
    "target",
    [
        "https://sso.corp.example/",
        "/login",
        "/Login.aspx?ReturnUrl=%2fv1",
        "/oauth2/authorize?client_id=1",
        "https://llm.corp.example/sso/start",
    ],
)
def test_redirect_to_another_host_or_a_login_path_leads_to_a_login(target):
    error = classify_head("chat", 302, ((b"location", target.encode()),), host=HOST)
    assert isinstance(error, UpstreamRedirect)
    assert is_rejection(error, USUAL)
    assert error.advice == "Set upstreams.chat.base_url to the API's own address, or correct the credential."


@pytest.mark.parametrize(
    "target",
    [
        None,
        "",
        "https://llm.corp.example/v1/chat/completions",
        "/v1/chat/completions/",
        "/v1/loginfo",
        "https://[half",
    ],
)
def test_redirect_that_states_only_that_the_url_is_wrong_leads_to_none(target):
    error = classify_head("chat", 302, () if target is None else ((b"location", target.encode()),), host=HOST)
    assert isinstance(error, UpstreamRedirect)
    assert not is_rejection(error, USUAL)
    assert error.advice.startswith("Set upstreams.chat.base_url to the final URL")


@pytest.mark.parametrize("implied", [502, 404])  # of an unknown code, and of RAGFlow's
def test_configured_code_inside_a_success_becomes_a_401(implied):
    error = refusal(implied, "A0230", "server_error")
    error.relayed = ((b"x-ratelimit-limit", b"1"),)
    error.should_retry = False
    auth = as_rejection(error, RejectionConfig(codes=["A0230"]), 200)
    assert isinstance(auth, UpstreamAuth)
    assert (auth.http_status, auth.public_code, auth.kind) == (401, "upstream_auth", "authentication_error")
    assert (auth.message, auth.hop, auth.upstream_code, auth.relayed) == ("no", "upstream:chat", "A0230", error.relayed)
    assert auth.should_retry is False


def test_configured_code_with_a_status_of_its_own_keeps_that():
    auth = as_rejection(refusal(400, "A0230", "invalid_request_error"), RejectionConfig(codes=["A0230"]), 400)
    assert isinstance(auth, UpstreamAuth)
    assert (auth.http_status, auth.kind) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    "error",
    [
        refusal(403),
        refusal(502, "B1"),
        UpstreamAuth("no", upstream="chat", status=401, upstream_code="A0230"),
        UpstreamHtml("a page", upstream="chat"),
    ],
)
def test_other_errors_keep_their_names(error):
    assert as_rejection(error, RejectionConfig(statuses=[403], codes=["A0230"]), 403) is error


def test_a_page_may_concern_its_request_alone_and_a_401_does_not():
    body = UpstreamErrorBody("a page", code=UpstreamHtml.code, own="page")
    pages = [
        UpstreamHtml("a page", upstream="chat"),
        UpstreamHtml("a page", upstream="chat", status=403),
        UpstreamRedirect("elsewhere", upstream="chat"),
        UpstreamErrorReply("a page", upstream="chat", status=403, upstream_code=body.code, error_body=body),
    ]
    others = [
        refusal(401, UpstreamHtml.code),
        refusal(403, UpstreamHtml.code),
        refusal(403),
        refusal(401),
        UpstreamEmpty("nothing", upstream="chat"),
    ]
    assert ([*map(is_page, pages)], [*map(is_page, others)]) == ([True] * 4, [False] * 5)
