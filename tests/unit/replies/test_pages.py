"""What the pages of servers between gatepass and a model say: to a client, and to an operator."""

import json

import pytest

from gatepass.dialects.hints import says_no_path
from gatepass.dialects.reply_check import ReceivedReply, classify_document, classify_error
from gatepass.errors import UpstreamHtml
from gatepass.observability.redaction import Redactor
from gatepass.protocols.chat import CHAT
from gatepass.protocols.messages import MESSAGES
from gatepass.proxy.upstream_call import keep_original
from gatepass.replies.content import READ_CHARS, READ_TAGS, WHOLE_BYTES, WORDS_CHARS, read_page
from gatepass.replies.error_body import before_trace, read_error_body
from gatepass.sse.chunk import upstream_error_event

HTML = ((b"content-type", b"text/html"),)
NGINX = (
    "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n{1}"
    "<hr><center>nginx/1.22.1</center>\r\n</body>\r\n</html>\r\n<!-- a padding to disable MSIE -->\r\n"
)
HAPROXY = "<html><body><h1>{}</h1>\n{}\n</body></html>\n"
APACHE = (
    '<!DOCTYPE HTML PUBLIC "-//IETF//DTD HTML 2.0//EN">\n<html><head>\n<title>{}</title>\n</head><body>\n<h1>{}</h1>\n'
    "<p>{}</p>\n<hr>\n<address>Apache/2.4.71 (Debian) Server at localhost Port 8080</address>\n</body></html>\n"
)
SQUID = (
    '<html><head>\n<meta type="copyright" content="a">\n<title>ERROR: The requested URL could not be retrieved</title>'
    '\n<style type="text/css"><!--\nbody {{}}\n--></style>\n</head><body id=ERR>\n<div id="titles">\n<h1>ERROR</h1>\n'
    "<h2>The requested URL could not be retrieved</h2>\n</div>\n<hr>\n<blockquote><p><b>{}</b></p></blockquote>\n"
    "<p>The system returned: <i>(111) Connection refused</i></p>"
)
TOMCAT = (
    '<!doctype html><html lang="en"><head><title>HTTP Status {0}</title><style type="text/css">h1 {{}}</style></head>'
    '<body><h1>HTTP Status {0}</h1><hr class="line" /><p><b>Type</b> Status Report</p><p><b>Message</b> {1}</p>'
    '<hr class="line" /><h3>Apache Tomcat/10.1.34</h3></body></html>'
)


def error_of(status, page, mask=str, headers=HTML):
    body = page if isinstance(page, bytes) else page.encode()
    return classify_error(ReceivedReply("chat", status, headers, body, mask=mask))


def text_of(page, mask=str, headers=HTML):
    return read_page(headers, page if isinstance(page, bytes) else page.encode(), mask).text


