"""The built site in a real Chromium: search, each page on a screen and on a phone, and each link.

`make site-check` runs this file in an environment of its own. SITE is the folder of the site, CHROMIUM the browser.
"""

import os
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from playwright.sync_api import Browser, Page, expect

SITE = Path(os.environ["SITE"])
SCREEN = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
WAIT_MS = 20_000

LOG_LINES = [
    "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate (_ssl.c:1)",
    "TypeError: 'NoneType' object is not iterable",
    "openai.AuthenticationError: Error code: 401",
    "httpx.RemoteProtocolError: peer closed connection without sending complete message body",
    "openai.APIConnectionError: Connection error.",
    "no token for credential llm: the issuer refused the client: 127.0.0.1:19801 answered 401: invalid_client",
    'llm.corp.example answered 200 OK with an HTML page titled "Sign in to Corp SSO" instead of JSON.',
    (
        "No secure connection to llm.corp.example (its certificate is signed by a CA that this machine does not trust)."
        " Set upstreams.llm.network.ca_file to a PEM file with the certificate of that CA."
    ),
]
PAGES = {
    "Token recipes": "/tokens/",
    "Create, rotate and revoke API keys": "/operations/keys/",
    "x-gatepass-hop": "/reference/http/",
    "x-gatepass-adapted": "/reference/http/",
    "air-gapped": "/getting_started/",
}
"""The first page for a title, a header, or words of one section."""
README = (Path(__file__).parents[2] / "README.md").read_text().partition("| you see |")[2].partition("<!-- end")[0]
TEXTS_OF_THE_TABLE = [
    text
    for cell in re.findall(r"^\| (.+?) \| [^|]+ \|$", README, re.MULTILINE)
    for text in re.findall(r"`([^`]+)`", cell)
    if "…" not in text
]

