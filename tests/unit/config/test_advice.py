"""Each entry of errors.json names the same settings and variables in English and Chinese, on every surface."""

import inspect
import re
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest

from gatepass.cli.doctor import text_of
from gatepass.cli.probe import failed_step, token_step
from gatepass.cli.story_lines import error_lines
from gatepass.config.advice import GENERIC, Advice, explained, with_variable
from gatepass.config.network import Network, TimeoutSettings
from gatepass.errors import (
    CallerError,
    Fault,
    GatepassError,
    TokenUnavailable,
    TransportFault,
    UpstreamErrorReply,
    UpstreamTimeout,
    explanations,
    kind_of,
    sentence,
)
from gatepass.http_client.tls import TlsProblem
from gatepass.observability.observer import AccessRecord, AttemptRecord, RequestRecord
from gatepass.observability.story import names_of, story_of
from gatepass.proxy.upstream_call import upstream_error
from gatepass.server import views
from gatepass.tokens.failure import FailureKind, FetchFailure, failure_advice
from tests.unit.tokens.scripted import oauth2

SETTING = re.compile(r"`?GATEPASS_\w+`?|(?<![\w./-])(?:[a-z_]+(?:\[\])?\.)+[a-zA-Z_*\[\]]+(?![\w/])|`[^`]+`")
ENVIRONMENT = {
    "GATEPASS_UPSTREAM_URL": "https://llm.example/v1",
    "GATEPASS_TOKEN_URL": "https://sso.example/token",
    "GATEPASS_CLIENT_ID": "app",
    "GATEPASS_CLIENT_SECRET": "s3cret-of-the-app",
}
ENTRIES = {name: entry for name, entry in explanations().items() if entry.of not in ("doctor", "part")}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def named(*texts: str) -> set[str]:
    """The settings, variables and commands of texts. A variable behind its setting is named too."""
    found = SETTING.findall(" ".join(" ".join(texts).split()))  # a story is wrapped
    pieces = (re.findall(r"GATEPASS_\w+|^\S+", one) if "GATEPASS_" in one else [one] for one in found)
    return {piece.strip("`") for one in pieces for piece in one}


GIVEN = {"upstream": "chat", "credential": "token", "allow": "POST", "status": 400}


def error_of(name: str) -> GatepassError:
    """Return an error of the entry `name`, as a line that raises it does."""
    code = ENTRIES[name].of.replace("hint", UpstreamErrorReply.code) or name
    kind: Any = kind_of(code)
    given = {**GIVEN, "code": code, "phase": code.removeprefix(f"{UpstreamTimeout.code}_")}
    wanted = inspect.signature(kind).parameters.values()
    error: GatepassError = kind(
        message="no", **{one.name: given[one.name] for one in wanted if one.name in given and one.default is one.empty}
    )
    error.case = name if ENTRIES[name].of else ""
    return error


def shown(error: GatepassError) -> list[str]:
    """Return what `gatepass show` prints of the error in the reader's language."""
    access = AccessRecord(id="r1", method="POST", path="/v1/chat/completions", operation="chat")
    access.code, access.hop, access.reason = error.public_code, error.hop, error.message
    access.outcome, access.model = "error", "m"
    attempt = AttemptRecord("r1", "chat", "m", "chat")
    record = RequestRecord(
        access,
        attempt,
        0.0,
        0.0,
        1.0,
        None,
        None,
        case=error.case,
        setting=error.setting,
        kind=error.stable_code,
        names=error.names,
        advice_chars=len(error.advice),
    )
    return [*error_lines(story_of(record, 1.0, 1.0, str))]


def in_both(monkeypatch: pytest.MonkeyPatch, written: Callable[[], list[str]]) -> tuple[set[str], set[str]]:
    """Return what `written()` names in an English and in a Chinese terminal."""
    found = []
    for language in ("C.UTF-8", "zh_CN.UTF-8"):
        monkeypatch.setenv("LC_ALL", language)
        found.append(named(*written()))
    return found[0], found[1]


@pytest.mark.parametrize("name", ENTRIES)
def test_each_entry_names_the_same_in_both_languages_on_every_surface(name, monkeypatch, environment):
    texts = explained(name, {})
    english, chinese = named(texts["sentence"], texts["action"]), named(texts["sentence_zh"], texts["action_zh"])
    assert english == chinese
    assert bool(texts["action"]) == bool(texts["action_zh"])
    assert named(texts["advice"]) <= english, "the message names what the other surfaces do not"
    error = error_of(name)
    if not isinstance(error, CallerError):
        doctor = in_both(monkeypatch, lambda: [text_of(failed_step(error, "models", "", "chat", "m", "token"))])
        assert doctor[0] <= doctor[1]
        assert (doctor[0] == set()) is (named(texts["action"]) == set())
    english, chinese = in_both(monkeypatch, lambda: shown(error))
    assert english <= chinese


