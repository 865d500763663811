from gatepass.config.upstream import UpstreamConfig

BASE = {"base_url": "https://llm.example/v1"}


def test_static_headers_may_be_any_but_those_of_one_hop():
    headers = {"AI-Resource-Group": "default", "api-key": "k", "Cookie": "a=b", "User-Agent": "two words", "X_Y": "v"}
    upstream = UpstreamConfig.model_validate({**BASE, "headers": headers})
    assert {name: value.reveal() for name, value in upstream.headers.items()} == headers
    assert "default" not in repr(upstream)
    assert upstream.model_dump()["headers"] == dict.fromkeys(headers, "(hidden)")
