import pytest

from gatepass.config.upstream import AzureConfig, UpstreamConfig
from gatepass.dialects.azure import AzureDialect
from gatepass.dialects.base import Dialect
from gatepass.dialects.ragflow import RagflowBody, RagflowDialect
from gatepass.proxy.app_state import OPTIONAL_MODELS, OptionalOperations, dialect_of

BASE = "https://h.example"
CLASSIC = {"api_version": "2024-10-21"}


@pytest.mark.parametrize(
    ("settings", "dialect"),
    [
        ({}, Dialect()),
        ({"dialect": "azure"}, AzureDialect()),
        ({"dialect": "azure", "azure": CLASSIC}, AzureDialect(settings=AzureConfig(api_version="2024-10-21"))),
        (
            {"dialect": "azure", "azure": CLASSIC, "base_url": f"{BASE}/openai/deployments/d"},
            AzureDialect(settings=AzureConfig(api_version="2024-10-21"), deployment="d"),
        ),
        ({"dialect": "ragflow"}, RagflowDialect((RagflowBody(),))),
        (
            {"dialect": "ragflow", "ragflow": {"paths": "old", "images": "drop"}},
            RagflowDialect((RagflowBody("drop", "old"),), paths="old"),
        ),
    ],
)
def test_the_dialect_is_the_configured_one(settings, dialect):
    assert dialect_of(UpstreamConfig.model_validate({"base_url": BASE, **settings})) == dialect


def test_invented_names_of_models_do_not_fill_the_memory():
    optional = OptionalOperations()
    for number in range(3 * OPTIONAL_MODELS):
        optional.remember(("count_tokens", f"model-{number}"), 600.0)
        assert len(optional.absent_until_s) <= OPTIONAL_MODELS
