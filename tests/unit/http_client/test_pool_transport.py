"""What Http1Transport itself does: it remembers where URLs lead. The rest is in tests/integration/transport."""

from __future__ import annotations

import ssl
import subprocess
import sys

from gatepass.http_client.pool import URLS, Http1Transport


async def test_urls_of_one_server_share_one_pool_and_no_more_of_them_are_kept_than_a_bound():
    transport = Http1Transport(4, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    pools = {id(transport._pool_for(f"http://h.example/{number}")[1]) for number in range(3 * URLS)}
    assert len(pools) == 1
    assert len(transport._by_url) <= URLS
    others = [
        transport._pool_for(url)[1] for url in ("https://h.example/", "http://h.example:81/", "http://i.example/")
    ]
    assert len(pools | {id(pool) for pool in others}) == 4
    await transport.aclose()


def test_no_http_library_is_loaded_for_it():
    code = "import sys, gatepass.http_client.pool; print({'httpx2', 'httpcore2', 'h11'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
