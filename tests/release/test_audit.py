"""pip-audit fails for a vulnerable pin, and a service that does not know one does not count as a scan."""

import json
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from release.audit import NOT_SCANNED, PLANTED, PLANTED_ID, scan
from release.build import ROOT

IN_THE_LOCK = "uvicorn"


def advisory(identifier: str, package: str) -> dict[str, object]:
    """An advisory in the format of OSV (ossf.github.io/osv-schema) about all versions of `package`."""
    affected = {
        "package": {"name": package, "ecosystem": "PyPI"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}],
    }
    return {"id": identifier, "modified": "2014-05-19T00:00:00Z", "summary": "A fault.", "affected": [affected]}


@contextmanager
def service(advisories: Mapping[str, str]) -> Iterator[str]:
    """Serve OSV's query API on loopback; `advisories` has the identifier of one for each vulnerable package."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["package"]["name"]
            found = [advisory(advisories[asked], asked)] if asked in advisories else []
            body = json.dumps({"vulns": found} if found else {}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in http.server
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()
            thread.join()


def audit(url: str) -> tuple[int, str]:
    command = [str(ROOT / ".release/bin/python"), "-m", "release.audit", "--osv-url", url, "runtime"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_locks_without_an_advisory_pass_after_the_planted_pin_failed():
    with service({"jinja2": PLANTED_ID}) as url:
        code, output = audit(url)
    assert (code, output) == (0, f"no advisory about a pin of runtime; found the planted {PLANTED_ID}\n")


def test_a_vulnerable_pin_of_a_lock_fails():
    with service({"jinja2": PLANTED_ID, IN_THE_LOCK: "PYSEC-2026-1"}) as url:
        code, output = audit(url)
    assert code == 1
    assert "PYSEC-2026-1" in output


@pytest.mark.parametrize("known", [{}, {IN_THE_LOCK: "PYSEC-2026-1"}])
def test_a_service_that_does_not_know_the_planted_advisory_is_no_scan(known):
    with service(known) as url:
        code, output = audit(url)
    assert code == NOT_SCANNED
    assert output.startswith(f"not scanned: pip-audit asked {url} about {PLANTED} and did not find {PLANTED_ID}: ")


def test_a_service_that_cannot_be_reached_is_no_scan():
    with service({}) as url:
        pass
    code, output = audit(url)
    assert code == NOT_SCANNED
    assert output.startswith("not scanned: ")


def test_a_missing_pip_audit_is_no_scan(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    verdict = scan(["runtime"])
    assert not verdict.scanned
    assert str(verdict).endswith("pip-audit not found: remove .release, and `make release` installs it again")


def test_the_reason_names_the_service_and_ends_with_a_whole_word(monkeypatch):
    def unreachable(*_: object) -> tuple[int, str]:
        return 1, "Traceback\n" + "ConnectionError: no route to the service " * 9

    monkeypatch.setattr("release.audit._pip_audit", unreachable)
    text = str(scan(["runtime"]))
    assert text.startswith(
        f"not scanned: pip-audit asked PyPI about {PLANTED} and did not find {PLANTED_ID}: Connection"
    )
    assert text.endswith((" to …", " the …", " no …", " route …", " service …", " ConnectionError: …"))


def test_no_lock_has_the_planted_pin():
    name = PLANTED.partition("==")[0]
    texts = [(ROOT / f"requirements/{lock}.txt").read_text() for lock in ("runtime", "extra-valkey")]
    assert not any(f"\n{name}==" in text for text in texts)
