import ssl
import subprocess
import sys

import pytest

from gatepass.config.network import Network
from gatepass.transport.choice import open_transport
from gatepass.transport.lean import LeanTransport
from gatepass.transport.pooled import PooledTransport


@pytest.mark.parametrize(
    ("network", "kind"),
    [
        (Network(), LeanTransport),
        (Network(proxy="http://proxy.example:3128"), PooledTransport),
        (Network(proxy="https://proxy.example:3128"), PooledTransport),
        (Network.model_validate({"proxy": "http://proxy.example:3128", "proxy_auth": "a:b"}), PooledTransport),
    ],
)
def test_a_hop_behind_a_proxy_gets_the_pooled_transport(network: Network, kind: type[object]):
    assert type(open_transport(network, 4, ssl.create_default_context())) is kind


def test_the_http_library_is_loaded_for_a_proxy_alone():
    code = "import sys, gatepass.transport.choice; print({'httpx2', 'httpcore2', 'h11'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