@pytest.mark.parametrize(
    ("status", "page", "words", "shown"),
    [
        (
            503,
            HAPROXY.format("503 Service Unavailable", "No server is available to handle this request."),
            "No server",
            "",
        ),
        (
            403,
            HAPROXY.format("403 Forbidden", "Request forbidden by administrative rules."),
            "Request forbidden by",
            "",
        ),
        (504, HAPROXY.format("504 Gateway Time-out", "The server didn't respond in time."), "The server didn't", ""),
        (
            502,
            APACHE.format(
                "502 Proxy Error", "Proxy Error", "The proxy server could not<br />\nReason: <b>Error reading</b>"
            ),
            "The proxy server could not. Reason: Error reading.",
            "",
        ),
        (
            400,
            APACHE.format("400 Bad Request", "Bad Request", "Size of a request header field exceeds server limit."),
            "Size of a request header field exceeds server limit.",
            "",
        ),
        (502, NGINX.format("502 Bad Gateway", ""), None, ""),
        (413, NGINX.format("413 Request Entity Too Large", ""), None, ""),
        (503, SQUID.format("Connection to 10.1.2.3 failed."), None, "Connection to 10.1.2.3 failed."),
        (
            403,
            "<title>Request Rejected</title><body>The requested URL was rejected.<br>ID 18446744073709",
            None,
            "The requested URL was rejected.",
        ),
        (
            404,
            TOMCAT.format("404 – Not Found", "[/v1/x] is not available"),
            "Type Status Report. Message [/v1/x] is",
            "",
        ),
        (
            502,
            "<title>502 - Web server received an invalid response.</title><h3>There is a problem with the page.</h3>",
            None,
            "There is a problem with the page.",
        ),
        (
            404,
            "<html><title>Error</title><h1>Error</h1><p>no Route matched with those values</p>",
            "no Route matched",
            "",
        ),
        (
            502,
            "<title>llm.corp.example | 502: Bad gateway</title><h1>Bad gateway</h1><p>The host is down",
            "The host is",
            "",
        ),
        (503, "<title>503 错误</title><p>模型正在维护，请稍后再试", "模型正在维护，请稍后再试。", ""),
        (
            500,
            "<h1>Oops!</h1><p>The quota service is away &amp; nobody knows &lt;why&gt;",
            "away & nobody knows why",
            "",
        ),
        # written after the code
        (
            503,
            "<title>Service Temporarily Unavailable</title><td>Kong<tr><td>failure to get a peer from the balancer",
            "It says: failure to get a peer from the balancer.",
            "",
        ),
        (
            504,
            "<TITLE>Error: 504</TITLE><H2>Envoy</H2><ul><li>stream timeout<li>at llm-blue</ul>",
            "stream timeout.",
            "",
        ),
        (
            403,
            "<title>403 - 错误</title><div>您的部门没有使用权限。工单 20261130429",
            "没有使用权限。工单 …",
            "20261130429",
        ),
        (502, "<b>Http/1.1 502</b><p>see <a>https://status.example/i?id=99</a>", "see https://status.example/i.", ""),
    ],
)
def test_reason_of_a_page_is_told_if_its_title_gives_none(status, page, words, shown):
    error = error_of(status, page)
    assert (words in error.message) if words else ("It says" not in error.message)
    assert shown in error.detail
    assert "It says" not in error.error_body.message


def test_page_with_a_form_tells_its_title_alone_and_an_operator_reads_its_text():
    page = "<title>503 Error</title><p>Hello, alice</p><form><p>Password</p></form>"
    error = error_of(503, page)
    assert "alice" not in error.message
    assert error.whole_cause.endswith("The page says: Hello, alice.")
    bare = error_of(503, "<title>503 Error</title><p>Hello, alice</p><INPUT name=q>")
    assert "alice" not in bare.message


def test_status_200_with_a_page_tells_its_reason_too():
    found = classify_document(ReceivedReply("chat", 200, HTML, b"<h1>Blocked</h1><p>Category: generative AI"), CHAT)
    assert isinstance(found, UpstreamHtml)
    assert found.message.startswith(
        'The upstream "chat" answered 200 OK with an HTML page instead of JSON, probably a login page or a portal.'
        " It says: Blocked. Category: generative AI."
    )


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("Q<!-- b -->C", "QC."),
        ("Q R<!-- b <p> -- > x", "Q."),
        ("Q<!-->B", "QB."),
        ("Q<script>if (x<b) '</p>'</script>B<SCRIPT src=x></SCRIPT >C", "QBC."),
        ("Q<script>b", "Q."),
        ("Q<style>b</style>C<style>d", "QC."),
        ("Q<noscript><p>b</p></noscript>C", "QC."),
        ("Q<template><template>b</template>c</template>D", "QD."),
        ("Q<template>b", "Q."),
        ("<head>a<title>b</title><meta content='c'></head>D", "D."),
        ("<head><title>t</title><body>D", "D."),
        ("<head><title>t</title><h1>D", "D."),
        ("Q<form>b<p>c</p></form>D", "QD."),
        ("Q<form>b", "Q."),
        ("Q<div hidden>b<div>c</div>d</div>E", "QE."),
        ("Q<p class='hidden'>B</p>", "Q.\nB."),
        ("Q<p style='color: red; display: none'>b</p>C", "QC."),
        ("Q<input hidden>B", "Q.\nB."),
        ('Q<img alt="b > c">D', "Q.\nD."),
        ('Q R<p title="b', "Q."),
        ("Q < b and c > d", "Q b and c d."),
        ("Q</p >B</>C", "Q.\nBC."),
        ("&lt;b&gt;Q&lt;/b&gt; &amp;lt; &#x1b;[31m&#8238;c", "bQ/b &lt; [31mc."),
        ("see https://a.example/x?token=b#c and /v1/chat;s=d?e=f", "see https://a.example/x and /v1/chat."),
        ("why? Nobody#1 knows", "why? Nobody#1 knows."),
        ("<?xml version='1.0'?><!DOCTYPE html><![CDATA[x]]>Q", "Q."),
        ("Q<svg><title>b</title><text>c</text></svg>D", "QD."),
        ("Q<textarea>b</p></textarea>C", "QC."),
    ],
)
def test_visible_text_of_a_page(page, text):
    assert text_of(page) == text


