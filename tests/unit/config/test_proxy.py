import pytest

from gatepass.config.load import load
from gatepass.config.model import Config
from gatepass.config.problem import ConfigError
from gatepass.config.proxy import environment_proxy, with_environment_proxies

URL = "https://llm.corp.example/v1"
PROXY = "http://proxy.corp.example:3128"


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": PROXY}, PROXY),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other:1"}, PROXY),
        ({"HTTP_PROXY": PROXY}, None),
        ({"ALL_PROXY": PROXY}, PROXY),
        ({"HTTPS_PROXY": "proxy.corp.example:3128"}, PROXY),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "localhost,.corp.example"}, None),
        ({"HTTPS_PROXY": PROXY, "no_proxy": "*"}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "other.example"}, PROXY),
    ],
)
def test_the_environments_proxy_is_chosen_by_scheme_and_host(environment, proxy):
    found = environment_proxy(URL, environment)
    assert (found.url if found else None) == proxy


def test_a_password_in_the_variable_is_kept_apart_and_hidden():
    found = environment_proxy(URL, {"HTTPS_PROXY": "http://me:p%40ss-word@proxy.corp.example:3128"})
    assert found is not None
    assert found.url == PROXY
    assert found.auth is not None
    assert found.auth.reveal() == "me:p@ss-word"
    assert "p@ss" not in repr(found)


def test_only_hops_that_ask_for_it_get_the_environments_proxy():
    config = Config.model_validate(
        {
            "upstreams": {"asks": {"base_url": URL, "network": {"from_env": True}}, "not": {"base_url": URL}},
            "credentials": {
                "login": {"type": "http_json", "url": URL, "network": {"from_env": True}},
                "oauth": {
                    "type": "oauth2",
                    "token_url": URL,
                    "client_id": "i",
                    "client_secret": "s",
                    "network": {"from_env": True},
                },
                "static": {"type": "static", "token": "t", "network": {"from_env": True}},
            },
        }
    )
    proxied = with_environment_proxies(config, {"HTTPS_PROXY": PROXY})
    assert {name: hop.network.proxy for name, hop in proxied.upstreams.items()} == {"asks": PROXY, "not": None}
    assert {name: hop.network.proxy for name, hop in proxied.credentials.items()} == {
        "login": PROXY,
        "oauth": PROXY,
        "static": None,
    }


def test_a_proxy_of_the_environment_that_is_no_url_is_refused(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(f"upstreams: {{chat: {{base_url: '{URL}', network: {{from_env: true}}}}}}\n")
    with pytest.raises(ConfigError, match=r"proxy for network\.from_env"):
        load(str(file), {"HTTPS_PROXY": "ftp://nowhere"})