CHINESE = ["证书", "令牌 过期", "报错", "报错: 没有权限", "连接被拒绝", "回复忽略了图片", "模型列表为空"]
ROWS = {
    "证书": "证书错误",
    "令牌 过期": "令牌过期或无效",
    "CERTIFICATE_VERIFY_FAILED": "CERTIFICATE_VERIFY_FAILED",
    "AsyncCompletions.create() got an unexpected keyword argument 'images'": "AsyncCompletions.create()",
    "**ERROR**: SERVER_ERROR - Error code: 503 - {'error': {'message': 'no token for credential token: the issuer"
    " refused the client: sso.corp.example answered 401: invalid_client', 'code': 'token_unavailable'}}": (
        "the issuer refused the client"
    ),
    "Fail to bind embedding model: Error code: 404 - {'error': {'code': 'model_not_found'}}": "MODEL_NOT_FOUND",
    "Fail to bind embedding model: Error code: 400 - {'error': {'message': 'batch size is invalid, it should not be"
    " larger than 10.', 'code': 'InvalidParameter'}}": "batch size is invalid",
    "Fail to access model(gpt-4o).**ERROR**: AUTH_ERROR - Error code: 401 - {'detail': 'Token has expired'}": (
        "Token has expired"
    ),
    "Fail to access model(gpt-4o).**ERROR**: SERVER_ERROR - Error code: 503 - {'error': {'message': 'no token for"
    " credential llm: sso.corp.example answered 503: upstream connect error; next attempt in 3 s', 'code':"
    " 'token_unavailable', 'hop': 'credential:llm'}}": "answered 503",
    "Fail to access model(gpt-9).**ERROR**: MODEL_ERROR - Error code: 404 - {'error': {'message': \"The model 'gpt-9'"
    " is not configured. Configured: gpt-4o.\", 'code': 'model_not_found', 'hop': 'client'}}": "Configured:",
    "Fail to access model(gpt-4o).": "Fail to access model",
    "stream ended before [DONE] or finish_reason": "invalid SSE event",
    "No operation has the path /v1/chat/completions/chat/completions": "unknown_path",
    "**ERROR**: CONTENT_FILTERED - 'NoneType' object has no attribute 'content'": "has no attribute 'content'",
    "429 Rate limit reached": "Rate limit reached",
    "**ERROR**: GENERIC_ERROR - The answer ends here: upstream_error.": "The answer ends here",
    "llm.corp.example sent no reply within 600 s (models.m.timeouts.first_byte_s).": "upstream_timeout_first_byte",
    "The proxy in front of llm.corp.example refuses (403 Forbidden).": "The proxy in front of",
    "**ERROR**: AUTH_ERROR - Error code: 401 - {'error': {'message': \"The API key is not known to gatepass. Check the"
    " client's API key setting.\", 'code': 'invalid_api_key'}}": "The API key is not known to gatepass",
    "图片": "图片",
    "504 timeout": "30 s",
    'The upstream "corp" (llm) answered 504 Gateway Timeout with an HTML page titled "504 Gateway Time-out".': "60 s",
    "404 Client Error: Not Found for url: http://gatepass:8080/rerank": "404 Client Error: Not Found for url",
    "API Error: 400 Not Found. The upstream has no such path: it does not support this operation": "Claude Code",
    "**ERROR**: SERVER_ERROR - Error code: 503 - {'error': {'message': 'The limit of 4000 requests in flight is reached"
    " (limits.connections).', 'code': 'overloaded', 'hop': 'gatepass'}}": "overloaded",
    "openai.NotFoundError: Error code: 404": "Error code: 404",
    "Error code: 400 - {'error': {'message': 'You have to provide messages.', 'type': 'invalid_request_error',"
    " 'param': None, 'code': '102', 'hop': 'upstream:rag', 'request_id': 'k1'}}": '"hop":"upstream:',
    "{'error': {'message': 'LLM(a) not found in Tongyi', 'code': '102', 'hop': 'upstream:rag'}}": "LLM(…) not found in",
    "Failed to resolve 'gatepass' ([Errno -2] Name or service not known)": "Failed to resolve",
    "gatepass cannot listen on gw.corp:8080: Name or service not known": "cannot listen on",
    "网关 超时": "网关超时",
    "**ERROR**: INVALID_REQUEST - Error code: 502 - {'error': {'message': 'The name llm.corp.invalid cannot be resolved"
    " (name or service not known). Check the host in upstreams.dns.base_url, the DNS of the machine that gatepass runs"
    " on, and whether this network needs network.proxy.', 'code': 'upstream_dns'}}": "upstream_dns",
    "The upstream sent an event that is larger than 1 MiB, which applies because the profile of the client splits"
    " long lines, or that has too many lines, values or escapes.": "an event that is larger than",
    "No connection to the proxy p.corp:3128 (connection refused). Check the host and port in network.proxy, and whether"
    " the proxy is up.": "No connection to the proxy",
    "No models found for provider 'OpenAI-API-Compatible'": "No models found for provider",
    '**ERROR**: can only concatenate str (not "NoneType") to str': "can only concatenate str",
    "**ERROR**: INVALID_REQUEST - Error code: 400 - {'error': {'message': \"This model's maximum context length is 8192"
    " tokens. However, you requested 9000 tokens.\", 'code': 'context_length_exceeded'}}": "context_length_exceeded",
    "The caller 'noembed' may not use POST embeddings, because its key does not list it.": "operation_not_allowed",
    "令牌已过期": "upstream_auth",
    "当前分组 default 下对于模型 gpt-4o 无可用渠道": "无可用渠道",
    "**ERROR**: SERVER_ERROR - Error code: 500 - {'error': {'message': 'CUDA out of memory. Tried to allocate 2.00',"
    " 'type': 'server_error', 'code': 'upstream_error', 'hop': 'upstream:llm'}}": "500 upstream_error",
    "FAIL upstream:llm models: the list has no model gpt-9; there is gpt-4o. Correct the name": "the list has no model",
    "**ERROR**: CONNECTION_ERROR - [Errno -2] Name or service not known": "RAGFlow",
    '{"code":102,"message":"Please provide an assistant"}': "Please provide an assistant",
    "Error code: 400 - {'error': {'message': 'stream does not support true with this model', 'code': 'upstream_error',"
    " 'hop': 'upstream:llm'}}": "stream does not support true",
    "请求错误 504: http://ragflow.corp/v1/llm/add_llm 网关超时。": "请求错误 504",
    "Fail to access model(OpenAI-API-Compatible/gpt-4o).No valid response received": "No valid response received",
    "提示 : 102 Timeout accessing model(OpenAI-API-Compatible/gpt-4o).": "Timeout accessing model",
    "Fail to bind embedding model: unsupported operand type(s) for +=: 'int' and 'NoneType'": "unsupported operand",
    "JSONDecodeError('Expecting value: line 1 column 1 (char 0)')": "Expecting value",
    "Embedding failure. The dimension (768) of given embedding model is different from the original (1024)": (
        "unexpected embedding dimensions"
    ),
    "**ERROR**: failed to scan response body: upstream stream error: map[code:upstream_closed hop:upstream:chat"
    " message:llm.corp.example closed the connection before its reply was complete]": ("upstream stream error"),
    'model verification attempts failed: API request failed with status 503: {"error":{"message":"no token for'
    ' credential llm: the issuer refused the client: sso.corp.example answered 401: invalid_client"}}': (
        "the issuer refused the client"
    ),
    "RAGFlow before v0.25.6 has other paths: set `upstreams.ragflow.ragflow: {paths: old}`.": "has other paths",
}
"""A search, and a text of the row that the page of symptoms then shows."""

