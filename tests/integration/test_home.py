"""The page that a browser shows at `/`."""

from collections.abc import Mapping

from gatepass import __version__
from gatepass.auth.api_keys import hash_key

from .gateway import Answer, Gateway, gateway

HTML = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "sec-fetch-site": "none"}
LOCKED = {"keys": [{"name": "one", "hash": hash_key("gp-0123456789abcdef")}]}
UPSTREAM = "http://127.0.0.1:9"


async def shown(gp: Gateway, path: str = "/", headers: Mapping[str, str] = HTML) -> Answer:
    return await gp.ask(None, path, method="GET", headers=headers).answer()


async def test_home_page_shows_the_version_the_base_url_and_the_documentation_at_the_root_and_below_the_base_path():
    async with gateway(upstream=UPSTREAM, access=LOCKED, server={"base_path": "/llm"}) as gp:
        for path in ("/", "/llm", "/llm/"):
            answer = await shown(gp, path, {**HTML, "host": "gw.example", "x-forwarded-proto": "https"})
            text = answer.body.decode()
            assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
            assert answer.headers["x-content-type-options"] == "nosniff"
            for words in (f"gatepass {__version__} is running", "docs/operations"):
                assert words in text
            assert "Base URL for clients: https://gw.example/llm/v1\n" in text
            assert ("127.0.0.1:9" in text, len(answer.body) < 1000) == (False, True), "it names no upstream"
        other = await shown(gp, "/llmx/")
    assert (other.status, other.error["code"]) == (404, "unknown_path")


async def test_home_page_is_refused_to_other_sites_without_keys():
    foreign = {"host": "evil.example"}, {"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}
    async with gateway(upstream=UPSTREAM) as gp:
        assert (await shown(gp)).status == 200
        refused = [await shown(gp, headers={**HTML, **more}) for more in foreign]
    codes = [(answer.status, answer.error["code"]) for answer in refused]
    assert codes == [(403, "forbidden_host"), (403, "forbidden_origin"), (403, "forbidden_origin")]
