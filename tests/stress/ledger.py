"""Compare the requests and replies of clients with the requests at the upstream, and record violated promises.

The module is pure, so that tests can plant violations. `tests/stress/chaos.py` calls it.
"""

import base64
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import quote

LATE_S = 3.0
"""A token may arrive this long after its end, plus twice the measured delay of the machine."""
WORDS = ("one", "two", "three", "four", "größer", "日本", "tab\t", 'quote"', "data: [DONE]", "\\", "7", "\n")


class Violation(Exception):
    """A broken promise."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """A request: `kind` is plain, stream, vectors or refused (no upstream may receive it)."""

    uid: str
    kind: str


@dataclass(slots=True)
class Response:
    """A response of gatepass. `is_complete`: it ended as its framing declares. `raw`: all received bytes.

    `port`: that of the client's connection.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_complete: bool = False
    raw: bytes = b""
    port: int = 0


@dataclass(slots=True)
class Receipt:
    """One request that the upstream received.

    - `may_repeat`: gatepass may send the request again after this reply
    - `is_stale`: gatepass may send it again once, because a reused connection closed without a byte
    """

    uid: str
    token: str
    reply: str
    may_repeat: bool = False
    is_stale: bool = False


HUGE_BYTES = 4 * 1024 * 1024


def text_of(uid: str) -> str:
    """Return the right reply to the request `uid`. It is long if `uid` ends with L, and has HUGE_BYTES if with H."""
    if uid.endswith("H"):
        return f"{uid}: {'x' * HUGE_BYTES} end"
    random = Random(uid)
    count = 40_000 if uid.endswith("L") else random.randint(1, 40)
    return f"{uid}: " + " ".join(random.choices(WORDS, k=count)) + " end"


def vector_of(uid: str) -> list[float]:
    random = Random(uid)
    return [random.randint(-64, 64) / 8 for _ in range(8)]