TARGETS = """() => ({
  ids: [...document.querySelectorAll("[id]")].map((element) => element.id),
  links: [...document.querySelectorAll("a[href], link[href], img[src]")].map(({ href, src }) => href || src),
  language: document.documentElement.lang,
  switches: Object.fromEntries([...document.querySelectorAll("h1 + p a")].map(
    (link) => [link.previousSibling?.textContent.trim().replace(/[:：]$/, "") ?? "", link.href])),
})"""
# The theme scrolls a wide page inside .content, so that the document stays as wide as the screen.
WIDE = """() => [...document.querySelectorAll("html, .content, .table-wrapper")]
  .filter((element) => element.scrollWidth > element.clientWidth)
  .map(({ localName, className, scrollWidth }) => `<${localName} class="${className}"> of ${scrollWidth} px`)"""


FOUND = """async ([texts, symptoms]) => {
  const html = await (await fetch(symptoms)).text();
  const rows = rowsOf(new DOMParser().parseFromString(html, "text/html"));
  return Object.fromEntries(texts.map((text) => {
    const [query, terms, ...others] = Search._parseQuery(text);
    const [page, , anchor] = Search._performSearch(query, terms, ...others).at(-1) ?? ["", "", ""];
    const excerpt = Search.makeSearchSummary(html, terms, anchor)?.textContent ?? "";
    const row = findRow(rows, localStorage.getItem("sphinx_highlight_terms").split(" ").filter(Boolean));
    return [text, [`/${page}/`, excerpt, row?.cells[0].textContent ?? ""]];
  }));
}"""


class Files(SimpleHTTPRequestHandler):
    """The files of the site, without a log."""

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@dataclass(frozen=True)
class Visit:
    """What the browser found on one page.

    `switches` are the links below its title by the words before each. `wide` is what scrolls sideways on a phone: the
    page or a table.
    """

    faults: list[str]
    ids: list[str]
    links: list[str]
    language: str
    switches: dict[str, str]
    wide: list[str]


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=SITE)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def faults() -> list[str]:
    """The faults of the page since the last `clear`, in order."""
    return []


@pytest.fixture(scope="module")
def page(browser: Browser, origin: str, faults: list[str]) -> Page:
    expect.set_options(timeout=WAIT_MS)
    page = browser.new_page(viewport=SCREEN)
    page.set_default_timeout(WAIT_MS)

    def check_response(response):
        if response.status >= 400:
            faults.append(f"{response.status}: {response.url}")

    def check_request(request):
        if not request.url.startswith((f"{origin}/", "data:")):
            faults.append(f"not of the site: {request.url}")

    def check_failure(request):
        if request.failure != "net::ERR_ABORTED":  # the next page ends the requests of this one
            faults.append(f"{request.failure}: {request.url}")

    def check_message(message):
        if message.type in {"error", "warning"}:
            faults.append(f"console: {message.text}")

    page.on("console", check_message)
    page.on("pageerror", lambda error: faults.append(f"exception: {error}"))
    page.on("request", check_request)
    page.on("requestfailed", check_failure)
    page.on("response", check_response)
    return page


@pytest.fixture(scope="module")
def visits(page: Page, origin: str, faults: list[str]) -> dict[str, Visit]:
    """Each page of the site by its URL."""
    found = {}
    for file in sorted(SITE.rglob("*.html")):
        url = f"{origin}/{file.relative_to(SITE)}".removesuffix("index.html")
        faults.clear()
        page.set_viewport_size(SCREEN)
        page.goto(url)
        targets = page.evaluate(TARGETS)
        page.set_viewport_size(PHONE)
        wide = page.evaluate(WIDE)
        found[url] = Visit([*faults], **targets, wide=wide)
    return found


