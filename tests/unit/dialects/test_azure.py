import pytest

from gatepass.config.upstream import AzureConfig
from gatepass.dialects.azure import AzureDialect, azure_url, deployment_of
from gatepass.types import Call, Target, Timeouts
from tests.rows import CHAT, FILES, MODELS

BASE = "https://r.openai.azure.com"
CLASSIC = AzureConfig(api_version="2024-10-21")
TIMEOUTS = Timeouts(1.0, 2.0, 3.0, 4.0)


def call(operation=CHAT, model="gpt-4o"):
    return Call("gp-1", operation, "me", model, b'{"model":"m"}', ((b"api-key", b"the client's"), (b"x-y", b"z")))


def url(settings=CLASSIC, operation=CHAT, target=None, deployment=""):
    dialect = AzureDialect(settings=settings, deployment=deployment)
    return dialect.encode(call(operation), Target("az", target), BASE, TIMEOUTS).url


@pytest.mark.parametrize(
    ("target", "base_names", "deployment"),
    [("prod", "other", "prod"), (None, "other", "other"), (None, "", "gpt-4o")],
)
def test_the_route_names_the_deployment_then_the_base_then_the_client(target, base_names, deployment):
    assert f"/deployments/{deployment}/" in url(target=target, deployment=base_names)


def test_an_operation_without_a_model_names_no_deployment_and_the_list_is_not_shown():
    assert url(operation=MODELS, deployment="prod") == f"{BASE}/openai/models?api-version=2024-10-21"
    assert url(AzureConfig(), MODELS) == f"{BASE}/openai/v1/models"
    assert url(operation=FILES, deployment="base") == f"{BASE}/openai/files?api-version=2024-10-21"
    assert not AzureDialect.lists_models


BASES = ("", "/", "/openai/", "/openai/v1", "/v1", "/openai/deployments", "/openai/deployments/x")


def test_every_form_of_the_base_leads_to_the_same_url():
    for base in BASES:
        v1 = azure_url(f"https://r.example{base}", "gpt", "/chat/completions", AzureConfig())
        assert v1 == "https://r.example/openai/v1/chat/completions", base
        classic = azure_url(f"https://r.example{base}", "gpt 4/o", "/embeddings", CLASSIC)
        assert classic == "https://r.example/openai/deployments/gpt%204%2Fo/embeddings?api-version=2024-10-21", base


def test_a_gateways_own_prefix_stays_and_a_version_that_is_no_date_belongs_to_the_v1_api():
    assert azure_url("https://apim.example/team/openai", "d", "chat/completions", CLASSIC) == (
        "https://apim.example/team/openai/deployments/d/chat/completions?api-version=2024-10-21"
    )
    for version in ("preview", "latest", "v1"):
        found = azure_url("https://r.example", "d", "/chat/completions", AzureConfig(api_version=version))
        assert found == f"https://r.example/openai/v1/chat/completions?api-version={version}"


def test_a_base_may_name_a_deployment():
    named = {"/openai/deployments/a%20b": "a b", "/x/deployments/c": "c"}
    for base in ("", "/openai", "/openai/deployments/", *named):
        assert deployment_of(f"https://r.example{base}") == named.get(base, "")