@pytest.mark.parametrize("language", ["C.UTF-8", "zh_CN.UTF-8"])
@pytest.mark.parametrize("name", ["unknown_model", "upstream_connect", "rejected_token", "upstream_html"])
def test_show_gives_one_advice_where_the_message_words_it_differently(name, language, monkeypatch, environment):
    monkeypatch.setenv("LC_ALL", language)
    error = error_of(name)
    error.cause, error.advice = "No luck", "Look at it"
    text = "\n".join(shown(error))
    assert error.message == "No luck. Look at it"
    assert "No luck." in text
    assert "Look at it" not in text
    assert text.count("处理：" if language.startswith("zh") else "What to do: ") == 1


@pytest.mark.parametrize(
    ("failure", "needs_secret"),
    [
        (FetchFailure("no", FailureKind.REFUSED, case="refused"), True),
        (FetchFailure("no", FailureKind.LIMITED), True),
        (FetchFailure("no", FailureKind.LIMITED, retry_after_s=9.0), False),
        (FetchFailure("no", FailureKind.OUTAGE, case=Fault.CONNECT), False),
        (FetchFailure("no", FailureKind.REFUSED, case="wrong_url"), False),
        (FetchFailure("407", FailureKind.REFUSED, case=Fault.PROXY), False),
        (FetchFailure("407", FailureKind.REFUSED, advice=Advice("proxy_login")), False),
        (FetchFailure("page", FailureKind.LIMITED, advice=Advice("issuer_page")), False),
        (FetchFailure("302", FailureKind.REFUSED, advice=Advice("issuer_redirect")), False),
        (FetchFailure("401", FailureKind.REFUSED, case="refused", advice=Advice("issuer_page")), True),
    ],
)
def test_another_secret_ends_only_a_refusal(failure, needs_secret):
    assert failure.needs_secret is needs_secret


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.of == "token_unavailable"])
def test_the_failure_of_a_credential_is_told_by_doctor_and_token_as_by_the_error(name, monkeypatch, environment):
    failure = FetchFailure("no", advice=Advice(name, {"credential": "token"}))
    error = TokenUnavailable("no", credential="token")
    english, chinese = in_both(monkeypatch, lambda: [text_of(token_step(error, oauth2(), failure))])
    assert english <= chinese
    assert (english == set()) is (named(explained(name, {})["action"]) == set())
    assert named(str(failure_advice(failure, "token", oauth2()))) <= english


@pytest.mark.parametrize("code", [name for name, entry in ENTRIES.items() if not entry.of])
def test_the_page_has_each_case_in_both_languages(code):
    page = views.documented(code)
    for texts in (page, *page["cases"]):
        assert named(texts["action"]) == named(texts["action_zh"])
        assert not re.search(r"\{\w+\}", "".join(text for text in texts.values() if isinstance(text, str)))


@pytest.mark.parametrize("name", sorted(explanations().keys() - ENTRIES.keys()))
def test_each_finding_of_doctor_and_each_part_names_the_same_in_both_languages(name):
    texts = explained(name, {})
    assert named(texts["action"]) == named(texts["action_zh"])
    assert bool(texts["action"]) == bool(texts["action_zh"])


@pytest.mark.parametrize("name", explanations())
def test_a_correction_of_variables_is_applied_by_a_restart(name, monkeypatch):
    entry = explanations()[name]
    by_file = explained(name, {})
    monkeypatch.setenv("GATEPASS_UPSTREAM_URL", "https://llm.example/v1")
    by_variables = explained(name, {})
    for text, applied in (("action", "restart gatepass"), ("action_zh", "重启 gatepass")):
        assert name.startswith("apply") or "gatepass reload" not in by_variables[text]
        if not name.startswith("apply") and "{apply" in entry.action:
            assert "`gatepass reload`" in by_file[text]
            assert applied in by_variables[text]


NEEDS_FILE = {
    "": " A setting without a variable requires a configuration file.",
    "_zh": "没有环境变量的设置需要写在配置文件中。",
}


@pytest.mark.parametrize("language", NEEDS_FILE)
@pytest.mark.parametrize(
    ("name", "setting", "needs_file"),
    [
        ("unknown_model", "models.m.name", True),
        ("no_streaming", "", True),
        ("upstream_timeout_first_byte", "upstreams.chat.timeouts.first_byte_s", True),
        ("refused", "credentials.token.client_id, credentials.token.subject", True),
        ("refused", "credentials.token.client_id, credentials.token.client_secret", False),
        ("refused_client", "credentials.token", False),
        ("reply_too_large", "", False),
        ("no_credential", "", False),
        ("upstream_html", "", False),
        ("429", "", False),
    ],
)
def test_a_setting_without_a_variable_requires_a_file(name, setting, needs_file, language, monkeypatch):
    names = names_of("upstream:chat", "chat", "m", "token") | ({"setting": setting} if setting else {})
    assert NEEDS_FILE[""] not in explained(name, names)["action"]
    monkeypatch.setenv("GATEPASS_UPSTREAM_URL", "https://llm.example/v1")
    texts = explained(name, names)
    assert (NEEDS_FILE[language] in texts[f"action{language}"]) is needs_file
    assert (NEEDS_FILE[""] in str(Advice(name, names))) is needs_file


