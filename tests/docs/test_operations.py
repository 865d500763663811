"""docs/operations/ and docs/model_list.md: commands print what they show, and tables name what the code has.

Also docs/reference/metrics.md: each metric with its labels.
"""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from msgspec import structs
from ruamel.yaml import YAML

from gatepass import json_body
from gatepass.cli import main
from gatepass.cli.capture import capture_lines
from gatepass.cli.control import ask, request, rule_lines
from gatepass.cli.options import UNUSABLE
from gatepass.cli.requests import tail
from gatepass.cli.serve import CANNOT_BIND
from gatepass.cli.story_lines import HEAD, list_line, story_lines, summary_line
from gatepass.config.load import NEED_RESTART
from gatepass.config.model import Limits
from gatepass.documents import Body, CaptureState, LearnedRules, RequestError, StoreStatus
from gatepass.errors import kind_of, status_of
from gatepass.http_client import message_head, pool, response_body
from gatepass.mcp import exchange, servers
from gatepass.normalize import embeddings_reply
from gatepass.observability.metrics import COUNTED, MAX_SERIES
from gatepass.observability.observer import AccessRecord
from gatepass.observability.story import curl_command
from gatepass.protocols import rerank
from gatepass.proxy import failover, models, response
from gatepass.server import connection, process
from gatepass.server.pages import PATHS
from gatepass.sse import aggregate, choice_aggregate, event, tool_calls
from gatepass.store import guarded
from gatepass.store.guarded import OTHER_KEY, StoreState
from tests.docs.blocks import blocks
from tests.docs.test_errors import OF_THE_UPSTREAM
from tests.golden.test_stories import CUT, ERROR, NOW_S, RETRIED, listed
from tests.integration.gateway import CHAT, HELLO, JSON, Ask
from tests.integration.processes import changed, started
from tests.integration.scripted import Received, Scripted, Send, reply
from tests.waiting import until

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/operations"
PAGES = {page.stem: page.read_text() for page in sorted([*FOLDER.glob("*.md"), ROOT / "docs/symptoms.md"])}
PAGES["clients"] = (ROOT / "docs/clients/README.md").read_text()
MODEL_LIST = (ROOT / "docs/model_list.md").read_text()
SOURCES = ROOT / "src/gatepass"
MIB = 1024 * 1024
SECRET = "a-secret-of-32-characters-and-more"
FILE = """\
credentials:
  corp: {type: oauth2, token_url: "https://sso.corp.example/token", client_id: gatepass, client_secret: "${SECRET}"}
upstreams:
  chat: {base_url: "https://llm.corp.example/v1", credential: corp}
models:
  gpt-4o: {upstream: chat, name: gpt-4o-240806-deploy-gs}
"""


