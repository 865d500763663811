import pytest

from gatepass.config.upstream import Azure
from gatepass.errors import ModelNotFound
from gatepass.upstream.azure_path import azure_url, deployment_of

CLASSIC = Azure(api_version="2024-10-21")
BASES = (
    "",
    "/",
    "/openai",
    "/openai/",
    "/openai/v1",
    "/openai/v1/",
    "/v1",
    "/openai/deployments",
    "/openai/deployments/x",
)


@pytest.mark.parametrize("base", BASES)
def test_the_v1_api_from_every_form_of_the_base(base):
    assert azure_url(f"https://r.example{base}", "gpt", "/chat/completions", Azure()) == (
        "https://r.example/openai/v1/chat/completions"
    )


@pytest.mark.parametrize("base", BASES)
def test_the_classic_api_from_every_form_of_the_base(base):
    assert azure_url(f"https://r.example{base}", "gpt 4/o", "/embeddings", CLASSIC) == (
        "https://r.example/openai/deployments/gpt%204%2Fo/embeddings?api-version=2024-10-21"
    )


def test_the_list_of_models_names_no_deployment():
    assert azure_url("https://r.example", "", "/models", CLASSIC) == (
        "https://r.example/openai/models?api-version=2024-10-21"
    )


def test_a_gateways_own_prefix_stays():
    assert azure_url("https://apim.example/team/openai", "d", "chat/completions", CLASSIC) == (
        "https://apim.example/team/openai/deployments/d/chat/completions?api-version=2024-10-21"
    )


@pytest.mark.parametrize("version", ["preview", "latest", "v1"])
def test_a_version_that_is_no_date_belongs_to_the_v1_api(version):
    assert azure_url("https://r.example", "d", "/chat/completions", Azure(api_version=version)) == (
        f"https://r.example/openai/v1/chat/completions?api-version={version}"
    )


def test_a_preview_of_the_classic_api_has_a_date():
    found = azure_url("https://r.example", "d", "/embeddings", Azure(api_version="2025-01-01-preview"))
    assert found == "https://r.example/openai/deployments/d/embeddings?api-version=2025-01-01-preview"


@pytest.mark.parametrize("name", [".", ".."])
def test_a_deployment_is_no_step_through_the_path(name):
    with pytest.raises(ModelNotFound, match="no model of the name"):
        azure_url("https://r.example", name, "/chat/completions", CLASSIC)


@pytest.mark.parametrize(
    ("base", "named"),
    [
        ("", ""),
        ("/openai", ""),
        ("/openai/deployments/", ""),
        ("/openai/deployments/a%20b", "a b"),
        ("/x/deployments/c", "c"),
    ],
)
def test_a_base_may_name_a_deployment(base, named):
    assert deployment_of(f"https://r.example{base}") == named
