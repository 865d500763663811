import pytest

from gatepass.upstream.azure_path import azure_url

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
    assert azure_url(f"https://r.example{base}", "gpt", "/chat/completions", None) == (
        "https://r.example/openai/v1/chat/completions"
    )


@pytest.mark.parametrize("base", BASES)
def test_the_classic_api_from_every_form_of_the_base(base):
    assert azure_url(f"https://r.example{base}", "gpt 4/o", "/embeddings", "2024-10-21") == (
        "https://r.example/openai/deployments/gpt%204%2Fo/embeddings?api-version=2024-10-21"
    )


def test_the_list_of_models_names_no_deployment():
    assert azure_url("https://r.example", "", "/models", "2024-10-21") == (
        "https://r.example/openai/models?api-version=2024-10-21"
    )


def test_a_gateways_own_prefix_stays():
    assert azure_url("https://apim.example/team/openai", "d", "chat/completions", "v") == (
        "https://apim.example/team/openai/deployments/d/chat/completions?api-version=v"
    )