def shown(page: str, command: str) -> str:
    """The output that the page shows for `command`."""
    blocks = re.findall(r"^```(?:console)?\n\$ (.*?)\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)
    (output,) = [str(output) for line, output in blocks if line == command]
    return output


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below `heading`, without its head."""
    part = PAGES[page].partition(f"{heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", part, re.MULTILINE)
    assert table is not None, heading
    lines = table[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in lines]


def names(cells: list[list[str]], column: int = 0) -> set[str]:
    """The names in code format in one column."""
    return {name for row in cells for name in re.findall(r"`([^`]+)`", row[column])}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    written = tmp_path / "gatepass.yaml"
    written.write_text(FILE)
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.chdir(tmp_path)
    return written


def test_the_route_of_a_model_is_printed_as_the_page_shows(file: Path) -> None:
    done = CliRunner().invoke(main, ["check", "--route", "gpt-4o"])
    assert (done.exit_code, done.stdout.rstrip()) == (0, shown("symptoms", "gatepass check --route gpt-4o").rstrip())


def test_the_capture_page_shows_what_its_command_prints() -> None:
    settings: Any = {"model": "gpt-4o", "caller": "ragflow"}
    ends_s = datetime(2027, 1, 15, 14, 12, 9, tzinfo=UTC).timestamp()
    state = CaptureState(running=True, left_s=600.0, until=ends_s, held_bytes=0, captured=0, **settings)
    lines = capture_lines(state, has_started=True)
    assert shown("capture", "gatepass capture --model gpt-4o --caller ragflow --minutes 10").splitlines() == [*lines]


def test_the_capture_page_shows_the_curl_command_of_a_captured_request() -> None:
    text = '{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}'
    body = Body("request", text, len(text), cut=False)
    command = curl_command(structs.replace(RETRIED, captured=True, bodies=[body]), "http://127.0.0.1:8080")
    assert command is not None
    assert shown("capture", f"gatepass show {RETRIED.id} --curl").splitlines() == command.splitlines()


def test_the_inspector_page_shows_what_its_commands_print() -> None:
    """For the documents of tests/golden/test_stories.py."""
    error = RequestError(**{**CUT, "page": ""})  # as without an address of the repository
    story = structs.replace(RETRIED, error=error)
    page = [click.unstyle(line) for line in story_lines(story, NOW_S)]
    assert shown("inspector", f"gatepass show {RETRIED.id}").splitlines() == page
    failed = listed(**ERROR, id="hpqshblgbtqkqthdbbbbbbbm")
    lines = [list_line(HEAD), *(click.unstyle(summary_line(one)) for one in (listed(), failed))]
    assert shown("inspector", "gatepass tail").splitlines() == lines
    cells = rows("inspector", "With these options it shows other requests:\n")
    named = set(re.findall(r"--[a-z]+", " ".join(row[0] for row in cells)))
    assert named == {option.opts[0] for option in tail.params} - {"--config", "--socket"}


def masked(text: str) -> str:
    """Without what depends on the time, and on the number of requests."""
    text = re.sub(r"^gatepass at http://\S+ \(control socket .+\)$", "gatepass", text, flags=re.MULTILINE)
    text = re.sub(r"(healthy|no answer yet) +(\S+% of \d+|-)", "HEALTH", text)
    return re.sub(r" +", " ", re.sub(r"\d+( (s|min|h)\b)?(?=\s)", "N", text))


def answer_of_the_company(got: Received) -> list[Send]:
    """A token, and an upstream whose models reject streams."""
    if got.target == "/token":
        return [Send(reply({"access_token": "the-token", "token_type": "Bearer", "expires_in": 300}))]
    if got.json().get("stream"):
        rejection = "Unsupported value: 'stream' does not support true with this model."
        error = {"message": rejection, "param": "stream", "code": "unsupported_value"}
        return [Send(reply({"error": error}, 400))]
    message = {"role": "assistant", "content": "Hi"}
    return [Send(reply({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}))]


CAPABILITIES = {"vision": False, "context_length": 200_000}


async def test_the_commands_for_a_running_gatepass_print_what_the_pages_show(tmp_path: Path) -> None:
    path = str(tmp_path / "own" / "control.sock")

    def prints(page: str, command: str) -> None:
        done = CliRunner().invoke(main, [*command.split()[1:], "--socket", path])
        assert done.exit_code == 0, done.output
        assert masked(done.stdout) == masked(shown(page, command))

    def page(target: str) -> Any:
        return json.loads(request("GET", target, path))

    async with Scripted(answer=answer_of_the_company) as corp:
        oauth2 = {"type": "oauth2", "token_url": f"{corp.url}/token", "client_id": "gatepass", "client_secret": SECRET}
        models = {"gpt-4o": {"upstream": "chat"}, "o3-mini": {"upstream": "chat", "capabilities": CAPABILITIES}}
        configuration = {
            "server": {"control_socket": path, "drain_timeout_s": 1},
            "credentials": {"corp": oauth2},
            "upstreams": {"chat": {"base_url": f"{corp.url}/v1", "credential": "corp"}},
            "models": models,
        }
        async with started(tmp_path, configuration) as running:
            port = await running.port
            await running.logged('"event":"token_fetched"')
            body = json.dumps({**HELLO, "model": "o3-mini", "stream": True}).encode()
            assert (await Ask(port, "POST", CHAT, dict(JSON), body).answer()).status == 200
            await until(lambda: page("/status")["credentials"]["corp"]["state"] == "fresh")
            prints("health_and_status", "gatepass status")
            compare_status(page("/status"))
            printed = "\n".join(rule_lines(ask(LearnedRules, "GET", "/learned", path).rules)) + "\n"
            assert masked(printed) == masked(shown("health_and_status", "gatepass learned"))
            (example,) = blocks(MODEL_LIST, "json")
            listed = (await Ask(port, "GET", "/v1/models", {}, b"").answer()).json()["data"]
            assert json.loads(example) in listed
            (line,) = re.findall(r"^\$ (curl .*)$", PAGES["health_and_status"], re.MULTILINE)
            unchanged = json.loads(shown("health_and_status", line))
            assert json.loads(request("POST", "/reload", path)) == unchanged
            changed(tmp_path, models=models | {"gpt-4o": {"upstream": "chat", "name": "new"}}, log={"level": "debug"})
            prints("reload", "gatepass reload")


def compare_status(process: dict[str, Any]) -> None:
    """/status has the members of the page's example, and the table names each that is not clear by its name."""
    (text,) = blocks(PAGES["health_and_status"], "json")
    example = json.loads(text)
    credential = process["credentials"]["corp"]
    assert list(example) == list(process)
    assert list(example["credentials"]["corp"]) == list(credential)
    named = names(rows("health_and_status", "### As JSON"))
    assert set(credential) - named == {"type", "upstreams", "kind"}
    assert named <= set(credential)


def test_the_pages_name_the_codes_alerts_pages_and_limits_of_the_code() -> None:
    status_and_code = re.findall(r"\b([1-5]\d\d) `(\w+)`", "".join(PAGES.values()))
    assert status_and_code
    for status, code in status_and_code:
        assert kind_of(code) in OF_THE_UPSTREAM or status_of(code) == int(status), code
    assert names(rows("health_and_status", "## Endpoints")) >= {*PATHS}
    assert names(rows("reload", "## What a reload changes")[:1]) == set(NEED_RESTART)
    (declared,) = [one for one in COUNTED if one.name == "gatepass_requests_total"]
    assert names(rows("monitoring", "## Labels")) == set(declared.labels)
    (group,) = YAML(typ="safe").load(ROOT / "deploy/observability/alerts.yaml")["groups"]
    assert names(rows("monitoring", "## Alerts")) == {rule["alert"] for rule in group["rules"]}
    assert f"at most {MAX_SERIES:,} series" in PAGES["monitoring"]
    assert f"from {MAX_SERIES // 2:,} series on" in PAGES["monitoring"]


def test_the_exit_codes_fit_the_code() -> None:
    assert [int(row[0]) for row in rows("run", "starts even if the issuer is down.\n")] == [
        0,
        UNUSABLE,
        CANNOT_BIND,
    ]
    assert '"gatepass listening on {url}"' in (SOURCES / "cli/serve.py").read_text()


def descriptors(connections: int) -> int:
    """The sum of limits_and_memory.md for one key and one upstream."""
    return connections * 5 // 4 + 1 + connections + 64


def test_the_user_of_the_acl_is_that_of_the_guide() -> None:
    (user,) = re.findall(r"^user (\S+) on", PAGES["store"], re.MULTILINE)
    assert f"`store.username: {user}`" in PAGES["store"]
    assert f"  username: {user} " in (ROOT / "docs/guides/replicas.md").read_text()


def test_the_sums_of_limits_are_those_of_the_defaults() -> None:
    """The text block of limits_and_memory.md, its example, and the sum of the memory."""
    page, limits = " ".join(PAGES["limits_and_memory"].split()), Limits()
    (addends, total) = re.findall(r"need (\d+(?: \+ \d+)+) = (\d+)\.", page)[0]
    assert sum(map(int, addends.split(" + "))) == int(total) == descriptors(limits.connections)
    example = re.search(r"`held_bytes: (\d+)` needs (\d+) \+ (\d+) \+ (\d+) \+ (\d+) = (\d+)", page)
    assert example is not None
    held, *addends = map(int, example.groups())
    assert addends[1:4] == [part // MIB for part in (held * 9 // 8, limits.body_bytes, limits.reply_bytes)]
    assert sum(addends[:-1]) == addends[-1]


def size(size_bytes: int) -> str:
    return f"{size_bytes // MIB} MiB" if size_bytes % MIB == 0 else f"{size_bytes // 1024} KiB"


def test_each_bound_is_that_of_the_code() -> None:
    """The table of all bounds in limits_and_memory.md: each figure is read from what the code compares with."""
    limits, large = Limits(), event.LARGE_EVENT_BYTES
    assert limits.unauthenticated == limits.connections // 4
    settings = ("body_bytes", "reply_bytes", "event_bytes", "held_bytes")
    body, reply, of_event, held = (f"`limits.{name}` ({size(getattr(limits, name))})" for name in settings)
    assert {of: most for of, most, _ in rows("limits_and_memory", "## All bounds")} == {
        "a head": f"{size(message_head.HEAD_BYTES)}, {message_head.MOST_FIELDS} fields",
        "a request body": body,
        "a message to an MCP server": size(exchange.BODY_BYTES),
        "an opened body's depth": f"{json_body.MAX_DEPTH} levels",
        "an opened list and object": f"{json_body.MOST_OPENED:,} values,"
        f" {json_body.MOST_MEMBERS:,} members, {size(json_body.LONGEST_NAME_BYTES)} a name",
        f"a body above {size(json_body.COUNTED_BYTES)}": f"{json_body.MOST_SIGNS:,} signs,"
        f" {json_body.MOST_ESCAPES:,} backslashes",
        "a reply": reply,
        "a reply that gatepass checks": f"{size(response.MOST_CHECKED_BYTES)}, {response.MOST_CHECKED_VALUES:,} signs",
        "a reply that gatepass converts": size(json_body.ONE_PASS_BYTES),
        "a vector that gatepass converts": f"{size(embeddings_reply.VECTOR_BYTES)};"
        f" beside all {size(embeddings_reply.MOST_BYTES)}, {embeddings_reply.MOST_MEMBERS:,} members",
        "a reply made from a stream": f"{size(aggregate.MOST_BYTES)}, {choice_aggregate.MAX_REPLY_ENTRIES:,} choices,"
        " calls and members",
        "a compressed reply": f"{response_body.MOST_MEMBERS:,} members,"
        f" and one for each {response_body.MEMBER_BYTES} bytes",
        "a model list": f"{size(models.LIST_BYTES)}, {models.LIST_VALUES:,} signs, {models.LIST_MODELS:,} models",
        "a rerank reply": f"{size(rerank.MOST_BYTES)}, {rerank.MOST_MEMBERS:,} members",
        "an event": of_event,
        "an event that gatepass converts": size(large),
        "an event above that": f"{event.MOST_LARGE_LINES:,} lines, {event.MOST_ESCAPES:,} backslashes",
        "the arguments of a stream's open calls": size(tool_calls.MOST_HELD_BYTES),
        "connections with a key": f"`limits.connections` ({limits.connections:,})",
        "connections without": "a quarter",
        "MCP sessions": f"{servers.MOST_SESSIONS:,}",
        "held bytes": held,
        "a wait for a head or more of a body": f"{connection.RECEIVE_S:g} s",
        "a slow body": f"{size(connection.LEAST_BYTES_PER_S)}/s after {connection.RECEIVE_S:g} s",
        "a client that reads nothing": f"{connection.STALL_S:g} s",
        "the same, while another caller waits": f"{failover.UNREAD_S:g} s",
        "an idle client": f"{process.IDLE_TIMEOUT_S} s",
        "a connection to an upstream": f"{pool.IDLE_S:g} s idle (MCP {pool.SHORT_IDLE_S:g} s), {pool.AGE_S:g} s in all",
        "a request to the store": f"{guarded.BOUND_S:g} s",
    }


def test_the_states_of_the_store_are_those_of_the_code() -> None:
    assert names(rows("store", "```json")) == {str(state) for state in StoreState} | {"key_id"} - {"key_id"}
    (text,) = blocks(PAGES["store"], "json")
    example = json.loads(f"{{{text}}}")["store"]
    place = {name: example[name] for name in ("through", "key_id")}
    assert set(example) == set(StoreStatus.__struct_fields__)
    begin = OTHER_KEY.format(theirs="58a5f1e80d5a3c41", ours=place["key_id"]).partition(", so")[0]
    assert example["reason"] == f"{begin}, …"


def test_every_field_of_the_access_line_is_documented() -> None:
    fields = set(AccessRecord.__struct_fields__)
    assert set(re.findall(r"^\| `(\w+)` \|", PAGES["logs"].partition("### Fields")[2], re.MULTILINE)) >= fields
    assert names(rows("logs", "## Find a request"), 1) <= fields
    (text,) = blocks(PAGES["logs"], "json")
    assert [name for name in json.loads(text) if name in fields] == [
        name for name in AccessRecord.__struct_fields__ if name in json.loads(text)
    ]
    assert set(json.loads(text)) - fields == {"ts", "level", "event"}
