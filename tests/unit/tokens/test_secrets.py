from __future__ import annotations

from collections.abc import Iterable

import pytest

from gatepass.config.credential.kinds import StaticCredential, of_variable
from gatepass.config.references import Reference, resolve
from gatepass.tokens.secrets import revealed, secret_fields, secret_leaves, secret_retry_hint, secret_values
from gatepass.types import Secret
from tests.unit.tokens.scripted import failure_of


def gone() -> str:
    raise ValueError("the file /run/secrets/x cannot be read")


def values(secrets: Iterable[Secret]) -> list[str]:
    return [secret.reveal() for secret in secrets]


@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        (Secret(gone), "client_secret: the file /run/secrets/x cannot be read"),
        (Secret(""), "client_secret is empty"),
    ],
)
async def test_missing_secret_names_its_setting_and_is_not_definite(secret, reason):
    failure = await failure_of(lambda: revealed(secret, "client_secret"))
    assert (failure.reason, failure.is_refused) == (reason, False)


def test_an_unreadable_secret_is_none_among_values():
    assert revealed(Secret("abc"), "client_secret") == "abc"
    assert secret_values([Secret("abc"), Secret(gone)]) == ("abc", None)


def test_ordinary_words_are_no_secrets():
    fields = {"grant_type": "password", "Content-Type": "application/json", "X-Api-Key": "k", "password": "p"}
    assert values(secret_fields({name: Secret(value) for name, value in fields.items()})) == ["k", "p"]


def test_credentials_after_the_authorization_scheme_are_a_separate_secret():
    assert values(secret_fields({"Authorization": Secret("Basic YTpi")})) == ["Basic YTpi", "YTpi"]


def test_the_leaves_of_a_body_are_secret_by_reference_or_by_name():
    password = resolve("${PASSWORD}", {"PASSWORD": "p", "APP": "bot"})
    app = resolve("${APP}", {"APP": "bot"})
    assert isinstance(password, Reference)
    body = {
        "app_id": app,
        "x": [password, "plain", 5, None],
        "type": "service",
        "secret": "literal",
        "apiKeys": ["k"],
        "token_type": "jwt",
    }
    assert values(secret_leaves(body)) == ["p", "literal", "k"]


def test_long_text_of_a_body_is_a_secret_unless_public():
    body = {
        "ticket": "plain-ticket-value-1234",
        "nested": {"code": ["otp-seed-abcdefgh"]},
        "short": "1234567",
        "project": "cn-north-4-of-a-public-cloud",
        "grant": "client_credentials",
        "methods": ["password"],
        "way": "password",
        "for": "https://llm.corp.example/v1",
        "as": "application/json",
        "hook": "https://user:pass@corp.example/x",
        "base64": "abcdefgh/ijklmnop",
    }
    found = ["plain-ticket-value-1234", "otp-seed-abcdefgh", "https://user:pass@corp.example/x", "abcdefgh/ijklmnop"]
    assert values(secret_leaves(body)) == found


@pytest.mark.parametrize(
    ("text", "changes"),
    [("${file:FOLDER/secret}", True), ("${CORP}", False), ("a-${CORP}-${file:FOLDER/secret}", True)],
)
def test_secret_in_a_file_may_change_and_in_a_variable_may_not(tmp_path, text, changes):
    (tmp_path / "secret").write_text("s3cr3t")
    reference = resolve(text.replace("FOLDER", str(tmp_path)), {"CORP": "abc"})
    settings = StaticCredential.model_validate({"type": "static", "token": reference})
    (of_header,) = secret_fields({"x-key": settings.token})
    (of_body,) = secret_leaves({"password": reference})
    assert [it.changes for it in (settings.token, settings.token.derived(str.upper), of_header, of_body)] == [
        changes
    ] * 4
    assert settings.token.derived(str.upper).reveal() == str(reference).upper()


def test_the_hint_states_when_another_secret_takes_effect():
    file, plain, hint = Secret(lambda: "a"), Secret("b"), secret_retry_hint
    variable = of_variable(Reference.to_variable("CORP", "c"))
    (of_body,) = secret_leaves({"password": resolve("a-${CORP}", {"CORP": "c"})})
    assert hint([variable, file]) == " or when the file of its secret changes"
    for one in (variable, variable.derived(str.upper), of_body):
        assert hint([one, plain]) == "; a new secret requires a restart, because it is in an environment variable"
    assert hint([plain]) == "; a new secret in the configuration file requires `gatepass reload`"
    assert secret_retry_hint([]) == ""