@dataclass(frozen=True)
class Found:
    """The first result of a search, and the row of the page of symptoms that the reader then sees."""

    path: str
    excerpt: str
    row: str


def search(page: Page, origin: str, text: str, begin: str = "") -> str:
    """Type the text into the search box of the page `begin`, and return the path of the first result."""
    page.set_viewport_size(SCREEN)
    page.goto(f"{origin}/{begin}")
    page.get_by_role("search").get_by_placeholder(re.compile("Search|搜索")).fill(text)
    page.keyboard.press("Enter")
    expect(page.locator(".search-summary")).to_contain_text(
        re.compile("Search finished|did not match|搜索完成|没有页面")
    )
    first = page.locator("#search-results li a").first
    return str(first.evaluate("({ pathname }) => pathname")) if first.count() else ""


def found(page: Page, origin: str, texts: Iterable[str], begin: str = "") -> dict[str, Found]:
    """Ask the code of the search page what it shows for each text, after the page `begin`.

    A search in the page itself fetches each result for its excerpt: 80 pages for a frequent word.
    """
    search(page, origin, "basilisk", begin)
    symptoms = f"{origin}/{begin}symptoms/"
    return {text: Found(*one) for text, one in page.evaluate(FOUND, [[*texts], symptoms]).items()}


def test_no_page_has_an_error_or_requests_anything_but_the_site(visits: dict[str, Visit]) -> None:
    assert len(visits) >= 60
    assert {url: visit.faults for url, visit in visits.items() if visit.faults} == {}


def test_no_page_and_no_table_scrolls_sideways_on_a_phone(visits: dict[str, Visit]) -> None:
    assert {url: visit.wide for url, visit in visits.items() if visit.wide} == {}


