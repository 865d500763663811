import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.references import Reference
from gatepass.tokens.secrets import credential_fingerprint
from gatepass.types import Secret
from tests.unit.tokens.scripted import http_json, oauth2, signed

EXCHANGE = {"grant_type": "token_exchange"}

VARIANTS = {
    "client_id": "other",
    "client_secret": Secret("other"),
    "client_auth": "basic",
    "token_url": "https://sso.example/other",
    "scope": "more",
    "audience": "more",
    "resource": "more",
    "extra": {"more": Secret("x")},
    "timeout_s": 3.0,
    "default_ttl_s": 60.0,
    "max_ttl_s": 60.0,
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


@given(st.text(min_size=1), st.text(min_size=1))
def test_no_two_secrets_are_alike(first, second):
    digests = {credential_fingerprint(oauth2(client_secret=Secret(one))) for one in (first, second)}
    assert len(digests) == len({first, second})


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


def test_a_file_that_gatepass_writes_itself_does_not_count(tmp_path):
    file = tmp_path / "refresh_token"
    file.write_text("first")
    settings = oauth2(refresh_token_file=str(file))
    before = credential_fingerprint(settings)
    file.write_text("second")
    assert credential_fingerprint(settings) == before
    assert credential_fingerprint(oauth2(refresh_token_file=str(tmp_path / "other"))) != before


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


def test_a_dependants_fingerprint_contains_its_subject():
    llm = oauth2(**EXCHANGE, subject_credential="corp")
    found = [credential_fingerprint(llm, *more) for more in ((), (oauth2(),), (oauth2(scope="a"),))]
    assert len({*found}) == 3
    assert found[1] == credential_fingerprint(llm, oauth2())


def test_unreadable_secret_has_no_fingerprint(tmp_path):
    def missing() -> str:
        raise ValueError("the file is away")

    with pytest.raises(ValueError, match="away"):
        credential_fingerprint(oauth2(client_secret=Secret(missing)))
    with pytest.raises(OSError, match="No such file"):
        credential_fingerprint(oauth2(network={"ca_file": str(tmp_path / "none.pem")}))


def test_a_pipe_in_place_of_a_file_does_not_wait_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "token")
    with pytest.raises(OSError, match="not a regular file"):
        credential_fingerprint(oauth2(**EXCHANGE, subject_file=str(tmp_path / "token")))
