"""`decide` against a table that was written by hand from docs/architecture.md#retries."""

import asyncio
from itertools import product
from typing import Any

import pytest

from gatepass.errors import (
    ClientGone,
    Draining,
    InternalError,
    InvalidRequest,
    Overloaded,
    TokenUnavailable,
    UpstreamAuth,
    UpstreamClosed,
    UpstreamConnect,
    UpstreamErrorReply,
    UpstreamInvalid,
    UpstreamTimeout,
)
from gatepass.proxy.retry import MOST_CALLS, MOST_TRIES_S, Allowed, Outcome, Repeat, Tried, decide, outcome_of

# Each combination of the columns has the verdict of the first row that matches. `*` is any value, `a|b` one of two,
# `-a` any other. The last column is what may be done.
TABLE = """
    outcome            status written body        tries        time circumstance    next | verdict

    # never
    *                  *      *       *           *            over *               *    | -

    # a rejected token: with a new one, twice at most
    token_rejected     *      *       *           -renewed     left -no_credential  *    | new_token
    token_rejected     400    *       json        renewed      left *               *    | learned_rule
    token_rejected     400    *       json        nine_calls   left no_credential   *    | -
    token_rejected     400    *       json        slow|late    left no_credential   *    | -
    token_rejected     400    *       json        *            left no_credential   *    | learned_rule
    token_rejected     *      *       no_path     nine_calls   left no_credential   *    | -
    token_rejected     *      *       no_path     renewed      left *               *    | learned_rule
    token_rejected     *      *       no_path     *            left no_credential   *    | learned_rule
    token_rejected     *      *       *           *            left *               *    | -
    nothing_written    *      *       *           *            left expired         *    | new_token

    # an error that a change may prevent: nine calls, and none begins after ten seconds; a chat for a missing path
    error_reply        400    *       json        nine_calls   left *               *    | -
    error_reply        400    *       json        slow|late    left *               *    | -
    error_reply        400    *       json        *            left *               *    | learned_rule
    error_reply        *      *       no_path     nine_calls   left *               *    | -
    error_reply        *      *       no_path     *            left *               *    | learned_rule
    error_reply        *      *       *           *            left *               *    | -

    # a reused connection that closed without an answer: once more, on a new one
    connection_failed  *      *       *           -reconnected left stale           *    | new_connection
    connection_failed  *      no      *           -reconnected left stale_off       *    | new_connection

    # another target, if no byte was written by this try or an earlier one
    nothing_written    *      no      *           first|slow|reconnected left -expired yes | next_target
    connection_failed  *      no      *           first|slow|reconnected left *        yes | next_target
    timed_out          *      no      *           first|slow|reconnected left *        yes | next_target

    # everything else
    *                  *      *       *           *            left *               *    | -
"""
BODIES = {
    "json": {"learns": True},
    "no_path": {"learns": True, "lacks_path": True},
    "none": {},
}
TRIES: dict[str, dict[str, Any]] = {
    "first": {},
    "slow": {"tried_s": MOST_TRIES_S},
    "reconnected": {"reconnected": True},
    "earlier": {"sent_before": True},
    "renewed": {"renewed": True, "sent_before": True},
    "a_try": {"calls": 2, "tried_s": MOST_TRIES_S - 0.1, "sent_before": True},
    "eight_calls": {"calls": MOST_CALLS - 1, "tried_s": 1.0, "sent_before": True},
    "nine_calls": {"calls": MOST_CALLS, "tried_s": 1.0, "sent_before": True},
    "late": {"calls": 2, "tried_s": MOST_TRIES_S, "sent_before": True},
}
CIRCUMSTANCES: dict[str, dict[str, Any]] = {
    "plain": {},
    "stale": {"stale": True},
    "stale_off": {"stale": True, "repeats_stale": False},
    "expired": {"token_expired": True},
    "no_credential": {"has_token": False},
}
STATUSES = ("400", "401")
"""A status that rejects the form of a request, and one that does not."""
YES_NO = ("no", "yes")
COLUMNS = (list(Outcome), STATUSES, YES_NO, BODIES, TRIES, ("left", "over"), CIRCUMSTANCES, YES_NO)
ROWS = [tuple(line.split()) for line in TABLE.splitlines()[2:] if line.strip() and not line.strip().startswith("#")]


def matches(cell: str, value: str) -> bool:
    return cell == "*" or (value != cell[1:] if cell.startswith("-") else value in cell.split("|"))


def expected() -> dict[tuple[str, ...], tuple[int, str]]:
    found = {}
    for combination in product(*(map(str, column) for column in COLUMNS)):
        for at, (*cells, _, verdict) in enumerate(ROWS):
            if all(map(matches, cells, combination)):
                found[combination] = (at, verdict)
                break
    return found


EXPECTED = expected()


def verdict_on(combination: tuple[str, ...]) -> str:
    outcome, status, written, body, tries, time, circumstance, following = combination
    values = {"has_token": True, **BODIES[body], **TRIES[tries], **CIRCUMSTANCES[circumstance]}
    tried, allowed = Tried(sent=written == "yes", **values), Allowed(has_next=following == "yes")
    left_s = 1.0 if time == "left" else 0.0
    return decide(Outcome(outcome), int(status), None, tried, allowed, left_s) or "-"


def test_the_table_has_a_verdict_for_each_combination_and_uses_each_row():
    assert len(EXPECTED) == len(Outcome) * 2 * 2 * len(BODIES) * len(TRIES) * 2 * len(CIRCUMSTANCES) * 2
    assert {at for at, _ in EXPECTED.values()} == set(range(len(ROWS)))
    assert {verdict for _, verdict in EXPECTED.values()} == {"-", *Repeat} - {Repeat.RETRY}


