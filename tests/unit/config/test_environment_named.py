from __future__ import annotations

import pytest

from gatepass.config.credential.kinds import EnvCredential
from gatepass.config.document import ConfigError
from gatepass.config.load import load

TEXT = """\
upstreams: {{u: {{base_url: "https://x/v1", credential: c}}}}
credentials:
  c: {{type: {type}, variable: {variable}}}
"""


def loaded(tmp_path, environment, variable="CORP_TOKEN", kind="env"):
    path = tmp_path / "f.yaml"
    path.write_text(TEXT.format(type=kind, variable=variable))
    return load(str(path), environment)


def test_a_named_variable_has_its_value_from_the_environment_of_the_start(tmp_path):
    found = loaded(tmp_path, {"CORP_TOKEN": "top-secret"})
    credential = found.config.credentials["c"]
    assert isinstance(credential, EnvCredential)
    assert (credential.variable.name, credential.variable.reveal()) == ("CORP_TOKEN", "top-secret")
    assert found.origin(("credentials", "c", "variable")) == f"{tmp_path}/f.yaml:3, environment CORP_TOKEN"


@pytest.mark.parametrize(
    ("environment", "variable", "expected"),
    [
        ({}, "CORP_TOKEN", "the environment variable CORP_TOKEN is not set, or is empty"),
        ({"CORP_TOKEN": ""}, "CORP_TOKEN", "the environment variable CORP_TOKEN is not set, or is empty"),
        ({}, "sk-this-is-the-token-itself", "the environment variable is not set, or is empty"),
        ({"T": "top-secret"}, '"${T}"', "expects a variable's name alone, without ${…}"),
        ({}, "5", "expects the name of an environment variable that is set and not empty"),
    ],
)
def test_an_unset_variable_is_reported_once_at_its_line(tmp_path, environment, variable, expected):
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, environment, variable)
    assert str(caught.value) == f"{tmp_path}/f.yaml:3: credentials.c.variable: {expected}"


def test_variable_setting_belongs_to_type_env_only(tmp_path):
    with pytest.raises(ConfigError, match=r"credentials\.c\.variable: belongs to type env, not to static"):
        loaded(tmp_path, {"CORP_TOKEN": "x"}, kind="static")