@pytest.mark.parametrize(
    ("body", "headers", "text"),
    [
        ("<p>模型不可用".encode("gbk"), ((b"content-type", b"text/html; charset=GBK"),), "模型不可用。"),
        ("<meta charset=gb2312><p>模型不可用".encode("gbk"), HTML, "模型不可用。"),
        ("<p>Überlastet".encode("latin-1"), ((b"content-type", b'text/html; charset="ISO-8859-1"'),), "Überlastet."),
        ("<p>满了".encode("utf-16"), HTML, "满了。"),
        ("<p>満杯".encode("shift_jis"), ((b"content-type", b"text/html;charset=Shift_JIS"),), "満杯。"),
        ("<p>été".encode(), ((b"content-type", b"text/html; charset=iso-8859-1"),), "été."),
        ("<p>été".encode(), ((b"content-type", b"text/html; charset=punycode"),), "été."),
    ],
)
def test_page_is_read_in_its_charset(body, headers, text):
    assert text_of(body, headers=headers) == text


@pytest.mark.parametrize(
    "page",
    [
        "<p>Try again in 429 s",
        "<p>Wait 4<b>2</b>9",
        "<p>Wait 4<!-- -->29",
        "<p>Wait 42&lt;9",
        "<p>Wait 42&#1;9",
        "<p>Wait 4&#50;9",
        "<p>Wait 4<i></i>2<script>x</script>9",
        "<p>Wait 4&shy;2&#8203;9",
        "<p>Wait 4&zwnj;2\u20639",
    ],
)
def test_client_gets_two_digits_in_a_row_at_most(page):
    told = error_of(503, page).message.partition("It says: ")[2]
    assert "…" in told
    assert "429" not in told