def test_each_placeholder_has_a_name_for_pages():
    texts = [chain((entry.sentence, entry.action, entry.advice, entry.setting)) for entry in ENTRIES.values()]
    used = {found for text in chain(*texts) for found in re.findall(r"\{(\w+)\}", text)}
    assert used - GENERIC.keys() - explanations().keys() == {"setting"}


@pytest.mark.parametrize(
    ("setting", "variable"),
    [
        ("credentials.token.client_id", "GATEPASS_CLIENT_ID"),
        ("credentials.token.client_secret", "GATEPASS_CLIENT_SECRET or GATEPASS_CLIENT_SECRET_FILE"),
        ("credentials.token.url", "GATEPASS_TOKEN_URL"),
        ("upstreams.chat.base_url", "GATEPASS_UPSTREAM_URL"),
        ("upstreams.rerank.base_url", "GATEPASS_RERANK_URL"),
        ("network.ca_file", "GATEPASS_CA_FILE"),
        ("network.no_proxy", "GATEPASS_NO_PROXY"),
        ("network.proxy_auth", "GATEPASS_PROXY"),
        ("limits.body_bytes", "GATEPASS_LIMITS_BODY_BYTES"),
        ("access.keys", "GATEPASS_KEYS or GATEPASS_KEYS_FILE"),
    ],
)
def test_a_setting_names_its_variable_unless_a_file_is_the_configuration(setting, variable, monkeypatch):
    assert with_variable(setting) == setting
    monkeypatch.setenv("GATEPASS_UPSTREAM_URL", "https://h/v1")
    assert with_variable(setting) == f"{setting} ({variable})"
    assert with_variable("upstreams.chat.queue_s") == "upstreams.chat.queue_s"
    monkeypatch.setenv("GATEPASS_CONFIG", "gatepass.yaml")
    assert with_variable(setting) == setting


@pytest.mark.parametrize(
    ("fault", "settings"),
    [
        (
            TransportFault(Fault.CONNECT, "refused"),
            ["upstreams.chat.base_url (GATEPASS_UPSTREAM_URL)", "(GATEPASS_PROXY)"],
        ),
        (TransportFault(Fault.TLS, TlsProblem.UNKNOWN_CA), ["network.ca_file (GATEPASS_CA_FILE)"]),
        (TransportFault(Fault.PROXY, "403 Forbidden from p:1"), ["network.no_proxy (GATEPASS_NO_PROXY)"]),
        (TransportFault(Fault.PROXY, "407 Who from p:1"), ["network.proxy_auth (GATEPASS_PROXY)"]),
    ],
)
def test_a_client_is_told_the_variable_of_each_setting_to_check(fault, settings, environment):
    timeouts = TimeoutSettings().value("upstreams.chat")
    network = Network()
    network.inherit(Network())
    message = upstream_error(fault, "chat", "https://llm.example/v1", timeouts, network=network).message
    assert [setting for setting in settings if setting not in message] == []


@pytest.mark.parametrize("language", ["", "_zh"])
def test_a_setting_in_an_entry_has_its_variable_in_both_languages(language, environment):
    values = {"url": "upstreams.chat.base_url", "setting": "credentials.token.client_id, credentials.token.client_auth"}
    text = explained("proxy_reaches_nothing", values)[f"action{language}"]
    assert "`upstreams.chat.base_url` (`GATEPASS_UPSTREAM_URL`)" in text
    assert "`network.no_proxy` (`GATEPASS_NO_PROXY`)" in text
    listed, either = explained("refused", values)[f"action{language}"], " 或 " if language else " or "
    parts = ("client_id` (`GATEPASS_CLIENT_ID`)", "client_auth` (`GATEPASS_CLIENT_AUTH`)")
    assert either.join(f"`credentials.token.{part}" for part in parts) in listed
    secret = explained("refused", {"setting": "credentials.token.client_secret"})[f"action{language}"]
    assert f"(`GATEPASS_CLIENT_SECRET`{either}`GATEPASS_CLIENT_SECRET_FILE`)" in secret


def test_a_full_stop_is_that_of_the_language_before_it():
    assert [sentence(text) for text in ("no", "不存在", "不存在。", "m 4")] == ["no.", "不存在。", "不存在。", "m 4."]


def test_the_advice_about_a_key_needs_no_file():
    texts = explained("invalid_api_key", {})
    assert all("`GATEPASS_KEYS`" in texts[name] and "--write" not in texts[name] for name in ("action", "action_zh"))
