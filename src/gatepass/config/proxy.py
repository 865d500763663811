"""What a variable says of a proxy; `network.from_env`: which one HTTP_PROXY and its kin name for a hop."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from gatepass.call import Secret
from gatepass.config.credential.base import Credential
from gatepass.config.credential.http_json import HttpJsonCredential
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.credential.vendor import AwsBedrockCredential, EntraCredential, GoogleCredential
from gatepass.config.model import Config
from gatepass.config.upstream import Upstream
from gatepass.config.url import checked_url

Proxied = TypeVar("Proxied", Upstream, Credential)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy's URL, and `user:password` where it wants them."""

    url: str
    auth: Secret | None = None


def with_environment_proxies(config: Config, environment: Mapping[str, str]) -> Config:
    """`config` with the environment's proxy at every hop that asks for it; raises ValueError where it is no URL."""
    upstreams = {name: _proxied(hop, hop.base_url, environment) for name, hop in config.upstreams.items()}
    credentials = {name: _proxied(hop, _issuer_url(hop), environment) for name, hop in config.credentials.items()}
    return config.model_copy(update={"upstreams": upstreams, "credentials": credentials})


def environment_proxy(url: str, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy for `url`: HTTPS_PROXY or HTTP_PROXY by its scheme, else ALL_PROXY, unless NO_PROXY names its host.

    The lower-case spelling wins, as curl and Python have it. Raises ValueError.
    """
    parts = urlsplit(url)
    if _is_bypassed(parts.netloc, _variable("no_proxy", environment)):
        return None
    found = _variable(f"{parts.scheme}_proxy", environment) or _variable("all_proxy", environment)
    return parsed_proxy(found) if found else None


def _is_bypassed(host: str, no_proxy: str) -> bool:
    # public in CPython and documented by its tests alone; typeshed does not know it
    bypass = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]
    return bool(no_proxy) and bool(bypass(host, {"no": no_proxy}))


def parsed_proxy(text: str) -> Proxy:
    """`http://user:password@host:port` taken apart; raises ValueError, which quotes none of it.

    The scheme may be missing, and in the user's name and password %40 stands for an @.
    """
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
    except ValueError:
        # its own words may quote the password
        raise ValueError("is not a URL: its host or port is malformed") from None
    user, _, place = parts.netloc.rpartition("@")
    rest = parts._replace(netloc=place).geturl()
    if "@" in rest:
        raise ValueError("holds an @ behind its host: in a password write / as %2F, ? as %3F and # as %23")
    return Proxy(checked_url(rest), Secret(unquote(user)) if user else None)


def _proxied(hop: Proxied, url: str | None, environment: Mapping[str, str]) -> Proxied:
    proxy = environment_proxy(url, environment) if hop.network.from_env and url is not None else None
    if proxy is None:
        return hop
    network = hop.network.model_copy(update={"proxy": proxy.url, "proxy_auth": proxy.auth})
    return hop.model_copy(update={"network": network})


def _issuer_url(credential: Credential) -> str | None:
    """Where its tokens come from; None for a key that is fetched nowhere."""
    match credential:
        case Oauth2Credential():
            return credential.endpoint
        case HttpJsonCredential():
            return credential.url
        case EntraCredential():
            return None if credential.managed_identity else credential.authority_host
        case GoogleCredential():
            return "https://oauth2.googleapis.com/token"
        case AwsBedrockCredential():
            return credential.sts
        case _:
            return None


def _variable(name: str, environment: Mapping[str, str]) -> str:
    return environment.get(name) or environment.get(name.upper()) or ""