@pytest.mark.parametrize("width", [1280, 1440, 1920])
@pytest.mark.parametrize("path", ["symptoms/", "zh/symptoms/"])
def test_no_table_of_symptoms_is_wider_than_its_place(page: Page, origin: str, path: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{origin}/{path}")
    assert page.locator(".table-wrapper").count() >= 8
    assert page.evaluate(WIDE) == []


def test_the_target_of_each_link_exists(visits: dict[str, Visit], origin: str) -> None:
    broken = []
    for url, visit in visits.items():
        for link in set(visit.links):
            target, anchor = urldefrag(link)
            if not target.startswith(f"{origin}/"):
                continue
            if target in visits:
                exists = not anchor or unquote(anchor) in visits[target].ids
            else:
                exists = (SITE / unquote(target.removeprefix(f"{origin}/")).partition("?")[0]).is_file()
            if not exists:
                broken.append((url, link))
    assert broken == []


def test_the_navigation_opens_on_a_phone_and_leads_to_a_page(
    page: Page, visits: dict[str, Visit], origin: str, faults: list[str]
) -> None:
    page.set_viewport_size(PHONE)
    for path, name, target in (
        ("", "Symptoms", "symptoms/"),
        ("reference/errors/", "Symptoms", "symptoms/"),
        ("zh/getting_started/", "故障现象", "zh/symptoms/"),
    ):
        faults.clear()
        page.goto(f"{origin}/{path}")
        link = page.locator(".sidebar-tree").get_by_role("link", name=name).first
        expect(link).not_to_be_in_viewport()
        page.locator("header label[for=__navigation]").click()
        expect(link).to_be_in_viewport(ratio=1)
        link.click()
        expect(page).to_have_url(f"{origin}/{target}")
        assert faults == []


def test_the_first_result_is_the_page_of_symptoms(page: Page, origin: str, faults: list[str]) -> None:
    faults.clear()
    texts = [*LOG_LINES, *TEXTS_OF_THE_TABLE]
    assert len(texts) > len(LOG_LINES)
    first = {text: one.path for text, one in found(page, origin, texts).items()}
    assert {text: path for text, path in first.items() if path != "/symptoms/"} == {}
    assert faults == []


def test_the_words_of_a_search_are_marked_on_the_page_that_the_reader_opens(
    page: Page, origin: str, faults: list[str]
) -> None:
    faults.clear()
    search(page, origin, LOG_LINES[0])  # its word "c" is in the titles of icons
    page.locator("#search-results li a").first.click()
    expect(page.locator("span.highlighted", has_text="certificate").first).to_be_visible()
    assert faults == []


def test_a_page_is_found_by_its_title_a_header_or_words_of_a_section(page: Page, origin: str) -> None:
    assert {text: one.path for text, one in found(page, origin, PAGES).items()} == PAGES


def test_chinese_words_lead_to_the_chinese_page_of_symptoms(page: Page, origin: str) -> None:
    first = {
        **{text: one.path for text, one in found(page, origin, CHINESE).items()},
        **{text: one.path for text, one in found(page, origin, LOG_LINES, "zh/").items()},
    }
    assert {text: path for text, path in first.items() if path != "/zh/symptoms/"} == {}


@pytest.mark.parametrize("begin", ["", "zh/"])
def test_each_search_leads_to_the_row_with_its_words(page: Page, origin: str, begin: str) -> None:
    texts = [text for text in ROWS if begin or text.isascii()]
    shown = found(page, origin, texts, begin)
    other = {
        text: one
        for text, one in shown.items()
        if one.path != f"/{begin}symptoms/" or ROWS[text] not in one.row or not one.excerpt.startswith(one.row)
    }
    assert other == {}


@pytest.mark.parametrize(
    ("begin", "text"),
    [
        ("", LOG_LINES[0]),
        ("", "504 timeout"),
        ("zh/ragflow/", "CERTIFICATE_VERIFY_FAILED"),
        ("zh/", "证书"),
        ("", "图片"),
    ],
)
def test_a_reader_follows_a_search_to_the_row(
    page: Page, origin: str, faults: list[str], begin: str, text: str
) -> None:
    faults.clear()
    path = search(page, origin, text, begin)
    excerpt = page.locator("#search-results li").first.locator(".context").text_content()
    page.locator("#search-results li a").first.click()
    row = page.locator("tr.found")
    expect(row).to_be_in_viewport()
    seen = row.locator("td").first.text_content()
    language = "zh/" if begin or not text.isascii() else ""
    assert path == f"/{language}symptoms/"
    assert ROWS.get(text, "certificate") in seen
    assert excerpt.startswith(seen)
    assert faults == []


@pytest.mark.parametrize(
    ("path", "text"), [("symptoms/", "No row has these words."), ("zh/symptoms/", "没有一行包含这些词。")]
)
def test_a_page_of_symptoms_says_that_no_row_has_the_words(page: Page, origin: str, path: str, text: str) -> None:
    page.goto(f"{origin}/")
    page.evaluate("sessionStorage.clear(); localStorage.setItem('sphinx_highlight_terms', 'basilisk cockatrice')")
    page.goto(f"{origin}/{path}")
    expect(page.locator(".no-row")).to_contain_text(text)
    assert page.locator("tr.found").count() == 0


def test_the_words_of_the_theme_and_the_sidebar_are_chinese_beside_a_chinese_page(page: Page, origin: str) -> None:
    page.set_viewport_size(SCREEN)
    page.goto(f"{origin}/zh/ragflow/")
    tree = page.locator(".sidebar-tree")
    expect(tree.locator(".caption-text").first).to_have_text("中文")
    expect(page.locator(".next-page .context")).to_have_text("下一页")
    expect(page.locator(".prev-page .context")).to_have_text("上一页")
    expect(tree).not_to_contain_text("（英文）")
    expect(page.locator(".skip-to-content")).to_have_text("跳到正文")
    expect(page.locator(".left-details")).to_contain_text("网站主题：")
    links = tree.locator("a").evaluate_all("(links) => links.map(({ pathname }) => pathname)")
    twins = {f"/{path.parent.name}/" for path in SITE.glob("zh/*/index.html")}
    assert "/zh/symptoms/" in links
    assert twins & set(links) == set()
    search(page, origin, "令牌 过期", "zh/")
    expect(page.locator(".search-summary")).to_contain_text("搜索完成，找到")
    page.locator("#search-results li a").first.click()
    expect(page.locator("body")).not_to_contain_text("Hide Search Matches")
    search(page, origin, "basilisk", "zh/")
    expect(page.locator(".search-summary")).to_contain_text("没有页面包含这些词")
    search(page, origin, "token")
    expect(page.locator(".search-summary")).to_contain_text("Search finished")


def test_each_page_in_two_languages_has_a_switch_and_names_its_language(visits: dict[str, Visit], origin: str) -> None:
    chinese = [url for url in visits if url.startswith(f"{origin}/zh/")]
    assert len(chinese) >= 20
    for url in chinese:
        english = visits[url].switches["English"]
        assert visits[english].switches["中文"] == url
        assert (visits[url].language, visits[english].language) == ("zh", "en")
