import os
from collections.abc import Iterable

import pytest

from gatepass.config.credential.kinds import StaticCredential
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.references import Reference, resolve
from gatepass.tokens.secrets import (
    credential_fingerprint,
    revealed,
    secret_fields,
    secret_leaves,
    secret_retry_hint,
    secret_values,
)
from gatepass.types import Secret
from tests.unit.tokens.scripted import failure_of, http_json, oauth2, signed


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
    variable = StaticCredential.model_validate({"type": "static", "token": resolve("${CORP}", {"CORP": "c"})}).token
    (of_body,) = secret_leaves({"password": resolve("a-${CORP}", {"CORP": "c"})})
    assert hint([variable, file]) == " or when the file of its secret changes"
    for one in (variable, variable.derived(str.upper), of_body):
        assert hint([one, plain]) == ". A new secret requires a restart, because it is in an environment variable"
    assert hint([plain]) == ". A new secret in the configuration file requires `gatepass reload`"
    assert secret_retry_hint([]) == ""


EXCHANGE = {"grant_type": "token_exchange"}

VARIANTS = {
    "client_id": "other",
    "client_secret": Secret("other"),
    "client_auth": "basic",
    "token_url": "https://sso.example/other",
    "scope": "more",
    "audience": "more",
    "extra": {"more": Secret("x")},
    "timeout_s": 3.0,
    "default_ttl_s": 60.0,
    "allow_plain_http": True,
    "network": {"proxy": "http://proxy.example:3128"},
}


def test_every_setting_counts():
    digests = [
        credential_fingerprint(oauth2()),
        *(credential_fingerprint(oauth2(**{name: value})) for name, value in VARIANTS.items()),
    ]
    assert len(set(digests)) == len(digests)
    assert credential_fingerprint(oauth2()) == credential_fingerprint(oauth2())


def test_a_version_with_a_further_setting_has_the_same_fingerprint():
    class Later(Oauth2Credential):
        further: str | None = None

    settings = oauth2()
    later = Later(**{name: getattr(settings, name) for name in settings.model_fields_set})
    assert credential_fingerprint(later) == credential_fingerprint(settings)
    assert credential_fingerprint(later.model_copy(update={"further": "set"})) != credential_fingerprint(settings)


def test_a_text_in_one_setting_is_not_the_same_in_another():
    pair, form = {"a": Secret("b")}, http_json(form={"a": Secret("b")})
    for one, other in (
        (oauth2(scope="a", audience=None), oauth2(scope=None, audience="a")),
        (http_json(query=pair), form),
        (http_json(json={"a": ["secret", "b"]}), form),
        (http_json(json={"a": 1}), http_json(json={"a": "1"})),
        (http_json(json={"a": [1, 2]}), http_json(json={"a": [2, 1]})),
    ):
        assert credential_fingerprint(one) != credential_fingerprint(other)


def test_references_inside_a_body_are_read_again():
    value = ["old"]
    settings = http_json(json={"login": [{"secret": Reference("${X}", (), lambda: value[0])}]})
    before = credential_fingerprint(settings)
    value[0] = "new"
    assert credential_fingerprint(settings) != before


def test_fingerprint_contains_the_content_of_a_key_file(tmp_path):
    cert, key = tmp_path / "client.pem", tmp_path / "key.pem"
    cert.write_text("certificate")
    key.write_text("one")
    settings = oauth2(network={"client_cert": str(cert), "client_key": str(key)})
    before = credential_fingerprint(settings)
    key.write_text("another")
    assert credential_fingerprint(settings) != before


@pytest.mark.parametrize("name", ["assertion_file", "subject_file"])
def test_a_rotated_file_counts_by_the_owner_of_its_token(tmp_path, name):
    file = tmp_path / "token"
    grant = {"assertion_file": {"client_auth": name, "client_secret": None}, "subject_file": EXCHANGE}[name]
    settings = oauth2(**grant, **{name: str(file)})

    def of(**claims: object) -> str:
        file.write_text(signed(**claims))
        return credential_fingerprint(settings)

    first = of(iss="k8s", sub="a", exp=1)
    assert of(iss="k8s", sub="a", exp=2) == first
    assert len({first, of(iss="k8s", sub="b"), of(iss="other", sub="a"), of(iss="k8s"), of(iss="x")}) == 5


def test_unreadable_secret_has_no_fingerprint(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        credential_fingerprint(oauth2(client_secret=Secret(gone)))
    with pytest.raises(OSError, match="No such file"):
        credential_fingerprint(oauth2(network={"ca_file": str(tmp_path / "none.pem")}))


def test_a_pipe_in_place_of_a_file_does_not_wait_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "token")
    with pytest.raises(OSError, match="not a regular file"):
        credential_fingerprint(oauth2(**EXCHANGE, subject_file=str(tmp_path / "token")))
