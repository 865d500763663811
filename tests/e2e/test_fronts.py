"""nginx, HAProxy, Apache, Squid and tinyproxy, as Debian packages them, in front of upstreams that are down or slow.

`tests/e2e/fronts/fetch.sh` unpacks them into `.e2e/fronts`. Their pages are the ones that users paste.
"""

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest

from tests.e2e.process import Process
from tests.e2e.servers import INSTALLED, installed, listening, serve
from tests.integration.answers import DONE, delta
from tests.integration.scripted import Dialogue, Fin, Pause, Received, Send, head, reply
from tests.serving import free_port
from tests.waiting import block_until

FOLDER = INSTALLED / "fronts"
ROOT = FOLDER / "root"
LONG_TOKEN, KEY = "t" * 9000, "key-in-the-query"
READY_S = 60.0

NGINX = """
daemon off; master_process off; pid nginx.pid; error_log stderr;
events {{}}
http {{
  access_log off; client_body_temp_path body; proxy_temp_path proxy;
  fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  server {{
    listen 127.0.0.1:{port};
    location /down/ {{ proxy_pass http://127.0.0.1:{closed}; }}
    location /small/ {{ client_max_body_size 1; proxy_pass {upstream}/; }}
    location /buffered/ {{ proxy_pass {upstream}/; }}
    location /streamed/ {{ proxy_pass {upstream}/; proxy_buffering off; }}
  }}
}}
"""
HAPROXY = """
defaults
  mode http
  timeout connect 1s
  timeout client 10s
  timeout server 10s
frontend front
  bind 127.0.0.1:{port}
  http-request deny deny_status 429 if {{ path_beg /limited/ }}
  http-request deny if {{ path_beg /denied/ }}
  default_backend back
backend back
  server one 127.0.0.1:{closed}
"""
APACHE = """
ServerRoot {folder}
ServerName localhost
Listen 127.0.0.1:{port}
PidFile {folder}/apache.pid
DefaultRuntimeDir {folder}
User #65534
Group #65534
ErrorLog /dev/stderr
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule proxy_module {modules}/mod_proxy.so
LoadModule proxy_http_module {modules}/mod_proxy_http.so
ProxyPass /down/ http://127.0.0.1:{closed}/
ProxyPass /broken/ {upstream}/broken/
"""
SQUID = """
http_port 127.0.0.1:{port}
http_access allow all
cache deny all
access_log none
cache_log /dev/stderr
pid_filename none
netdb_filename none
pinger_enable off
unlinkd_program {root}/usr/lib/squid/unlinkd
mime_table {root}/usr/share/squid/mime.conf
icon_directory {root}/usr/share/squid/icons
error_directory {root}/usr/share/squid-langpack/templates
error_log_languages off
coredump_dir {folder}
shutdown_lifetime 0 seconds
"""
TINYPROXY = """
Port {port}
Listen 127.0.0.1
LogLevel Warning
BasicAuth me right
"""


def answer(request: Received) -> Dialogue:
    """Close at `/broken/`, else list a model, or stream 24 events within three seconds."""
    if request.target.startswith("/broken/"):
        return [Fin()]
    if request.method == "GET":
        return [Send(reply({"object": "list", "data": [{"id": "m"}]}))]
    events = [part for _ in range(23) for part in (Send(delta(content="p")), Pause(0.13))]
    return [Send(head(200, content_type="text/event-stream")), *events, Send(delta("stop") + DONE), Fin()]


class Row(NamedTuple):
    """An upstream behind a front: its status for a chat, what its error tells, and what only an operator reads."""

    front: str
    path: str
    status: int
    told: str
    detail: str = ""
    settings: str = ""


ROWS = {
    "nginx-down": Row("nginx", "down", 502, 'with an HTML page titled "502 Bad Gateway".'),
    "nginx-small": Row("nginx", "small", 413, 'titled "413 Request Entity Too Large".'),
    "nginx-header": Row("nginx", "down", 400, "9 KiB for `credentials.long`", "", "credential: long"),
    "haproxy-down": Row("haproxy", "x", 503, "It says: No server is available to handle this request."),
    "haproxy-limited": Row(
        "haproxy", "limited", 429, "It says: You have sent too many requests in a given amount of time."
    ),
    "haproxy-denied": Row("haproxy", "denied", 403, "It says: Request forbidden by administrative rules."),
    "apache-down": Row("apache2", "down", 503, "It says: The server is temporarily unable to service your request"),
    "apache-broken": Row("apache2", "broken", 502, "It says: The proxy server received an invalid response"),
    "apache-header": Row("apache2", "down", 400, "It says: Your browser sent a request", "", "credential: long"),
    "squid-down": Row("squid", "", 503, "The requested URL could not be retrieved", "Connection to 127.0.0.1 failed."),
    "tinyproxy": Row("tinyproxy", "", 502, "network.proxy_auth"),
}


