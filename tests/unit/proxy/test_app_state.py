import pytest

from gatepass.config.model import Config
from gatepass.config.upstream import AzureConfig, UpstreamConfig
from gatepass.dialects.azure import AzureDialect
from gatepass.dialects.base import Dialect
from gatepass.dialects.ragflow import RagflowDialect
from gatepass.http_client.pool import IDLE_S, SHORT_IDLE_S
from gatepass.http_client.tls import TLSContexts
from gatepass.normalize.ragflow_body import RagflowBody
from gatepass.proxy.app_state import create_app_state, dialect_of, next_app_state

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


def two_clients(secret: str) -> Config:
    corp = {"type": "oauth2", "token_url": f"{BASE}/token", "client_id": "me", "client_secret": "s3cr3t-of-the-client"}
    credentials = {"corp": {**corp, "client_secret": secret}, "other": corp}
    return Config.model_validate({"credentials": credentials, "upstreams": {"chat": {"base_url": BASE}}})


async def test_a_reload_rebuilds_the_changed_credential_alone():
    before = create_app_state(two_clients("s3cr3t-number-one"))
    same = next_app_state(two_clients("s3cr3t-number-one"), TLSContexts(before.tls_contexts), before)
    changed = next_app_state(two_clients("s3cr3t-number-two"), TLSContexts(before.tls_contexts), before)
    assert list(before.holders) == ["corp", "other"]
    kept = {name: changed.holders[name] is holder for name, holder in before.holders.items()}
    assert kept == {"corp": False, "other": True}
    assert dict(same.holders) == dict(before.holders)


async def test_connections_to_mcp_servers_close_before_common_servers_close_them():
    blocks = {"upstreams": {"chat": {"base_url": BASE}}, "mcp": {"tools": {"url": f"{BASE}/mcp"}}}
    config = Config.model_validate(blocks)
    before = create_app_state(config)
    after = next_app_state(config, TLSContexts(before.tls_contexts), before)
    for state in (before, after):
        idle_s = {name: one.transport.idle_s for name, one in state.upstreams.items()}
        assert idle_s == {"chat": IDLE_S, "mcp/tools": SHORT_IDLE_S}
