from gatepass.config.model import Config
from gatepass.http_client.pool import IDLE_S, SHORT_IDLE_S
from gatepass.http_client.tls import TLSContexts
from gatepass.proxy.app_state import create_app_state, next_app_state

BASE = "https://h.example"


async def test_connections_to_mcp_servers_close_before_common_servers_close_them():
    blocks = {"upstreams": {"chat": {"base_url": BASE}}, "mcp": {"tools": {"url": f"{BASE}/mcp"}}}
    config = Config.model_validate(blocks)
    before = create_app_state(config)
    after = next_app_state(config, TLSContexts(before.tls_contexts), before)
    for state in (before, after):
        idle_s = {name: one.transport.idle_s for name, one in state.upstreams.items()}
        assert idle_s == {"chat": IDLE_S, "mcp/tools": SHORT_IDLE_S}
