"""docs/reference/http.md: each operation, page and header has its row, and headers pass as it states."""

import re
from pathlib import Path

from docs.entries import DOCS
from docs.http_reference import TEXTS

from gatepass.auth.cors import EXPOSED
from gatepass.config.access import hash_key
from gatepass.dialects.base import PARAMETERS
from gatepass.errors import GatepassError, InvalidApiKey, MethodNotAllowed, TokenUnavailable
from gatepass.protocols.error_objects import error_headers
from gatepass.protocols.operations import OPERATIONS
from gatepass.proxy.client_response import STREAM_HEADERS
from gatepass.server.admin import ROUTES
from gatepass.server.pages import PATHS
from tests.integration.gateway import relaying
from tests.integration.scripted import Send, reply

KEY = "gp-0123456789abcdef0123456789abcdef"
ACCESS = {"keys": [{"name": "ragflow", "role": "admin", "hash": hash_key(KEY)}]}
SOURCES = Path(__file__).parents[2] / "src/gatepass"
PAGE = (DOCS / "reference/http.md").read_text()


async def test_the_example_of_the_page_and_each_page_need_the_key_that_they_name() -> None:
    (command,) = re.findall(r"^```sh\n(.*?)\n```", PAGE, re.MULTILINE | re.DOTALL)
    body = re.findall(r"-d '(.*)'", command)[0].encode()
    whole = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]}
    keyed = {"authorization": f"Bearer {KEY}", "content-type": "application/json", "accept": "text/html"}
    bare = {name: value for name, value in keyed.items() if name != "authorization"}
    async with relaying([Send(reply(whole))], access=ACCESS) as (_, served):
        answer = await served.ask(body, "/v1/chat/completions", headers=keyed).answer()
        assert (answer.status, answer.json()["choices"][0]["message"]["content"]) == (200, "Hi")
        for path, texts in TEXTS["pages"].items():
            assert (await served.ask(None, path, method="GET", headers=keyed).answer()).status == 200, path
            without = await served.ask(None, path, method="GET", headers=bare).answer()
            assert without.status == (200 if texts["key"].startswith("none") else 401), path


def test_every_header_that_gatepass_adds_has_its_entry() -> None:
    code = "".join(file.read_text() for file in SOURCES.rglob("*.py"))
    own = set(re.findall(r'b"(x-gatepass-[a-z]+)"', code)) | set(EXPOSED.decode().split(", ")) - {"retry-after-ms"}
    errors: list[GatepassError] = [InvalidApiKey(""), MethodNotAllowed("", allow="GET")]
    errors.append(TokenUnavailable("", credential="corp", retry_after_s=300))
    own |= {name.decode() for error in errors for name, _ in error_headers(error)}
    own |= {name.decode() for name, _ in STREAM_HEADERS}
    assert own - set(TEXTS["added"]) == {"content-type"}
    assert TEXTS["added"]["access-control-expose-headers"]["example"].endswith(f": {EXPOSED.decode()}")


def test_every_parameter_of_a_query_is_on_the_page_and_every_text_has_its_path() -> None:
    assert [name for name in PARAMETERS if b"%" not in name and f"`{name.decode()}`" not in PAGE] == []
    assert set(TEXTS["operations"]) <= {row.path for row in OPERATIONS}
    assert set(TEXTS["pages"]) == {*PATHS}
    assert set(TEXTS["admin"]) == {f"{route.method} {route.path}" for route in ROUTES}
