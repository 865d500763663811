import pytest
from pydantic import ValidationError

from gatepass.config.upstream import (
    NO_VERSION,
    NOT_ITS_API,
    AzureConfig,
    RagflowConfig,
    UpstreamConfig,
    base_url_error,
    url_with_version,
)

HOST = "https://h.example"
OLD = ", and set `ragflow: {paths: old}`"
CLASSIC = AzureConfig(api_version="2024-10-21")


@pytest.mark.parametrize(
    ("version", "is_classic"),
    [(None, False), ("preview", False), ("v1", False), ("2024-10-21", True), ("2025-04-01-preview", True)],
)
def test_versions_of_the_classic_api_are_dates(version, is_classic):
    assert AzureConfig(api_version=version).is_classic == is_classic


@pytest.mark.parametrize("version", ["", "2024-10-21&x=y", "a b", "x" * 41])
def test_invalid_api_version_is_refused(version):
    with pytest.raises(ValidationError):
        AzureConfig(api_version=version)


def test_defaults_are_the_current_api_and_refused_images():
    assert (AzureConfig().api_version, RagflowConfig().paths, RagflowConfig().images) == (None, "current", "refuse")


@pytest.mark.parametrize("path", ["", "/openai", "/openai/v1", "/openai/deployments", "/team/openai"])
def test_azure_is_found_from_every_form_of_its_base(path):
    assert base_url_error("azure", HOST + path, None) is None
    assert base_url_error("azure", HOST + path, CLASSIC) is None


def test_a_deployment_in_the_base_requires_the_classic_api():
    base = f"{HOST}/openai/deployments/d"
    assert base_url_error("azure", base, CLASSIC) is None
    for azure in (None, AzureConfig(), AzureConfig(api_version="preview")):
        assert base_url_error("azure", base, azure) == NO_VERSION


@pytest.mark.parametrize("path", ["", "/api/v1", "/tools/rag", "/openai-tools"])
def test_ragflow_is_found_at_its_host_and_its_api(path):
    assert base_url_error("ragflow", HOST + path, None) is None


@pytest.mark.parametrize(
    ("path", "name", "paths"),
    [
        ("/api/v1/openai/2e3b", "ID", ""),
        ("/api/v1/chats_openai/2e3b", "ID", OLD),
        ("/api/v1/chats_openai", "ID", OLD),
        ("/api/v1/agents_openai/77", "agent:ID", OLD),
        ("/api/v1/agents", "agent:ID", ""),
    ],
)
def test_an_assistant_in_the_base_belongs_under_models(path, name, paths):
    assert base_url_error("ragflow", HOST + path, None) == (
        "base_url names an assistant or an agent: end it after the host, and write the id as the name of a model,"
        f" `models: {{my-bot: {{upstream: …, name: {name}}}}}`{paths}"
    )


def test_the_usual_end_of_a_base_leads_nowhere_in_ragflow():
    assert base_url_error("ragflow", f"{HOST}/v1", None) == NOT_ITS_API


@pytest.mark.parametrize("path", ["/v1", "/api/v1/openai/2e3b", "/openai/deployments/d"])
def test_other_dialects_accept_every_base_url_and_name(path):
    assert base_url_error("openai", HOST + path, None) is None


def upstream(**settings):
    return UpstreamConfig.model_validate({"base_url": HOST, **settings})


def test_each_dialect_has_its_block():
    assert upstream().dialect == "openai"
    assert upstream(dialect="azure", azure={"api_version": "2024-10-21"}).azure == CLASSIC
    assert upstream(dialect="ragflow", ragflow={"paths": "old"}).ragflow == RagflowConfig(paths="old")
    assert (upstream(dialect="azure").azure, upstream(dialect="ragflow", ragflow=None).ragflow) == (None, None)


@pytest.mark.parametrize(
    ("dialect", "block"), [("openai", "azure"), ("openai", "ragflow"), ("azure", "ragflow"), ("ragflow", "azure")]
)
def test_a_block_beside_another_dialect_is_refused_where_it_stands(dialect, block):
    with pytest.raises(ValidationError) as caught:
        upstream(**{"dialect": dialect, block: {}})
    [detail] = caught.value.errors()
    assert detail["loc"] == (block,)
    assert str(detail["ctx"]["error"]) == f"has no effect with dialect: {dialect}; remove it, or set dialect: {block}"


def test_an_unknown_dialect_is_reported_alone():
    with pytest.raises(ValidationError) as caught:
        upstream(dialect="gemini", azure={})
    assert [detail["loc"] for detail in caught.value.errors()] == [("dialect",)]


def test_a_base_that_cannot_be_is_refused_with_the_upstream():
    with pytest.raises(ValidationError) as caught:
        upstream(dialect="ragflow", base_url=f"{HOST}/v1")
    assert [str(detail["ctx"]["error"]) for detail in caught.value.errors()] == [NOT_ITS_API]


@pytest.mark.parametrize(
    ("dialect", "base_url", "expected"),
    [
        ("openai", "https://llm.example/", "https://llm.example/v1"),
        ("openai", "https://llm.example/api", "https://llm.example/api/v1"),
        ("openai", "https://llm.example/v4", None),
        ("openai", "https://llm.example/v1beta/openai", None),
        ("azure", "https://llm.example", None),
        ("ragflow", "https://llm.example", None),
    ],
)
def test_a_base_url_without_its_version_gets_one(dialect, base_url, expected):
    assert url_with_version(dialect, base_url) == expected
