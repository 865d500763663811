"""No damaged version of a configuration lets a key do more, or sends a request or a secret elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gatepass.auth.model_access import may_use
from gatepass.config.access import AccessKey
from gatepass.config.document import ConfigError, FileVersion
from gatepass.config.load import LoadedConfig, load
from gatepass.config.model import Config
from gatepass.errors import ModelNotFound
from gatepass.proxy.routing import RouteTable
from gatepass.server.reload import Replacement, unattended_problems
from gatepass.server.widening import widened

HASHES = {name: f"sha256:{digit * 64}" for name, digit in (("chat", "a"), ("batch", "b"), ("ops", "c"), ("old", "d"))}
SAMPLE = f"""\
# keys and upstreams of two departments
server:
  watch: true
credentials:
  corp:
    type: oauth2
    token_url: https://sso.corp.example/token
    client_id: gatepass
    client_secret: ${{CORP_SECRET}}
    network:
      proxy: http://proxy.corp.example:3128
  lab:
    type: static
    token: ${{LAB_TOKEN}}
upstreams:
  corp:
    base_url: https://llm.corp.example/v1
    credential: corp
    headers:
      x-group: ${{GROUP}}
    network:
      proxy: http://proxy.corp.example:3128
    timeouts:
      first_byte_s: 900
  lab:
    base_url: https://llm.lab.example/team/one/v1
    credential: lab
operations:
  embeddings:
    upstream: lab
  files:
    upstream: corp
models:
  gpt-4o:
    upstream: corp
    name: prod-4o
  gpt-4o-mini:
    targets:
      - upstream: corp
        name: prod-mini
      - upstream: lab
        name: mini
  "secret-*":
    upstream: lab
  personnel:
    upstream: lab
    name: personnel-v2
profiles:
  pages:
    extends: open_webui
    cors_origins:
      - https://chat.corp.example
access:
  keys:
    - name: chat
      hash: {HASHES["chat"]}
      models:
        - gpt-4o
        - "gpt-4o-*"
      max_concurrent: 8
      profile: pages
    - name: batch
      key: ${{BATCH_KEY}}
      models: [gpt-4o-mini]
      expires: 2099-01-31
    - name: ops
      hash: {HASHES["ops"]}
      role: viewer
    - name: old
      hash: {HASHES["old"]}
      expires: 2099-06-30
