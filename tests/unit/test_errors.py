"""The error tree: a changed code breaks clients."""

import ast
import errno
import importlib.metadata
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest

from gatepass import errors

ROOT = Path(__file__).parents[2]


def tree(base=errors.GatepassError):
    for child in base.__subclasses__():
        yield child
        yield from tree(child)


OURS = [kind for kind in tree() if kind.__module__ == errors.__name__]
BRANCHES = (errors.CallerError, errors.GatewayError, errors.UpstreamError)
LEAVES = [kind for kind in OURS if kind not in BRANCHES and not issubclass(kind, errors.CodedError)]


def test_every_leaf_has_a_unique_code_and_an_error_status():
    codes = [kind.code for kind in LEAVES]
    codes += [code for kind in tree(errors.CodedError) for code in kind.statuses]
    assert len(codes) == len(set(codes))
    assert all(400 <= kind.status <= 599 for kind in LEAVES)


def test_an_error_reply_keeps_the_status_and_code_of_the_upstream():
    error = errors.UpstreamErrorReply("no", upstream="chat", status=429, upstream_code="too_many")
    assert (error.public_code, error.http_status) == ("too_many", 429)
    assert errors.UpstreamErrorReply("no", upstream="chat", status=418).public_code == "upstream_error"
    assert errors.UpstreamAuth("no", upstream="chat", status=401, upstream_code="x").public_code == "upstream_auth"


OWN_TEXTS = ("message", "cause", "advice", "why")
SEARCHED = {("error_objects.py", "REPLAYED"), ("upstream_call.py", "error")}
"""What RAGFlow itself searches in a message, so that gatepass sends none with it, and the number of a tool in the
upstream's own words, in whose place a translated request's client gets its own."""


def searched_texts() -> Iterator[tuple[str, str]]:
    """Yield where a text of a GatepassError is searched: by an expression, or for a part of it."""
    for file in (ROOT / "src/gatepass").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            texts: list[ast.AST] = []
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                is_search = node.func.attr in ("search", "match", "fullmatch", "sub", "split", "findall", "finditer")
                is_text = node.func.attr in ("startswith", "endswith", "partition", "replace", "find", "index")
                texts = [*node.args] if is_search else [node.func.value] if is_text else []
            elif isinstance(node, ast.Compare) and any(isinstance(one, ast.In | ast.NotIn) for one in node.ops):
                texts = [*node.comparators]
            for part in (one for text in texts for one in ast.walk(text)):
                if isinstance(part, ast.Attribute) and part.attr in OWN_TEXTS and "body" not in ast.unparse(part.value):
                    yield file.name, ast.unparse(node).partition(".")[0]


def test_no_text_of_gatepass_decides_what_it_says_of_an_error():
    assert set(searched_texts()) == SEARCHED


PATTERN = re.compile(r"(?:[(\[=,:]\s*|return )/(?![/*])((?:\\.|\[[^\]\n]*\]|[^/\\\n])+)/")
SEARCH = re.compile(r"\.(?:includes|startsWith|endsWith|indexOf|split|replace|replaceAll)\(\"([^\"]*)")


def test_no_pattern_of_the_page_reads_a_sentence():
    """Texts come in both languages, so nothing has to recognise one."""
    for file in (ROOT / "src/gatepass/server/ui/static").glob("*.js"):
        searched = [*PATTERN.findall(file.read_text()), *SEARCH.findall(file.read_text())]
        assert [one for one in searched if re.search(r"[A-Za-z]{2} [A-Za-z(]{2}", one)] == [], file.name


def test_the_texts_of_errors_are_read_at_the_first_error_and_exist_without_docstrings():
    program = """
import gatepass.cli, gatepass.server.app, gatepass.errors as errors
from gatepass.observability.story import advice_of, names_of
assert not errors.explanations.cache_info().currsize
print(advice_of("upstream_dns", "upstream:chat", "", "", names_of("upstream:chat", "", ""))["action"])
"""
    ran = subprocess.run([sys.executable, "-OO", "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("Correct `upstreams.chat.base_url`, then run")


@pytest.mark.parametrize("address", ["", "https://git.example/gatepass/blob/v1.0/"])
def test_a_page_has_the_address_that_the_installed_package_names(monkeypatch, address):
    package = Message()
    if address:
        package["Project-URL"] = "Repository, https://git.example/gatepass"
        package["Project-URL"] = f"Documentation, {address}docs/index.md"
    monkeypatch.setattr(importlib.metadata, "metadata", lambda _: package)
    assert errors.documentation("docs/mcp.md") == (address and f"{address}docs/mcp.md")
    assert errors.documentation("docs/mcp.md", " See {}.") == (address and f" See {address}docs/mcp.md.")


def test_texts_name_pages_by_their_address():
    """An installed package has no folder docs. The OpenAPI document names the repository's files."""
    found = set()
    for file in (ROOT / "src").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text()))) if "docs/" in file.read_text() else []
        calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "documentation"]
        addressed = [part for call in calls for part in ast.walk(call)]
        documented = [node.value for node in nodes if isinstance(node, ast.Expr)]
        texts = [node for node in nodes if isinstance(node, ast.Constant) and node not in (*addressed, *documented)]
        pages = {page for text in texts for page in re.findall(r"docs/[\w/]+\.md", str(text.value))}
        found |= {(file.name, page) for page in pages}
    assert found == {("errors.py", "docs/index.md")}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 9)"), "connection refused"),
        (OSError("Multiple exceptions: [Errno 111] Connect ('::1', 9), [Errno 111] Connect"), "connection refused"),
        (OSError("Multiple exceptions: [Errno 111] x, [Errno 101] y"), "connection refused, network is unreachable"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "name or service not known"),
        (TimeoutError("timed out"), "no answer in time"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"), "no such file or directory"),
        (OSError("a text of its own"), "a text of its own"),
    ],
)
def test_a_reason_has_no_number_no_class_and_no_address(error, reason):
    assert errors.system_reason(error) == reason


def test_tls_error_is_not_a_system_error():
    error = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)")
    error.reason = "WRONG_VERSION_NUMBER"
    assert errors.system_reason(error) == "wrong version number"
    refused = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED]")
    refused.verify_message = "certificate has expired"
    assert errors.system_reason(refused) == "certificate has expired"
