"""What the inspector keeps of requests, and how it renders it."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from gatepass.cli import options
from gatepass.config.network import Network, TimeoutSettings
from gatepass.dialects.reply_check import ReceivedReply, classify_error
from gatepass.documents import Summary
from gatepass.errors import (
    Fault,
    GatepassError,
    InvalidImage,
    ModelNotFound,
    TokenUnavailable,
    TransportFault,
    UpstreamAuth,
    UpstreamDns,
    UpstreamError,
    UpstreamErrorReply,
    UpstreamInvalid,
)
from gatepass.http_client.tls import LATE_TLS, TLS_PORT, TlsProblem
from gatepass.normalize.ragflow_body import RagflowBody
from gatepass.normalize.rules import normalize
from gatepass.observability.inspector import ANONYMOUS, RECORD_BYTES, Inspector
from gatepass.observability.observer import AccessRecord, Arrivals, AttemptRecord, RequestRecord, SentToken
from gatepass.observability.story import (
    CALL_OPERATIONS,
    advice_of,
    closed_by,
    has_id,
    matches,
    names_of,
    story_of,
    summary_of,
)
from gatepass.observability.story import test_command as command_of
from gatepass.proxy.upstream_call import upstream_error
from gatepass.types import Target
from tests.unit.normalize.calls import a_call


def access(name: str = "one", caller: str = "app", **fields: object) -> AccessRecord:
    record = AccessRecord(name, "POST", "/v1/chat/completions", "chat", caller, model="m", outcome="ok")
    for field, value in fields.items():
        setattr(record, field, value)
    return record


def ended(record: AccessRecord, arrived_s: float = 0.0) -> RequestRecord:
    return RequestRecord(record, None, arrived_s, 0.1, 2.0, 1.0, 0.5)


def kept(inspector: Inspector) -> list[str]:
    return [one.access.id for one in inspector.newest()]


def test_the_oldest_requests_make_room():
    inspector = Inspector()
    inspector.limit(3 * RECORD_BYTES)
    for number in range(5):
        inspector.request_ended(ended(access(str(number))), None)
    assert (kept(inspector), inspector.held_bytes) == (["4", "3", "2"], 3 * RECORD_BYTES)
    inspector.limit(RECORD_BYTES)
    assert kept(inspector) == ["4"]
    inspector.limit(0)
    assert (kept(inspector), inspector.held_bytes) == ([], 0)


def test_a_flood_without_a_key_evicts_no_other_request():
    inspector = Inspector()
    inspector.limit(3 * RECORD_BYTES)
    inspector.request_ended(ended(access("good")), None)
    for number in range(1_000):
        inspector.request_ended(ended(access(str(number), caller="")), None)
    assert "good" in kept(inspector)
    assert len(kept(inspector)) == ANONYMOUS + 1


def test_requests_without_a_key_stand_among_the_others_by_their_end():
    inspector = Inspector()
    inspector.limit(9 * RECORD_BYTES)
    for arrived_s, name in enumerate(("app 0", "unknown 1", "app 2", "unknown 3", "app 4")):
        caller = "app" if name.startswith("app") else ""
        inspector.request_ended(ended(access(name, caller=caller), arrived_s=float(arrived_s)), None)
    assert kept(inspector) == ["app 4", "unknown 3", "app 2", "unknown 1", "app 0"]


def request(record: AccessRecord, *attempts: AttemptRecord, duration_s: float | None = 2.0) -> RequestRecord:
    last = None
    for one in attempts:
        one.after, last = last, one
    return RequestRecord(record, last, 100.0, 0.1, duration_s, 1.0, 0.5, kind=record.code or "")


def told(*arguments: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(story_of(*arguments))
    return found


def listed(*arguments: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(summary_of(*arguments))
    return found


def passes(summary: dict[str, Any], filters: dict[str, str]) -> bool:
    return matches(msgspec.convert(summary, Summary), filters)


def test_a_summary_has_the_times_of_the_wall_clock():
    shown = listed(request(access()), 110.0, 1_000_000_010.0, str)
    assert (shown["arrived_at"], shown["ended"], shown["state"]) == (
        "2001-09-09T01:46:40.000Z",
        102.0,
        "ended",
    )
    running = listed(request(access(outcome=""), duration_s=None), 110.0, 1_000_000_010.0, str)
    assert (running["state"], running["ended"], running["duration_s"]) == ("running", None, 10.0)
    tried = request(access(outcome=""), AttemptRecord("one", "chat", "m", "corp"), duration_s=None)
    assert listed(tried, 110.0, 0.0, str)["upstream"] == "corp"


def test_filters_compare_fields_and_search_texts():
    shown = listed(request(access(code="upstream_timeout", hop="upstream:corp")), 110.0, 0.0, str)
    assert passes(shown, {})
    assert passes(shown, {"caller": "app", "hop": "upstream:corp", "text": "TIMEOUT"})
    assert not passes(shown, {"caller": "other"})
    assert not passes(shown, {"text": "nowhere"})
    own = listed(request(access(code="NoQuota", hop="upstream:a", reason="no quota left")), 110.0, 0.0, str)
    assert passes(own, {"code": "NoQuota"})
    assert passes(own, {"text": "quota LEFT"})
    assert not passes(own, {"code": "upstream_error"})
    assert passes(own, {"text": "chat noquota"})
    assert not passes(own, {"text": "chat nowhere"})


def test_the_silence_before_a_cut_and_until_now_is_a_gap():
    arrivals = Arrivals(100.2, 100.3, reads=2, gap_s=0.1, gap_at_s=100.2)
    cut = AttemptRecord("one", "chat", "m", "a", began_s=100.0, outcome="cut", duration_s=1.3, arrivals=arrivals)
    running = AttemptRecord("one", "chat", "m", "a", began_s=100.0, arrivals=arrivals)
    whole = AttemptRecord("one", "chat", "m", "a", began_s=100.0, outcome="complete", duration_s=9.0, arrivals=arrivals)
    longest = [
        told(request(access(), one), 105.0, 0.0, str)["attempts"][0]["arrivals"]["longest_gap"]
        for one in (cut, running, whole)
    ]
    assert longest == [{"at_s": 0.3, "length_s": 1.0}, {"at_s": 0.3, "length_s": 4.7}, {"at_s": 0.2, "length_s": 0.1}]


def test_a_request_is_found_by_its_id_and_by_those_of_every_upstream():
    first, last = (
        AttemptRecord("one", "chat", "m", "corp", upstream_request_id=name) for name in ("up-1", "up-2,up-3")
    )
    found = request(access("one"), first, last)
    assert all(has_id(found, name) for name in ("one", "up-1", "up-2", "up-3"))
    assert not any(has_id(found, name) for name in ("", "up", "up-2,up-3"))


def test_a_story_has_all_attempts_in_order_and_no_secret():
    first = AttemptRecord("one", "chat", "m", "a", began_s=100.5, outcome="connection_failed", code="upstream_connect")
    last = AttemptRecord(
        "one", "chat", "m", "b", "m2", began_s=101.0, number=2, cause="next_target", outcome="complete"
    )
    record = access(reason="the token sk-secret was refused", code="upstream_auth", hop="upstream:b", outcome="error")
    story = told(request(record, first, last), 110.0, 0.0, lambda text: text.replace("sk-secret", "***"))
    assert [(one["upstream"], one["began_s"], one["outcome"]) for one in story["attempts"]] == [
        ("a", 0.5, "connection_failed"),
        ("b", 1.0, "complete"),
    ]
    error = story["error"]
    assert error.pop("action").startswith("Correct what the message names, then run")
    assert [bool(error.pop(name)) for name in ("sentence", "sentence_zh", "action_zh")] == [True] * 3
    assert story["error"] == {
        "code": "upstream_auth",
        "hop": "upstream:b",
        "message": "the token *** was refused",
        "cause": "the token *** was refused",
        "kind": "upstream_auth",
        "case": "",
        "test": "gatepass doctor m --call",
        "page": "",
        "retry_after_s": None,
    }
    assert "sk-secret" not in str(story)


def test_who_closed_first():
    def who(ended: str, attempted: str = "", code: str | None = None) -> str | None:
        attempt = AttemptRecord("one", "chat", "m", "a", outcome=attempted, code=code) if attempted else None
        return closed_by(replace(request(access(outcome=ended)), attempt=attempt))

    assert who("", "") is None
    assert who("ok", "complete") == "upstream"
    assert who("ok") == "gatepass"  # its own list of models
    assert who("error") == "gatepass"
    assert who("client_gone", "client_gone") == "client"
    assert {who("unread", one) for one in ("complete", "client_gone", "connection_failed")} == {"gatepass"}
    assert {who("error", one) for one in ("cut", "error_reply", "token_rejected")} == {"upstream"}
    of_gatepass = ("complete", "nothing_written", "timed_out", "drained", "invalid", "client_gone")
    assert {who("error", one) for one in of_gatepass} == {"gatepass"}
    assert who("error", "connection_failed", "upstream_closed") == "upstream"
    assert {who("error", "connection_failed", f"upstream_{one}") for one in ("dns", "connect", "tls")} == {None}


@pytest.mark.parametrize(
    ("token", "fields", "shown", "added_s"),
    [
        (None, {}, None, 20.0),
        (SentToken("corp", 103.0, 20.0, 240.0), {"token_wait_s": 2.0}, (83.0, 157.0, 2.0), 18.0),
        (SentToken("corp"), {"token_wait_s": 1.0}, (None, None, 1.0), 19.0),
        (SentToken("fixed", 103.0, 20.0), {}, (None, None, 0.0), 20.0),
        # before a request is sent, and after its rejection: gatepass added neither
        (SentToken("corp"), {"outcome": "token_rejected", "token_wait_s": 10.5}, (None, None, 10.5), 9.5),
    ],
)
def test_a_story_has_what_is_known_of_a_token_and_the_time_of_its_credential_is_not_added(
    token: SentToken | None, fields: dict[str, Any], shown: tuple[float | None, ...] | None, added_s: float
):
    record = AttemptRecord("one", "chat", "m", "a", **{"outcome": "complete", "token": token, **fields})
    story = told(replace(request(access(), record), added_s=20.0), 110.0, 0.0, str)
    known = story["attempts"][0]["token"]
    assert (known and tuple(known[name] for name in ("age_s", "left_s", "wait_s"))) == shown
    assert (known and known["credential"], story["timings"]["added_s"]) == (token and token.credential, added_s)


def test_an_error_has_the_wait_that_it_asks_for():
    record = AttemptRecord("one", "chat", "m", "a", outcome="error_reply", code="upstream_error", retry_after_s=17.0)
    limited = access(code="rate", hop="upstream:a", outcome="error", reason="Slow down.")
    story = told(replace(request(limited, record), retry_after_s=17.0, kind="upstream_error"), 110.0, 0.0, str)
    assert (story["error"]["retry_after_s"], story["attempts"][0]["retry_after_s"]) == (17.0, 17.0)


def test_an_upstream_that_no_token_led_to_was_not_reached():
    sent = AttemptRecord("one", "chat", "m", "a", outcome="complete", status=200)
    failed = AttemptRecord("one", "chat", "m", "b", outcome="nothing_written", kind="token_unavailable")
    attempts = told(request(access(), sent, failed), 110.0, 0.0, str)["attempts"]
    assert [one["reached"] for one in attempts] == [True, False]


def test_texts_of_an_attempt_are_masked():
    record = AttemptRecord("one", "chat", "m", "a", outcome="error_reply", reason="no sk-secret here")
    record.adapted, record.tried = ("drop=sk-secret",), ("set=sk-secret",)
    story = told(request(access(), record), 110.0, 0.0, lambda text: text.replace("sk-secret", "***"))
    attempt = story["attempts"][0]
    assert attempt["reason"] == "no *** here"
    assert (attempt["adapted"], attempt["tried"]) == (["drop=***"], ["set=***"])


def test_the_method_and_the_tool_of_an_mcp_message_are_masked_and_searched():
    message = request(access(operation="mcp", model="", mcp_method="tools/call", mcp_tool="find-s3cret"))
    shown = listed(message, 110.0, 0.0, lambda text: text.replace("s3cret", "***"))
    assert (shown["mcp_method"], shown["mcp_tool"]) == ("tools/call", "find-***")
    assert passes(shown, {"text": "FIND"})
    assert not passes(shown, {"text": "s3cret"})


def test_the_command_that_tests_a_hop_names_it_and_sends_the_operation_of_the_request():
    for hop, operation, command in (
        ("upstream:b", "chat", "gatepass doctor bge --call"),
        ("upstream:b", "rerank", "gatepass doctor bge --operation rerank --call"),
        ("upstream:b", "responses", "gatepass doctor bge --operation responses --call"),
        *(("upstream:b", name, "gatepass doctor") for name in UNCALLED),
        ("upstream:mcp/search", "mcp", "gatepass doctor"),
        ("credential:corp", "chat", "gatepass token corp"),
        ("client", "chat", ""),
    ):
        assert command_of(hop, "bge", operation) == command
    assert {"chat", *CALL_OPERATIONS} == set(options.CALL_OPERATIONS)


UNCALLED = ("images", "speech", "moderations", "transcriptions", "files", "stored_responses")
"""Operations for which doctor has no call."""


@pytest.mark.parametrize("operation", [*UNCALLED, "chat", "rerank"])
@pytest.mark.parametrize("case", ["unknown_model", "renamed_model", "about_model", "model_denied"])
def test_doctor_is_advised_only_for_what_it_can_call(case, operation):
    error = UpstreamErrorReply("no", upstream="b", status=404, case=case, setting="models.m.name")
    said = [advised(error, operation, "m", language) for language in ("", "_zh")]
    assert ["doctor" in text for text in said] == [operation not in UNCALLED] * 2
    assert all("`models.m.name`" in text and "  " not in text for text in said)


AT_B, AT_MCP = "upstream:b", "upstream:mcp/search"


def advised(error: GatepassError, operation: str = "chat", model: str = "m", language: str = "") -> str:
    names = {**names_of(error.hop, operation, model), **error.names}
    return advice_of(error.public_code, error.hop, error.case, error.setting, names)[f"action{language}"]


def refused(status: int, error: Any, upstream: str = "b", **reply: Any) -> UpstreamError:
    body = msgspec.json.encode({"error": error}) if isinstance(error, dict) else error.encode()
    headers = ((b"content-type", b"text/html"),) if body[:1] == b"<" else ()
    return classify_error(ReceivedReply(upstream, status, headers, body, model="bge", operation="chat", **reply))


@pytest.mark.parametrize(
    ("status", "error", "case", "advice"),
    [
        (404, {"message": "Not Found"}, "no_path", "Set `operations.chat.upstream` to an upstream that has it"),
        (429, {"message": "slow down"}, "429", "Retry later. If it happens often, set `retry: {on: [refused]}`"),
        (404, {"message": "No such model"}, "about_model", "Follow the upstream's message. If it does not know"),
        (403, {"message": "Model access denied"}, "model_denied", "Ask the upstream's owner to allow the model"),
        (403, {"message": "您无权访问该模型"}, "model_denied", "Ask the upstream's owner to allow the model"),
        (403, {"message": "no access to bge"}, "model_denied", "Ask the upstream's owner to allow the model"),
        (
            403,
            {"message": "This model does not support images"},
            "",
            "The upstream's message has the reason: change the request, or ask the owner of the upstream.",
        ),
        (
            400,
            {"message": "out of credit"},
            "",
            "The upstream's message has the reason: change the request, or ask the owner of the upstream.",
        ),
        (500, {"message": "out of memory"}, "5xx", "If the upstream's message names nothing to correct, retry later"),
        (500, {"message": "unknown model bge"}, "about_model", "Follow the upstream's message. If it does not know"),
        (400, {"message": "Prompt exceeds max length"}, "too_long", "Shorten the prompt or the history,"),
        (400, {"message": "no", "code": "context_length_exceeded"}, "too_long", "Shorten the prompt or the history,"),
        (
            400,
            {"message": "The name of a tool exceeds the maximum length of 64."},
            "",
            "The upstream's message has the reason",
        ),
        (504, "<html><title>504 Gateway Time-out</title>", "page_504", "Raise the timeout of the proxy in front of"),
        (502, "<html><title>Bad Gateway</title>", "page_5xx", "Retry later, or ask the owner"),
        (
            403,
            "<html><title>Forbidden</title>",
            "",
            "Check that `upstreams.b.base_url` is the address of the API, and that its credential is right.",
        ),
        (
            503,
            "<html><form><input type=password>",
            "",
            "Check that `upstreams.b.base_url` is the address of the API, and that its credential is right.",
        ),
        (404, "<html><title>404 Not Found</title>", "no_path", "Set `operations.chat.upstream`"),
        (400, "{}", "no_reason", "Read the upstream's log, because its answer gives no reason."),
        (400, "", "no_reason", "Read the upstream's log, because its answer gives no reason."),
        (503, "", "5xx", "If the upstream's message names nothing to correct"),
        (
            400,
            {"message": "This model does not support images"},
            "",
            "The upstream's message has the reason: change the request, or ask the owner of the upstream.",
        ),
        (
            400,
            {"message": "该模型不支持图片输入"},
            "",
            "The upstream's message has the reason: change the request, or ask the owner of the upstream.",
        ),
        (400, {"message": "We do not support the model bge"}, "about_model", "Follow the upstream's message. If"),
        (400, {"message": "不支持该模型：bge"}, "about_model", "Follow the upstream's message. If it does not know"),
        (404, {"message": "LLM(bge) not found"}, "about_model", "Follow the upstream's message. If it does not know"),
        # the upstream may be another gatepass, whose own words are no case here
        (
            400,
            {"message": "The upstream has no such path: it does not."},
            "",
            "The upstream's message has the reason: change the request, or ask the owner of the upstream.",
        ),
        (
            403,
            {"message": "Replace the key in credentials.inner.token by"},
            "",
            "The upstream's message has the reason: change the request, or ask the owner of the upstream.",
        ),
    ],
)
def test_an_upstreams_error_has_its_case_from_status_and_words(status: int, error: Any, case: str, advice: str):
    found = refused(status, error, missing="no_path")
    assert (found.case, advised(found)[: len(advice)]) == (case, advice)
    assert advised(found, language="_zh")


def test_an_mcp_server_has_actions_of_its_own():
    found = refused(404, {"message": "Not Found"}, "mcp/search", missing="mcp_no_path")
    assert (advised(found), found.message.partition("path: ")[2]) == (
        "Check `mcp.search.url`.",
        "mcp.search.url is not the endpoint of an MCP server.",
    )
    for error, action in (
        (UpstreamInvalid("no", upstream="mcp/search"), "Check that `mcp.search.url` is the endpoint"),
        (UpstreamDns("no", upstream="mcp/search"), "Correct `mcp.search.url`"),
        (UpstreamAuth("no", upstream="mcp/search", status=401), "Correct what the message names, then"),
    ):
        assert advised(error, "mcp", "")[: len(action)] == action


@pytest.mark.parametrize(
    ("case", "operation", "setting", "named"),
    [
        (
            "no_path",
            "embeddings",
            "",
            ["`operations.embeddings.upstream`", "operations: {embeddings: {upstream: OTHER}}"],
        ),
        ("no_path_of_model", "rerank", "models.bge.targets", ["Set `models.bge.targets` to an upstream"]),
        ("no_path_of_operation", "rerank", "", ["Correct `upstreams.b.base_url`"]),
        ("no_version", "rerank", "", ["correct `upstreams.b.base_url`", "set `operations.rerank.upstream`"]),
        ("no_api", "responses", "", ["`upstreams.b.protocols: [chat]`", "set `operations.responses.upstream`"]),
        ("no_api_version", "messages", "models.m.upstream", ["`upstreams.b.base_url`", "set `models.m.upstream`"]),
        ("no_chat", "messages", "", ["Correct `upstreams.b.base_url`: gatepass tried chat"]),
    ],
)
def test_the_action_for_a_path_that_is_missing_names_what_chose_the_upstream(case, operation, setting, named):
    error = UpstreamErrorReply("no", upstream="b", status=404, case=case, setting=setting)
    for language in ("", "_zh"):
        found = advised(error, operation, "bge", language)
        assert language or [part for part in named if part not in found] == []
        assert "NAME" not in found
        assert "gatepass reload" in found


@pytest.mark.parametrize(
    ("case", "setting", "action"),
    [
        ("static_key", "credentials.corp", "Replace the key in `credentials.corp`, then"),
        ("header_key", "upstreams.b.headers.api-key", "Replace the key in `upstreams.b.headers.api-key`, then"),
        ("no_credential", "", "Set `upstreams.b.credential`."),
        (
            *("rejected_token", "credentials.corp.scope, upstreams.b.token_placement"),
            "Check whether `credentials.corp.scope` or `upstreams.b.token_pl",
        ),
        ("unknown_model", "models.m.name", "Correct the name in the client, or set `models.m.name` in the"),
        ("renamed_model", "models.a*.targets[].name", "Set `models.a*.targets[].name` to a name"),
    ],
)
def test_the_action_has_the_setting_that_the_raising_line_gave(case: str, setting: str, action: str):
    error = UpstreamErrorReply("no", upstream="b", status=403, case=case, setting=setting)
    assert advised(error).startswith(action)
    for one in filter(None, setting.split(", ")):
        assert f"`{one}`" in advised(error, language="_zh")


def test_the_action_for_an_image_that_ragflow_does_not_read_is_that_of_the_message():
    body = b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,"}}]}]}'
    with pytest.raises(InvalidImage) as caught:
        normalize(a_call(body), Target("rag", "chat"), (RagflowBody(),))
    assert advised(caught.value).startswith("Send only text,")
    assert advised(InvalidImage("images[0] is empty")).startswith("Send a URL,")


TIMEOUTS = TimeoutSettings().value("models.m")
OWN = Network(proxy="http://p:3128")


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (TransportFault(Fault.TIMEOUT_FIRST_BYTE, "", limit_s=2), "Raise `models.m.timeouts.first_byte_s`"),
        (TransportFault(Fault.TIMEOUT_IDLE, "", limit_s=2), "needs a higher `models.m.timeouts.idle_s`"),
        (TransportFault(Fault.TIMEOUT_CONNECT, "", limit_s=2), "raise `models.m.timeouts.connect_s`"),
        (TransportFault(Fault.TIMEOUT_CONNECT, "proxy p:1: late", limit_s=2), "host and port in `network.proxy`"),
        (TransportFault(Fault.TIMEOUT_CONNECT, LATE_TLS, limit_s=2), "begin `upstreams.b.base_url` with http://"),
        (TransportFault(Fault.INVALID, TLS_PORT), "Begin `upstreams.b.base_url` with https://"),
        (TransportFault(Fault.CONNECT, "connection refused"), "Check `upstreams.b.base_url`"),
        (TransportFault(Fault.CONNECT, "proxy p:1: connection refused"), "Check the host and port in `network.proxy`"),
        (TransportFault(Fault.PROXY, "403 Forbidden from p:1"), "or add it to `network.no_proxy`"),
        (TransportFault(Fault.PROXY, "504 Timeout from p:1"), "Check the host in `upstreams.b.base_url`"),
        (TransportFault(Fault.TLS, TlsProblem.CERTIFICATE), "use a host name of it in `upstreams.b.base_url`"),
        (TransportFault(Fault.TLS, TlsProblem.UNKNOWN_CA), "Set `network.ca_file`"),
        (
            TransportFault(Fault.CLOSED, "reset", answered=False),
            "If the port requires TLS, begin `upstreams.b.base_url` with https://",
        ),
        (TransportFault(Fault.CLOSED, ""), "Check the upstream's log"),
        (TransportFault(Fault.TOO_LARGE, "x"), "Raise `limits.reply_bytes`, or"),
    ],
)
def test_the_action_for_a_connection_blames_the_setting_that_its_message_names(fault: TransportFault, named: str):
    error = upstream_error(fault, "b", "http://llm.example/v1", TIMEOUTS)
    assert named in advised(error)
    assert ("If the port requires TLS" in advised(error)) is not fault.answered


def test_a_proxy_of_the_upstream_alone_is_avoided_by_its_own_setting():
    fault = TransportFault(Fault.PROXY, "403 Forbidden from p:1")
    error = upstream_error(fault, "b", "https://llm.example/v1", TIMEOUTS, network=OWN)
    assert "set `upstreams.b.network.proxy` to none" in advised(error)


def test_the_action_for_a_refused_client_begins_with_the_settings():
    settings = "credentials.corp.client_id, credentials.corp.client_secret"
    error = TokenUnavailable("no", credential="corp", case="refused", setting=settings)
    found, test = advised(error), "`gatepass token corp`"
    assert found.startswith("Check `credentials.corp.client_id` or `credentials.corp.client_secret`. Then run")
    assert f"a restart. {test} tests the credential alone." in found
    assert advised(TokenUnavailable("no", credential="corp")).startswith(f"Run {test}")


def test_a_story_has_the_case_and_both_languages():
    record = access(code="102", hop=AT_B, status=404, outcome="error", reason="s3cret", operation="rerank", model="bge")
    failed = replace(request(record), case="no_path_of_model", setting="models.s3cret.upstream")
    error = told(failed, 110.0, 0.0, lambda text: text.replace("s3cret", "***"))["error"]
    assert error["case"] == "no_path_of_model"
    assert error["action"].startswith("Set `models.***.upstream` to")
    assert error["action_zh"].startswith("把 `models.***.upstream` 设为")
    assert error["sentence_zh"].startswith("上游没有这个路径")
    assert "`gatepass check --route 'a b'`" in advised(ModelNotFound("no"), model="a b")