class Fronts(NamedTuple):
    """A gatepass before them: its URL, its files, and what `gatepass doctor` prints about each upstream."""

    url: str
    config: Path
    socket: Path
    doctor: str


@pytest.fixture(scope="module")
def fronts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fronts]:
    if not (FOLDER / "nginx").exists() and shutil.which("apt-get") is None:
        pytest.skip("these are Debian's packages")
    installed("fronts/nginx")
    folder = tmp_path_factory.mktemp("fronts")
    folder.chmod(0o755)
    with ExitStack() as stack:
        code = "from tests.e2e import process, test_fronts; process.serve_answers(test_fronts.answer)"
        upstream = listening(stack.enter_context(Process([sys.executable, "-c", code])))
        closed, ports = free_port(), {row.front: free_port() for row in ROWS.values()}
        texts = {"nginx": NGINX, "haproxy": HAPROXY, "apache2": APACHE, "squid": SQUID, "tinyproxy": TINYPROXY}
        options: dict[str, list[str | Path]] = {
            "nginx": ["-p", folder, "-e", "stderr", "-c"],
            "haproxy": ["-f"],
            "apache2": ["-D", "FOREGROUND", "-f"],
            "squid": ["-N", "-f"],
            "tinyproxy": ["-d", "-c"],
        }
        for name, text in texts.items():
            file = folder / f"{name}.conf"
            known = {"folder": folder, "root": ROOT, "modules": ROOT / "usr/lib/apache2/modules"}
            file.write_text(text.format(port=ports[name], closed=closed, upstream=upstream, **known))
            process = stack.enter_context(Process([FOLDER / name, *options[name], file]))
            try:
                block_until(partial(is_open, ports[name]), READY_S)
            except TimeoutError:
                pytest.fail(f"{name}: {process.output}")
        config = folder / "gatepass.yaml"
        config.write_text(configuration(ports, closed, folder / "gp.sock"))
        process = stack.enter_context(serve(config, sys.executable))
        tested = command("doctor", "--config", config)
        yield Fronts(listening(process), config, folder / "gp.sock", tested)


def is_open(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def configuration(ports: dict[str, int], closed: int, control: Path) -> str:
    blocks = []
    for name, row in ROWS.items():
        base_url, more = f"http://127.0.0.1:{ports[row.front]}/{row.path}/v1", row.settings
        if row.front == "squid":
            base_url, more = (
                f"http://127.0.0.1:{closed}/v1",
                f"network: {{proxy: http://127.0.0.1:{ports['squid']}}}, query: {{key: {KEY}}}",
            )
        if row.front == "tinyproxy":
            proxy = f"{{proxy: http://127.0.0.1:{ports['tinyproxy']}, proxy_auth: 'me:wrong'}}"
            base_url, more = "https://llm.example/v1", f"network: {proxy}"
        blocks.append(f"  {name}: {{base_url: '{base_url}', {more}}}")
    streams, nginx = ("buffered", "streamed"), f"http://127.0.0.1:{ports['nginx']}"
    blocks += [f"  {name}: {{base_url: '{nginx}/{name}/v1'}}" for name in streams]
    models = [f"  m-{name}: {{upstream: {name}, name: m}}" for name in (*ROWS, *streams)]
    lines = [
        f"server: {{control_socket: {control}}}",
        f"credentials: {{long: {{type: static, token: {LONG_TOKEN}}}}}",
        *("upstreams:", *blocks, "models:", *models),
    ]
    return "\n".join(lines)


def command(*arguments: object) -> str:
    """Return what a command of gatepass prints."""
    line = [sys.executable, "-m", "gatepass", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=READY_S * 2).stdout


@pytest.mark.parametrize("name", ROWS)
def test_reason_of_a_front_reaches_the_client_and_the_operator(name: str, fronts: Fronts):
    row = ROWS[name]
    body = {"model": f"m-{name}", "messages": [{"role": "user", "content": "ping"}]}
    answered = httpx2.post(f"{fronts.url}/v1/chat/completions", json=body, timeout=READY_S)
    told = answered.json()["error"]["message"]
    assert answered.status_code == row.status
    assert not row.detail or row.detail not in told
    shown = command("show", answered.headers["x-request-id"], "--socket", fronts.socket)
    tested = "\n".join(line for line in fronts.doctor.splitlines() if f"upstream:{name} " in line)
    if name == "nginx-small":  # only a request with a body is too large
        tested = command("doctor", f"m-{name}", "--call", "--config", fronts.config)
    for text in (told, shown, tested):
        assert row.told.rstrip(".") in " ".join(text.split())
        assert row.detail in " ".join(text.split()) or text is told
        assert KEY not in text


def test_doctor_reports_a_stream_that_nginx_held_back(fronts: Fronts):
    for name, is_held in (("buffered", True), ("streamed", False)):
        tested = command("doctor", f"m-{name}", "--call", "--config", fronts.config)
        assert re.search(r"stream with m-\w+ \(sent as m\): first event after .* 24 events, complete", tested)
        assert ("came all at once" in tested) is is_held, tested
