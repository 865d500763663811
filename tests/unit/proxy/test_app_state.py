import pytest

from gatepass.config.model import Config
from gatepass.config.upstream import AzureConfig, UpstreamConfig
from gatepass.dialects.azure import AzureDialect
from gatepass.dialects.base import Dialect
from gatepass.dialects.ragflow import RagflowBody, RagflowDialect
from gatepass.http_client.tls import TLSContexts
from gatepass.observability.capture import CaptureSettings
from gatepass.proxy.app_state import (
    OPTIONAL_MODELS,
    OptionalOperations,
    create_app_state,
    dialect_of,
    next_app_state,
)
from tests.unit.clock import DrivenClock

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


async def test_a_reload_keeps_the_observers_and_switches_the_inspector():
    def config(inspector_bytes: int) -> Config:
        blocks = {"upstreams": {"u": {"base_url": BASE}}, "limits": {"inspector_bytes": inspector_bytes}}
        return Config.model_validate(blocks)

    first = create_app_state(config(0), DrivenClock())
    first.capture.start(CaptureSettings())
    observed = len(first.observers.request_ended)
    for inspector_bytes, more in ((1_000_000, 1), (2_000_000, 1), (0, 0)):
        state = next_app_state(config(inspector_bytes), TLSContexts(), first)
        first.hand_over(state)
        assert state.observers is first.observers
        assert len(state.observers.request_ended) == observed + more
        assert state.capture.state()["running"]
    await first.aclose()
    assert not state.capture.state()["running"]