@pytest.mark.parametrize("row", range(len(ROWS)), ids=[" ".join(row) for row in ROWS])
def test_verdict(row):
    combinations = [combination for combination, (at, _) in EXPECTED.items() if at == row]
    wrong = [combination for combination in combinations if verdict_on(combination) != EXPECTED[combination][1]]
    assert wrong == []


POLICY_TABLE = """
    outcome            status wait written earlier policy   time     next | verdict

    # without a policy, and with one that does not repeat this request: as ever
    connection_failed|nothing_written * * no no    *        *        yes  | next_target
    *                  *      *    *       *       none     *        *    | -

    # too little time for another attempt
    *                  *      *    *       *       *        short    *    | -

    # refused: no byte was written, 429, or 503 with a wait
    connection_failed|timed_out * * no   *       refused|both *    yes  | next_target
    connection_failed|timed_out * * no   *       refused|both *    no   | retry
    error_reply|invalid 429    *    *       *       refused|both *    yes  | next_target
    error_reply|invalid 429    *    *       *       refused|both *    no   | retry
    error_reply|invalid 503    yes  *       *       refused|both *    yes  | next_target
    error_reply|invalid 503    yes  *       *       refused|both *    no   | retry
    error_reply|invalid 503    yes  *       *       *        *        *    | -

    # no token or no place: it comes no sooner after a pause
    nothing_written    *      *    no      *       refused|both *    yes  | next_target

    # may have run: another 5xx, a timeout, a cut
    error_reply|invalid 500|503 *   *       *       run|both *        yes  | next_target
    error_reply|invalid 500|503 *   *       *       run|both *        no   | retry
    connection_failed|timed_out * * yes  *       run|both *        yes  | next_target
    connection_failed|timed_out * * yes  *       run|both *        no   | retry
    cut                *      *    *       *       run|both *        yes  | next_target
    cut                *      *    *       *       run|both *        no   | retry

    # the client left, gatepass stopped, the token was refused, the form is wrong
    *                  *      *    *       *       *        *        *    | -
"""
POLICY_ROWS = [
    tuple(line.split()) for line in POLICY_TABLE.splitlines()[2:] if line.strip() and not line.strip().startswith("#")
]
POLICIES: dict[str, dict[str, Any]] = {
    "none": {},
    "refused": {"refused": True},
    "run": {"run": True},
    "both": {"refused": True, "run": True},
}
ENDS = [one for one in Outcome if one is not Outcome.COMPLETE]
POLICY_COLUMNS = (map(str, ENDS), ("400", "429", "500", "503"), YES_NO, YES_NO, YES_NO, POLICIES, ("left", "short"))


def test_a_policy_repeats_what_its_groups_name():
    used, wrong = set(), []
    for combination in product(*POLICY_COLUMNS, YES_NO):
        outcome, status, wait, written, earlier, policy, time, following = combination
        if outcome == "timed_out" and (written, earlier, following) == ("no", "no", "yes"):
            continue  # the row "no byte was written" of the first table
        tried = Tried(sent=written == "yes", sent_before=earlier == "yes")
        allowed = Allowed(has_next=following == "yes", has_time=time == "left", **POLICIES[policy])
        wait_s = 0.0 if wait == "yes" else None
        verdict = decide(Outcome(outcome), int(status), wait_s, tried, allowed, float("inf")) or "-"
        at, row = next((at, row) for at, row in enumerate(POLICY_ROWS) if all(map(matches, row, combination)))
        used.add(at)
        if verdict != row[-1]:
            wrong.append((combination, verdict, row))
    assert wrong == []
    assert used == set(range(len(POLICY_ROWS)))


@pytest.mark.parametrize(
    ("status", "teaches"),
    [(400, True), (413, True), (422, True), (404, True), (429, False), (500, True), (502, False)],
)
def test_a_rule_is_learned_from_a_status_that_rejects_the_form(status, teaches):
    verdict = decide(Outcome.ERROR_REPLY, status, None, Tried(sent=True, learns=True), Allowed(), 1.0)
    assert verdict is (Repeat.LEARNED_RULE if teaches else None)


REFUSAL = UpstreamErrorReply("no", upstream="u", status=400)


@pytest.mark.parametrize(
    ("error", "sent", "has_head", "outcome"),
    [
        (UpstreamConnect("refused", upstream="u"), False, False, Outcome.CONNECTION_FAILED),
        (UpstreamClosed("closed", upstream="u"), True, False, Outcome.CONNECTION_FAILED),
        (UpstreamClosed("closed", upstream="u"), True, True, Outcome.CUT),
        (UpstreamTimeout("late", upstream="u", phase="idle"), True, True, Outcome.TIMED_OUT),
        (REFUSAL, True, True, Outcome.ERROR_REPLY),
        (UpstreamAuth("no", upstream="u", status=401), True, True, Outcome.ERROR_REPLY),
        (UpstreamInvalid("not JSON", upstream="u"), True, True, Outcome.INVALID),
        (TokenUnavailable("down", credential="c"), False, False, Outcome.NOTHING_WRITTEN),
        (Overloaded("every connection is busy"), False, False, Outcome.NOTHING_WRITTEN),
        (InvalidRequest("the form ends early"), True, False, Outcome.CLIENT_GONE),
        (ClientGone(), True, True, Outcome.CLIENT_GONE),
        (Draining("stop"), True, True, Outcome.DRAINED),
        (asyncio.CancelledError(), True, False, Outcome.DRAINED),
        (InternalError("a fault"), True, True, Outcome.INVALID),
        (ZeroDivisionError(), False, False, Outcome.INVALID),
    ],
    ids=repr,
)
def test_outcome_of_an_error(error, sent, has_head, outcome):
    assert outcome_of(error, sent=sent, has_head=has_head) is outcome