@pytest.mark.parametrize(
    "page",
    [
        "<p>" + "x " * 90 + "token s3cret-token-abcdef",
        "<p>s3cret&#45;token-abcdef",
        "<p>s3cret-<b>token</b>-abcdef",
        "<p>s3cret<!-- -->-token-abcdef",
        "<p>s3cret&lt;-token-abcdef",
        "<p>" + "x" * (READ_CHARS - 10) + " s3cret-token-abcdef",
        "<p>" + "x " * (READ_CHARS // 2 - 4) + "s3cret-token-abcdef",
        "<p>s3cret&shy;-token-abcdef",
        "<p>s3cret&#8203;-token\u2060-abcdef",
        "<table><tr><td>s3cret-<td>token-abcdef",
        "<p>s3cret-<br>\n   token-abcdef</p>",
        "<p>" + "<i></i>x" * (READ_TAGS // 2 - 1) + " s3cret-<b>token</b>-abcdef",
        "<p>x s3cret<b title=",
        ("<style>" + "x" * WHOLE_BYTES)[: WHOLE_BYTES - 25] + "</style><p>s3cret-tok" + "en-abcdef",
    ],
)
def test_secret_in_a_page_is_masked_before_it_is_cut(page):
    redactor = Redactor()
    redactor.learn("s3cret-token-abcdef")
    error = error_of(503, page, redactor.mask)
    assert not any(part in error.whole_cause for part in ("s3cret", "token-abcdef"))
    assert len(error.message.partition("It says: ")[2]) <= WORDS_CHARS


def test_nothing_is_decided_by_the_text_of_a_page():
    page = "<h1>503 Service Unavailable</h1><p>{}".format
    plain = error_of(404, page("All is well"))
    for text in ("Invalid URL (POST /v1/responses)", "The token has expired", "model not found", "Retry after 90 s"):
        error = error_of(404, page(text))
        assert text in error.message
        assert not says_no_path(error.error_body, 404)
        decided = ("advice", "case", "setting", "retry_after_s", "http_status", "public_code", "retryable")
        assert [getattr(error, name) for name in decided] == [getattr(plain, name) for name in decided]
        assert error.error_body == plain.error_body


def test_page_decides_nothing_of_the_advice_about_a_context():
    page = "<h1>500 Error</h1><p>maximum context length is 90 tokens; your prompt contains 80 tokens; max_tokens 20"
    error = error_of(500, page)
    keep_original(error, b"", MESSAGES, str)
    assert error.cause.endswith("max_tokens 20.")


# --- stack traces -------------------------------------------------------------------------------

TRACES = {
    "node": (
        "Error: boom\n    at f (/usr/lib/node_modules/ccr/cli.js:12:3)\n    at async g (/x.mjs:1:2)",
        "Error: boom",
    ),
    "node without a name": ("TypeError: x is undefined\n    at file:///srv/a.mjs:1:2", "TypeError: x is undefined"),
    "node in one line": ("Error: boom at Object.<anonymous> (/srv/a.ts:3:1) at next (/srv/b.ts:9:2)", "Error: boom"),
    "node's own": ("Error: boom\n    at new Promise (<anonymous>)\n    at node:internal/main/x:1", "Error: boom"),
    "node, uncaught": ("/srv/a.js:1\nthrow new Error('x')\n^\n\nError: x\n    at f (/srv/a.js:1:7)", "Error: x"),
    "python": (
        'Traceback (most recent call last):\n  File "/srv/a.py", line 1, in f\n    g()\nValueError: boom',
        "ValueError: boom",
    ),
    "python after a text": (
        'Worker failed\nTraceback (most recent call last):\n  File "/a.py", line 1\nKeyError: 1',
        "Worker failed",
    ),
    "python in one line": (
        'Traceback (most recent call last): File "/srv/a.py", line 1, in f KeyError',
        "The upstream sent a stack trace.",
    ),
    "java": (
        "java.lang.IllegalStateException: full\n\tat com.corp.A.b(A.java:12)\nCaused by: x",
        "java.lang.IllegalStateException: full",
    ),
    "java, native": (
        "java.net.ConnectException: no\n\tat java.base/sun.nio.ch.Net.pollConnect(Native Method)",
        "java.net.ConnectException: no",
    ),
    "tomcat": ("java.lang.RuntimeException: no\n\tcom.corp.A.b(A.java:12)", "java.lang.RuntimeException: no"),
    "go": ("panic: boom\n\ngoroutine 1 [running]:\nmain.main()\n\t/app/main.go:12 +0x1d", "panic: boom"),
    "go, errors": ("boom\nmain.f\n\t/app/main.go:12\nruntime.main", "boom\nmain.f"),
    "c#": ("System.Exception: boom\n   at A.B(String c) in /src/A.cs:line 12", "System.Exception: boom"),
    "ruby": ("boom\n/app/a.rb:12:in `f'", "boom"),
    "php": (
        "Uncaught Exception: boom in /srv/a.php:3\nStack trace:\n#0 /srv/a.php(3): f()",
        "Uncaught Exception: boom",
    ),
    # written after the code
    "python, without its head": (
        'RuntimeError: no memory\n  File "/opt/a.py", line 8, in run\n',
        "RuntimeError: no memory",
    ),
    "rust": (
        "thread 'main' panicked at src/main.rs:4:5:\nno index\nstack backtrace:\n   0: x",
        "thread 'main' panicked\nno index",
    ),
    "rust before 1.73": (
        "thread 'main' panicked at 'no index', src/main.rs:4:5\nstack backtrace:\n",
        "thread 'main' panicked at 'no index'",
    ),
    "node, a promise": (
        "UnhandledPromiseRejection: 401\n    at process.x (node:internal/q:95:5)",
        "UnhandledPromiseRejection: 401",
    ),
    "spring": (
        "a.b.HttpServerErrorException: 502\n\tat a.b.Foo.c(Foo.java:12) ~[x.jar!/:6.1]",
        "a.b.HttpServerErrorException: 502",
    ),
    "go, a server": (
        "http: panic serving 10.0.0.1:5: nil map\ngoroutine 7 [running]:\nx",
        "http: panic serving 10.0.0.1:5: nil map",
    ),
    "windows": ("TypeError [X]: bad\n    at M.f [as g] (C:\\a\\b.js:3:4)", "TypeError [X]: bad"),
    "node, its own file": ("Error: no file\n    at Object.openSync (node:fs:601:3)", "Error: no file"),
    "java in one line": ("a.B: full at com.corp.A.b(A.java:12) at com.corp.C.d(C.java:3)", "a.B: full"),
    "c#, without files": ("System.Exception: boom\n   at System.Text.Reader.Read()\n", "System.Exception: boom"),
    "lua": ("no route\nstack traceback:\n\t/srv/x.lua:3: in main", "no route"),
    "c#, nested": (
        "A.E: One. ---> B.F: broken\r\n   at C.D(Byte[] b) in C:\\s\\P.cs:line 7\r\n",
        "A.E: One. ---> B.F: broken",
    ),
}
NO_TRACES = (
    "No connection at http://llm.corp.example:8000/v1",
    "Unexpected token at position 3 (line:12)",
    "main.go:12: bad value",
    "The file config.py is missing",
    "look at example.com:443 (proxy)",
    "at most 4 images",
    # places in schemas, templates and what a client sent
    "Unknown name \"x\" at 'generation_config' (Unknown): Cannot find field.",
    "Schema error at $.tools[0] (Unknown keyword 'foo')",
    "Unexpected token at position 5 (<anonymous>)",
    "The chat template failed at chat_template.py:41: System role not supported",
    "Syntax error in your code: at main.py:10 unexpected indent; max_tokens must be at least 16",
    'File "input.json", line 3: expected a comma',
    'File "prompt.jinja", line 12: undefined variable',
    "/v1/files/report.py:1 not found",
    "#1 item(3) of messages is invalid",
    "Stack trace: disabled. Ask the owner.",
    "A stacktrace: too long for this model",
    "goroutine 5 [running] is no role",
    "error in template.rb:12:in loop",
    "x(Main.java:3) is no valid id",
    "Traceback (most recent call last) is not allowed in the role tool",
    "Bad request\n  at least one message (any role)",
    "Bad request\nat messages[0].content[1](text)",
)


@pytest.mark.parametrize(("text", "reason"), TRACES.values(), ids=TRACES)
def test_reason_of_a_stack_trace(text, reason):
    assert before_trace(text) == reason


@pytest.mark.parametrize("text", NO_TRACES)
def test_text_without_a_stack_trace_stays(text):
    assert before_trace(text) == text


@pytest.mark.parametrize("frame", ["Error: boom\n    at f (/srv/a.js:1:2)", "a.B: boom\n\tat com.srv.A.b(A.java:3)"])
@pytest.mark.parametrize("place", ["message", "stack"])
def test_stack_trace_is_not_relayed_with_the_bytes_of_an_error(place, frame):
    inner = {"type": "api_error", "message": "boom", place: frame}
    for members, is_relayed in ((inner, False), ({"type": "api_error", "message": "boom"}, True)):
        body = json.dumps({"type": "error", "error": members}).encode()
        error = error_of(500, body, headers=((b"content-type", b"application/json"),))
        keep_original(error, body, MESSAGES, str)
        assert bool(error.original) is is_relayed
        assert "srv" not in error.message
    assert error.detail == ""


def test_operator_reads_a_whole_stack_trace_of_a_text():
    frames = "".join(f'  File "/srv/m{n}.py", line {n}, in f\n' for n in range(90))
    text = f"Traceback (most recent call last):\n{frames}RuntimeError: no worker is left"
    error = error_of(500, text, headers=((b"content-type", b"text/plain"),))
    assert error.message == "RuntimeError: no worker is left"
    assert "/srv/m89.py" in error.whole_cause
    event = read_error_body({"error": {"message": text, "type": "server_error"}})
    assert event is not None
    assert upstream_error_event("chat", event).message == "RuntimeError: no worker is left"


@pytest.mark.parametrize(
    ("status", "body", "is_named"),
    [
        (400, "<title>400 Request Header Or Cookie Too Large</title>", True),
        (431, "", True),
        (494, "{}", True),
        (431, '{"message": "Request Header Fields Too Large"}', True),
        (400, '{"error": "Header too long: max 8192"}', True),
        (400, '{"message": "Got more than 8190 bytes (9000) when reading Header value is too long"}', True),
        (413, '{"detail": "The size of the request headers exceeds 8 KiB"}', True),
        (400, "Limit request headers fields size", True),
        (400, '{"message": "请求头过大"}', True),
        (400, '{"message": "The prompt is too large"}', False),
        (413, '{"message": "Request Entity Too Large"}', False),
        (500, '{"message": "Request header too large"}', False),
    ],
)
def test_header_that_is_too_large_is_named_with_its_size(status, body, is_named):
    headers = HTML if body.startswith("<") else ()
    for setting, action in (("credentials.llm", "Request a smaller token"), ("upstreams.chat.headers", "Check")):
        error = classify_error(ReceivedReply("chat", status, headers, body.encode(), largest=(setting, 9000)))
        assert (f"gatepass sends 9 KiB for `{setting}`. {action}" in error.message) is is_named