"""
VARIABLES = {
    "CORP_SECRET": "a secret of the department",
    "LAB_TOKEN": "a token of the laboratory",
    "GROUP": "default-group",
    "BATCH_KEY": "a-key-for-the-batch-jobs",
}
NAMES = ("gpt-4o", "gpt-4o-mini", "gpt-4o-x", "secret-a", "personnel", "anything", "gpt", "mini", "")
OPERATIONS = ("chat", "embeddings", "files")


@dataclass(frozen=True)
class Reach:
    """What the callers of a configuration can do, read with the objects that serve them."""

    calls: frozenset[tuple[str, str, str, str]]
    """Key, operation, public name, and the upstream with its model."""
    pages: frozenset[str]
    places: frozenset[tuple[str, ...]]
    """Where a request, token or secret goes."""
    moments: dict[str, float]
    slots: dict[str, float]
    origins: frozenset[tuple[str, str]]
    callers: int

    def exceeds(self, other: Reach) -> bool:
        return not (
            self.calls <= other.calls
            and self.pages <= other.pages
            and self.places <= other.places
            and self.origins <= other.origins
            and all(self.moments[key] <= other.moments.get(key, -1) for key in self.moments)
            and all(self.slots[key] <= other.slots.get(key, -1) for key in self.slots)
            and self.callers >= min(other.callers, 2)
        )


def identity(key: AccessKey) -> str:
    return key.hash or (key.key.reference if key.key is not None else "")


def reach(config: Config) -> Reach:
    routes, calls = RouteTable(config), set()
    for key in config.access.keys:
        for operation in OPERATIONS:
            for name in NAMES:
                if not key.calls_models or not may_use(key, name):
                    continue
                try:
                    targets = routes.resolve(operation, name)
                except ModelNotFound:
                    continue
                for one in targets:
                    # a key without `models` may use each model of the upstreams that serve its name
                    model = "" if key.models is None else f"{one.model}"
                    calls.add((identity(key), operation, name, f"{one.upstream}/{model}"))
    places: set[tuple[str, ...]] = set()
    for name, upstream in config.upstreams.items():
        network = str(upstream.network.proxy)
        places.add((name, upstream.base_url, network, str(upstream.credential or "")))
        places |= {(name, field, value.reference) for field, value in upstream.headers.items()}
    for name, credential in config.credentials.items():
        secret = getattr(credential, "client_secret", None) or getattr(credential, "token", None)
        url = str(getattr(credential, "token_url", ""))
        places.add((name, url, str(credential.network.proxy), "" if secret is None else secret.reference))
    keys = {identity(key): key for key in config.access.keys}
    forever = float("inf")
    return Reach(
        frozenset(calls),
        frozenset(name for name, key in keys.items() if key.reads_pages),
        frozenset(places),
        {name: key.expires.timestamp() if key.expires else forever for name, key in keys.items()},
        {name: key.max_concurrent or forever for name, key in keys.items()},
        frozenset((name, origin) for name, profile in config.profiles.items() for origin in profile.cors_origins),
        config.access.callers,
    )


def damaged(text: str) -> Iterator[tuple[str, str]]:
    """Yield each damaged version: a lost line, two lost lines, lost blocks of bytes, and a lost member of a line."""
    lines = text.splitlines(keepends=True)
    for at in range(len(lines)):
        for count in (1, 2, 3):
            yield f"without lines {at} to {at + count - 1}", "".join(lines[:at] + lines[at + count :])
    for size, step in ((512, 32), (64, 32), (7, 9)):
        for at in range(0, len(text), step):
            yield f"without {size} bytes from {at}", text[:at] + text[at + size :]


class Files:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "gatepass.yaml"

    def load(self, text: str) -> LoadedConfig | None:
        self.path.write_text(text)
        try:
            return load(str(self.path), VARIABLES)
        except ConfigError:
            return None


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_no_damaged_version_that_is_written_in_place_allows_more(files: Files):
    used = files.load(SAMPLE)
    assert used is not None
    before = reach(used.config)
    assert len(before.calls) > 20
    results = {"invalid": 0, "waits": 0, "applies": 0}
    for how, text in damaged(SAMPLE):
        loaded = files.load(text)
        if loaded is None:
            results["invalid"] += 1
            continue
        problems = unattended_problems(used, loaded, is_replaced=False)
        results["waits" if problems else "applies"] += 1
        if not problems and loaded.config.access.keys:  # a reload refuses a file without keys
            assert not reach(loaded.config).exceeds(before), how
    assert min(results.values()) > 10, results


def test_each_beginning_of_the_file_in_use_is_refused_even_in_a_new_file(files: Files):
    used = files.load(SAMPLE)
    assert used is not None
    version = used.document.version
    assert version is not None
    content = version.content
    for size in range(len(content.rstrip())):
        assert FileVersion((0, 0), content[:size]).begins(version), size
    assert not FileVersion((0, 0), content.rstrip()).begins(version), "only white space is missing"
    at = SAMPLE.index("    - name: old")
    cut = files.load(SAMPLE[:at])
    assert cut is not None
    (problem,) = unattended_problems(used, cut, is_replaced=True)
    assert "is the beginning of the file in use" in problem


def changed(**changes: Any) -> Config:
    """Return the sample with the values at dotted paths: `access__keys__0__models=None`."""
    tree = deepcopy(TREE)
    for path, value in changes.items():
        node: Any = tree
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("__"))
        for part in parents:
            node = node[part]
        if value is ...:
            del node[last]
        else:
            node[last] = value
    return Config.model_validate(tree)


TREE: dict[str, Any] = {
    "credentials": {"corp": {"type": "static", "token": "a token of the corporation"}},
    "upstreams": {
        "corp": {"base_url": "https://llm.corp.example/v1", "credential": "corp", "forward_headers": ["x-team"]},
        "lab": {"base_url": "https://llm.lab.example/v1"},
    },
    "operations": {"embeddings": {"upstream": "lab"}},
    "models": {"a": {"upstream": "corp"}, "b": {"upstream": "lab"}},
    "profiles": {"own": {"cors_origins": ["https://one.example"]}},
    "access": {
        "keys": [
            {"name": "limited", "hash": HASHES["chat"], "models": ["a", "a-*"], "max_concurrent": 2},
            {"name": "free", "hash": HASHES["batch"], "expires": "2099-01-31"},
            {"name": "boss", "hash": HASHES["ops"], "role": "admin"},
        ]
    },
}
WIDER: dict[str, tuple[dict[str, Any], str]] = {
    "a limit is gone": ({"access__keys__0__models": ...}, "access.keys[limited].models"),
    "one name more": ({"access__keys__0__models": ["a", "b"]}, "access.keys[limited].models"),
    "a role": ({"access__keys__1__role": "admin"}, "access.keys[free].role"),
    "another role": ({"access__keys__1__role": "viewer"}, "access.keys[free].role"),
    "an end is gone": ({"access__keys__1__expires": ...}, "access.keys[free].expires"),
    "a later end": ({"access__keys__1__expires": "2099-02-01"}, "access.keys[free].expires"),
    "more at once": ({"access__keys__0__max_concurrent": 3}, "access.keys[limited].max_concurrent"),
    "another profile": ({"access__keys__0__profile": "own"}, "access.keys[limited].profile"),
    "another caller": ({"access__keys__0__name": "free"}, "access.keys[free].name"),
    "a new key": ({"access__keys__1__hash": HASHES["old"]}, "access.keys[free]"),
    "one caller is left": ({"access__keys": TREE["access"]["keys"][:1]}, "access.keys"),
    "no key": ({"access": {}}, "access.keys"),
    "open metrics": ({"access__metrics_open": True}, "access.metrics_open"),
    "an origin": ({"profiles__own__cors_origins": ["https://two.example"]}, "profiles.own.cors_origins"),
    "a host": ({"upstreams__corp__base_url": "https://llm.cor/v1"}, "upstreams.corp.base_url"),
    "a path": ({"upstreams__corp__base_url": "https://llm.corp.example/v2"}, "upstreams.corp.base_url"),
    "a proxy": ({"upstreams__corp__network": {"proxy": "http://p:1"}}, "upstreams.corp.network"),
    "a token for a host": ({"upstreams__lab__credential": "corp"}, "upstreams.lab.credential"),
    "a header": ({"upstreams__lab__headers": {"x-key": "value"}}, "upstreams.lab.headers"),
    "a dialect": ({"upstreams__corp__dialect": "azure"}, "upstreams.corp.dialect"),
    "plain HTTP": ({"upstreams__corp__allow_plain_http": True}, "upstreams.corp.allow_plain_http"),
    "a new upstream": ({"upstreams__new": {"base_url": "https://new.example"}}, "upstreams.new"),
    "a new credential": ({"credentials__new": {"type": "static", "token": "x"}}, "credentials.new"),
    "a secret": ({"credentials__corp__token": "another token of it"}, "credentials.corp.token"),
    "a kind of credential": (
        {"credentials__corp": {"type": "api_key", "key": "a token of the corporation"}},
        "credentials.corp",
    ),
    "a model elsewhere": ({"models__b": {"upstream": "corp"}}, "models.b"),
    "a target more": ({"models__b": {"targets": [{"upstream": "lab"}, {"upstream": "corp"}]}}, "models.b"),
    "a model of a limited key": ({"models__a": {"upstream": "corp", "name": "other"}}, "models.a"),
    "a new name of a limited key": ({"models__a-1": {"upstream": "corp"}}, "models.a-1"),
    "a pattern": ({"models__a*": {"upstream": "corp"}}, "models.a*"),
    "a route for all names": ({"operations__chat": {"upstream": "corp"}}, "operations"),
}
AS_WIDE: dict[str, dict[str, Any]] = {
    "fewer names": {"access__keys__0__models": ["a"]},
    "a limit": {"access__keys__1__models": ["b"]},
    "a lower role": {"access__keys__2__role": "viewer"},
    "an earlier end": {"access__keys__1__expires": "2098-01-31"},
    "fewer at once": {"access__keys__0__max_concurrent": 1},
    "a key less": {"access__keys": TREE["access"]["keys"][:2]},
    "a timeout": {"upstreams__corp__timeouts": {"first_byte_s": 9}},
    "a new model of free keys": {"models__c": {"upstream": "lab"}},
    "another name of a model": {"models__b": {"upstream": "lab", "name": "b-2"}},
    "a model less": {"models__b": ...},
    "a profile": {"profiles__other": {"drop": ["user"]}},
    "no origins": {"profiles__own__cors_origins": []},
}


@pytest.mark.parametrize("case", WIDER)
def test_a_setting_that_allows_more_is_named(case: str):
    changes, name = WIDER[case]
    assert name in widened(Config.model_validate(TREE), changed(**changes))


@pytest.mark.parametrize("case", AS_WIDE)
def test_other_changes_are_not_reported(case: str):
    assert widened(Config.model_validate(TREE), changed(**AS_WIDE[case])) == []


def test_the_first_keys_allow_no_more_than_none():
    assert widened(changed(access={}), Config.model_validate(TREE)) == []


def test_a_file_is_replaced_by_another_one_with_its_first_content():
    one, two, two_later = FileVersion((1, 1), b"one"), FileVersion((1, 2), b"two"), FileVersion((1, 2), b"later")
    found = Replacement()
    assert not found.is_replaced(one, two), "nothing has been seen"
    found.seen(one)
    assert not found.is_replaced(one, FileVersion((1, 1), b"later"))
    found.seen(two)
    assert found.is_replaced(one, two)
    found.seen(two_later)
    assert not found.is_replaced(one, two_later), "the new file was rewritten in place"
    assert not found.is_replaced(None, two)