def encodings(mark: str) -> tuple[bytes, ...]:
    """Return `mark` unchanged, in base64 at each offset, and percent-encoded: spellings of the list in SECURITY.md."""
    data = mark.encode()
    coded = [base64.b64encode(b"x" * skip + data)[(skip * 4 + 2) // 3 : -4] for skip in range(3)]
    percent = "".join(f"%{byte:02X}" for byte in data).encode()
    return (data, quote(mark).encode(), percent, *coded)


def outcome(expectation: Expectation, response: Response) -> str:
    """Classify a response: answer, the code of an error, error event, or broken. Raise Violation."""
    if response.status == 200 and expectation.kind == "refused":
        raise Violation("a request that must be refused got 200")
    if response.status == 200 and response.headers.get("content-type", "").startswith("text/event-stream"):
        return _stream_outcome(expectation, response)
    if not response.is_complete:
        return "broken"
    if response.status != 200:
        return f"error {_error(response)}"
    if expectation.kind == "stream":
        raise Violation(f"200 to a stream without events: {response.body[:200]!r}")
    try:
        document = json.loads(response.body)
    except ValueError:
        raise Violation(f"200 without JSON: {response.body[:200]!r}") from None
    if not _is_answer(expectation, document):
        raise Violation(f"a 200 that is not the answer: {response.body[:200]!r}")
    return "answer"


def _is_answer(expectation: Expectation, document: Any) -> bool:
    try:
        if "error" in document:
            return False
        if expectation.kind == "vectors":
            [row] = document["data"]
            return bool(row["embedding"] == vector_of(expectation.uid))
        [choice] = document["choices"]
        return bool(choice["message"]["content"] == text_of(expectation.uid) and choice["finish_reason"] == "stop")
    except (KeyError, TypeError, ValueError):
        return False


def _stream_outcome(expectation: Expectation, response: Response) -> str:
    content, text, last = "", text_of(expectation.uid), b""
    is_finished = has_failed = False
    for data in _events(response):
        if last == b"[DONE]" or has_failed:
            raise Violation(f"an event behind the last one: {data[:200]!r}")
        last = data
        if data == b"[DONE]":
            continue
        try:
            event = json.loads(data)
        except ValueError:
            raise Violation(f"an event without JSON: {data[:200]!r}") from None
        if "error" in event:
            _check_error(event["error"])
            has_failed = True
        for choice in event.get("choices") or ():
            content += (choice.get("delta") or {}).get("content") or ""
            is_finished = is_finished or choice.get("finish_reason") == "stop"
    if not text.startswith(content):
        raise Violation(f"a stream that is not the answer: …{content[-100:]!r}")
    if not response.is_complete:
        return "broken"
    if not has_failed and (last != b"[DONE]" or not is_finished or content != text):
        raise Violation(f"a truncated stream that looks complete: …{response.body[-200:]!r}")
    return "error event" if has_failed else "answer"


def _events(response: Response) -> Iterator[bytes]:
    """Yield the data of each complete event."""
    blocks = response.body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n")
    for block in blocks[:-1]:
        if data := b"\n".join(line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:")):
            yield data


def _error(response: Response) -> str:
    try:
        error = json.loads(response.body)["error"]
    except (ValueError, KeyError, TypeError):
        raise Violation(f"status {response.status} without an error object: {response.body[:200]!r}") from None
    return f"{response.status} {_check_error(error)}"


def _check_error(error: Any) -> str:
    if not isinstance(error, dict) or not error.get("message") or not isinstance(error.get("code"), str):
        raise Violation(f"an error without message or code: {str(error)[:200]}")
    if error["code"] == "internal_error":
        raise Violation("internal_error")
    return str(error["code"])


class Ledger:
    """Counts and violations. Clients and servers call it from two threads."""

    def __init__(self, mark: str) -> None:
        self._encodings = encodings(mark)
        self.outcomes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.violations: list[str] = []
        self.kills_s: list[tuple[float, float]] = []
        """When each replica was killed, and when its process was gone: until then its port accepts connections."""
        self.ends: dict[int, str] = {}
        """How the last connection from each port of a client ended at the balancer."""
        self._refused: set[str] = set()
        self._stale: set[str] = set()
        self._receipts: dict[str, Receipt] = {}
        self._ends_s: dict[str, float | None] = {}
        self._late: list[tuple[float, float, str]] = []
        self._delays: list[tuple[float, float]] = []

    def add_violation(self, what: str) -> None:
        self.violations.append(what)

    def expect(self, expectation: Expectation) -> None:
        if expectation.kind == "refused":
            self._refused.add(expectation.uid)

    def record(
        self,
        expectation: Expectation,
        response: Response,
        began_s: float,
        ended_s: float,
        *,
        is_disconnected: bool = False,
    ) -> None:
        """Record the response to a request. `is_disconnected`: the client closed the connection."""
        self.scan(response.raw, f"what {expectation.uid} received")
        if is_disconnected:
            self.outcomes["left"] += 1
            return
        try:
            what = outcome(expectation, response)
        except Violation as violation:
            what = "violation"
            self.add_violation(f"{expectation.uid} ({expectation.kind}): {violation}")
        if what == "broken" and not any(began_s <= gone_s and at_s <= ended_s for at_s, gone_s in self.kills_s):
            end = self.ends.get(response.port, "open")
            self.add_violation(
                f"{expectation.uid} ({expectation.kind}): broken ({end}), and no replica was killed:"
                f" {response.raw[-200:]!r}"
            )
        self.outcomes[what] += 1

    def scan(self, data: bytes, where: str) -> None:
        for encoding in self._encodings:
            if encoding in data:
                at = data.index(encoding)
                self.add_violation(f"a planted secret in {where}: {data[max(0, at - 80) : at + 80]!r}")
                return

    def add_token(self, token: str, end_s: float | None) -> None:
        """Record an issued token. `end_s`: when it expires; None if the issuer returned no lifetime.

        A token that is issued again keeps its end: the issuer rounds the rest down.
        """
        self._ends_s.setdefault(token, end_s)

    def is_valid(self, token: str, now_s: float) -> bool:
        end_s = self._ends_s.get(token, 0.0)
        return end_s is None or now_s < end_s

    def add_delay(self, now_s: float, delay_s: float) -> None:
        """Record a delay of the machine: an operation without work took `delay_s`."""
        self._delays.append((now_s, delay_s))

    def receive(self, receipt: Receipt, now_s: float) -> None:
        """Record a request that the upstream received completely."""
        before = self._receipts.get(receipt.uid)
        if receipt.uid in self._refused:
            self.add_violation(f"{receipt.uid} was sent to the upstream although it must be rejected")
        is_second = before is not None and before.is_stale and receipt.uid not in self._stale
        if is_second:
            self._stale.add(receipt.uid)
        if before is not None and not before.may_repeat and not is_second:
            self.add_violation(f"{receipt.uid} was sent twice, after the reply {before.reply!r}")
        if before is not None and before.reply == "401" and before.token == receipt.token:
            self.add_violation(f"{receipt.uid} was sent again with the token that was rejected")
        self._receipts[receipt.uid] = receipt
        if receipt.token not in self._ends_s:
            self.add_violation(f"{receipt.uid} came with a token that no issuer issued: {receipt.token[-40:]!r}")
        elif not self.is_valid(receipt.token, now_s):
            self._late.append((now_s, now_s - (self._ends_s[receipt.token] or 0.0), receipt.token))

    def expired(self) -> Iterable[str]:
        """Yield the tokens that arrived after their end by more than the delays of the machine."""
        for now_s, late_s, token in self._late:
            delays = (delay_s for at_s, delay_s in self._delays if now_s - 15 <= at_s <= now_s + 15)
            if late_s > LATE_S + 2 * max(delays, default=0.0):
                yield f"a token was sent {late_s:.1f} s after its end: {token[-12:]}"

    def finish(self) -> Sequence[str]:
        """Return all violations. Call it once at the end."""
        self.violations.extend(self.expired())
        return self.violations

    @property
    def late(self) -> int:
        """The number of tokens that arrived after their end."""
        return len(self._late)
