"""A real Prometheus scrapes a gatepass with traffic, and evaluates the queries of deploy/observability.

It is the one on PATH, or the one that `make e2e-prometheus` installs in `.e2e/prometheus`.
"""

import asyncio
import json
import math
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path
from typing import Any

import httpx2
import pytest
from ruamel.yaml import YAML

from gatepass.config.access import hash_key
from tests.e2e.process import Process
from tests.e2e.servers import INSTALLED, ROOT, get_json, listening, serve
from tests.integration.answers import COMPLETION, DETAILED_USAGE, DONE, delta
from tests.integration.gateway import CHAT, JSON, Ask
from tests.integration.refusing import without
from tests.integration.scripted import Dialogue, Pause, Received, Rst, Scripted, Send, event, reply, stream
from tests.serving import free_port

FOLDER = ROOT / "deploy" / "observability"
MONITORING = ROOT / "docs" / "operations" / "monitoring.md"
WINDOW_S = 15
TRAFFIC_S = 12.0
ROUND_S = 0.5
KEYS = {name: f"gp-key-of-{name}" for name in ("alice", "bob", "carol", "prometheus")}


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`. Fails with the way to get it."""
    path = shutil.which(name) or shutil.which(name, path=str(INSTALLED / "prometheus"))
    if path is None:
        pytest.fail(f"{name} is missing. Run `make e2e-prometheus`, or `apt-get install prometheus` as root.")
    return path


@pytest.mark.parametrize("arguments", [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts.test.yaml")])
def test_promtool_accepts_the_rules_and_their_tests(arguments: tuple[str, ...]):
    done = subprocess.run([program("promtool"), *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_unit_test_in_which_it_fires():
    tests = read("alerts.test.yaml")["tests"]
    fired = {one["alertname"] for test in tests for one in test["alert_rule_test"] if one.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in alert_rules()}


def read(name: str) -> Any:
    return YAML(typ="safe").load(FOLDER / name)


def alert_rules() -> list[dict[str, Any]]:
    (group,) = read("alerts.yaml")["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


class Upstream:
    """Lists a model, streams, rejects a parameter and a token, has no quota, fails, and closes kept connections."""

    def __init__(self) -> None:
        self._rejection = without("logit_bias")
        self._with_token = 0
        self._known: set[int] = set()
        """The connections on which a request was answered."""

    def __call__(self, request: Received) -> Dialogue:
        if request.method == "GET":
            return [Send(reply({"object": "list", "data": [{"id": "listed"}]}))]
        body = request.json()
        if self._rejection.concerns(body):
            return self._rejection.dialogue
        text = body["messages"][0]["content"]
        is_reused = request.connection in self._known
        self._known.add(request.connection)
        if text == "close" and is_reused:
            return [Rst()]
        if text == "reject the token":
            self._with_token += 1
            if self._with_token % 6 == 1:  # gatepass renews a token that is rejected repeatedly only once per second
                return [Send(reply({"error": {"message": "expired"}}, 401))]
        if text == "fail":
            return [Send(reply({"error": {"message": "no"}}, 500))]
        if text == "ask to wait":
            return [Send(reply({"error": {"message": "no quota"}}, 429))]
        if text == "empty":
            choice = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}
            return [Send(reply({**COMPLETION, "choices": [choice]}))]
        if text == "occupy":
            return [Pause(0.3), Send(reply(COMPLETION))]
        if not body.get("stream"):
            return [Pause(0.05), Send(reply({**COMPLETION, "usage": DETAILED_USAGE}))]
        if text == "break":
            return [Send(stream(delta(content="a")), 200, 0.01)]
        usage = event({"id": "x", "choices": [], "usage": DETAILED_USAGE})
        return [Send(stream(delta(content="a"), delta(content="b"), delta("stop"), usage, DONE), 200, 0.01)]


def chat_body(text: str, model: str = "gpt", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


ROUND = (
    ("alice", chat_body("stream", stream=True, stream_options={"include_usage": True})),
    ("bob", chat_body("whole")),
    ("bob", chat_body("learn", logit_bias={})),
    ("bob", chat_body("an invented model", model="invented")),
    ("bob", chat_body("a model of the upstream's list", model="listed")),
    ("bob", chat_body("break", stream=True)),
    ("alice", chat_body("fail")),
    ("alice", chat_body("ask to wait")),
    ("alice", chat_body("empty")),
    ("alice", chat_body("reject the token")),
    ("alice", chat_body("close")),
    ("bob", chat_body("fail over", model="failing-over")),
    ("bob", chat_body("no token", model="tokenless")),
    ("alice", chat_body("wait", model="narrow")),
    ("bob", chat_body("wait", model="narrow")),
    ("mallory", chat_body("a wrong key")),
)
BESIDE = (
    *(("bob", chat_body("occupy", model="queued")),) * 4,
    ("carol", chat_body("beyond a limit")),
)
"""Requests of which some get 503 or 429."""


def configuration(chat: str, issuer: str) -> dict[str, Any]:
    """Two good upstreams, one that is down, one without a token, and a store that is down."""
    login = {"type": "oauth2", "client_id": "i", "client_secret": "portal-secret-4711"}
    base_url, dead = f"{chat}/v1", f"http://127.0.0.1:{free_port()}"
    return {
        "credentials": {"corp": {**login, "token_url": issuer}, "broken": {**login, "token_url": dead}},
        "upstreams": {
            "chat": {"base_url": base_url, "credential": "corp"},
            "narrow": {"base_url": base_url, "max_connections": 1},
            "queued": {"base_url": base_url, "max_in_flight": 1, "queue_s": 0.1},
            "dead": {"base_url": f"{dead}/v1"},
            "locked": {"base_url": base_url, "credential": "broken"},
        },
        "models": {
            "gpt": {"upstream": "chat", "name": "gpt-deploy"},
            "narrow": {"upstream": "narrow"},
            "queued": {"upstream": "queued", "limits": {"requests": {"day": 1_000}}},
            "failing-over": {"targets": [{"upstream": "dead"}, {"upstream": "narrow"}], "breaker": {"ejection_s": 1}},
            "tokenless": {"upstream": "locked"},
            "*": {"upstream": "chat"},
        },
        "store": {"url": dead.replace("http", "valkey"), "encryption_key": "an-encryption-key-of-the-prometheus-test"},
        "access": {
            "keys": [
                {
                    "name": name,
                    "hash": hash_key(key),
                    "role": "viewer" if name == "prometheus" else "caller",
                    "expires": "2099-01-31",
                    **({"group": "team", "limits": {"requests": {"day": 1}}} if name == "carol" else {}),
                }
                for name, key in KEYS.items()
            ],
            "groups": {"team": {"limits": {"requests": {"minute": 10_000, "day": 100_000}}}},
        },
    }


class Prometheus:
    """One that scrapes gatepass every second, with the rules of deploy/observability."""

    def __init__(self, folder: Path, gatepass: str) -> None:
        (folder / "key").write_text(KEYS["prometheus"])
        job = {
            "job_name": "gatepass",
            "authorization": {"credentials_file": str(folder / "key")},
            "static_configs": [{"targets": [gatepass.removeprefix("http://")]}],
        }
        every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        settings = {"global": every, "rule_files": [str(FOLDER / "alerts.yaml")], "scrape_configs": [job]}
        (folder / "prometheus.yml").write_text(json.dumps(settings))  # YAML contains JSON
        self.url = f"http://127.0.0.1:{free_port()}"
        address = self.url.removeprefix("http://")
        paths = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        self.process = Process([program("prometheus"), *paths, f"--web.listen-address={address}"])

    def ask(self, path: str, **query: str) -> Any:
        return get_json(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}")["data"]

    def values(self, expression: str) -> list[float]:
        """The values of an instant query, without NaN."""
        found = [float(one["value"][1]) for one in self.ask("query", query=expression)["result"]]
        return [value for value in found if not math.isnan(value)]


def concrete(expression: str) -> str:
    """The expression with Grafana's variables replaced."""
    expression = re.sub(r"\$__(?:rate_interval|range)\b", f"{WINDOW_S}s", expression)
    return re.sub(r"\$(?:job|caller|model|upstream)\b", ".*", expression)


def test_every_panel_and_every_alert_has_data_of_a_gatepass_with_traffic(tmp_path: Path):
    asyncio.run(_scraped(tmp_path))


async def _scraped(folder: Path) -> None:
    minted = [Send(reply({"access_token": f"token-{number}", "expires_in": 300})) for number in range(100)]
    async with Scripted(answer=Upstream()) as upstream, Scripted(*([one] for one in minted)) as issuer:
        file = folder / "gatepass.yaml"
        file.write_text(json.dumps(configuration(upstream.url, issuer.url)))
        with serve(file, python=sys.executable) as gatepass:
            url = await asyncio.to_thread(listening, gatepass)
            prometheus = Prometheus(folder, url)
            with prometheus.process:
                await asyncio.to_thread(prometheus.process.wait_for, "Server is ready to receive web requests", 30)
                await _traffic(int(url.rpartition(":")[2]))
                await asyncio.to_thread(_check, prometheus, url)


async def _traffic(port: int) -> None:
    until_s = time.monotonic() + TRAFFIC_S
    while time.monotonic() < until_s:
        asks = [
            Ask(
                port,
                "POST",
                CHAT,
                {**JSON, "authorization": f"Bearer {KEYS.get(name, name)}"},
                json.dumps(body).encode(),
            )
            for name, body in (*ROUND, *BESIDE)
        ]
        statuses = [answer.status for answer in await asyncio.gather(*(ask.answer() for ask in asks))]
        assert statuses[:6] == [200] * 6
        assert statuses[6 : len(ROUND)] == [500, 429, 200, 200, 200, 200, 503, 200, 200, 401]
        assert set(statuses[len(ROUND) :]) <= {200, 429, 503}
        await asyncio.sleep(ROUND_S)  # pause between two rounds, in which Prometheus scrapes


def _check(prometheus: Prometheus, gatepass: str) -> None:
    assert prometheus.values("up") == [1.0]
    without_data = []
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    queries = [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", ())]
    for title, expression in queries:
        if not prometheus.values(concrete(expression)):
            without_data.append((title, expression))
    shown = re.findall(r"^```text\n(.*?)^```", MONITORING.read_text(), re.MULTILINE | re.DOTALL)
    assert len(shown) == 3
    without_data += [("the page", one) for lines in shown for one in lines.splitlines() if not prometheus.values(one)]
    for rule in alert_rules():
        compared = re.fullmatch(r"(.+?) (?:>|<|==) [\d.]+(?: and .+)?", rule["expr"])
        assert compared is not None, rule["expr"]
        if not prometheus.values(compared[1]):
            without_data.append((rule["alert"], compared[1]))
    assert not without_data
    assert len(queries) > 50
    assert prometheus.values("gatepass_limit_hits_total > 0")
    failed = 'sum by (status, code) (gatepass_requests_total{outcome="error", upstream="chat"})'
    found = {tuple(one["metric"].values()) for one in prometheus.ask("query", query=failed)["result"]}
    assert {("upstream_closed", "200"), ("upstream_error", "500")} <= found
    for model in ("gpt", "listed", "other"):
        assert prometheus.values(f'gatepass_requests_total{{model="{model}", outcome="ok"}}'), model

    (group,) = prometheus.ask("rules")["groups"]
    assert {rule["health"] for rule in group["rules"]} == {"ok"}
    active = {rule["name"] for rule in group["rules"] if rule["state"] != "inactive"}
    assert {"GatepassNoUsableToken", "GatepassErrorShare", "GatepassErrorBudgetFast", "GatepassStoreDown"} <= active
    assert not active & {"GatepassDown", "GatepassTokenNotRefreshed", "GatepassDescriptors", "GatepassFull"}

    page = httpx2.get(f"{gatepass}/metrics", headers={"x-api-key": KEYS["prometheus"]}).raise_for_status().content
    linted = subprocess.run([program("promtool"), "check", "metrics"], input=page, capture_output=True, check=False)
    assert (linted.returncode, linted.stderr) == (0, b""), linted.stderr.decode()
