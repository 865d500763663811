"""The examples of the concept pages are real, and tables of pages have what the code has."""

import json
import re
from pathlib import Path

from gatepass.cli.control import rule_lines
from gatepass.cli.init import OF_AUTH, QUESTIONS, init
from gatepass.config.access import BUILT_IN_PROFILES, PLAIN
from gatepass.documents import LearnedRule
from tests.integration.gateway import CHAT, HELLO, relaying
from tests.integration.scripted import Send, reply

DOCS = Path(__file__).parents[2] / "docs"
FENCE = re.compile(r"^```json\n(.*?)^```", re.MULTILINE | re.DOTALL)


async def test_an_error_in_a_200_is_the_error_of_the_page():
    upstream_body, client_body = FENCE.findall((DOCS / "concepts/classification.md").read_text())
    sent = [Send(reply(json.loads(upstream_body)))]
    async with relaying(answer=lambda _: sent) as (_, served):
        answer = await served.ask(HELLO, CHAT).answer()
    assert answer.status == 400
    error, shown = answer.error, json.loads(client_body)["error"]
    assert error["request_id"] == answer.headers["x-request-id"]
    assert {**error, "request_id": ""} == {**shown, "request_id": ""}


async def test_the_rejection_of_the_page_causes_its_rule():
    text = (DOCS / "concepts/learned_rules.md").read_text()
    (rejection,) = FENCE.findall(text)
    (rule,) = re.findall(r"`(rename=[^`]+)`", text)
    answers = iter([reply(json.loads(rejection), 400), reply({"choices": [{"message": {"content": "Hi"}}]})])
    async with relaying(answer=lambda _: [Send(next(answers))]) as (_, served):
        answer = await served.ask({**HELLO, "model": "gpt-5", "max_tokens": 5}, CHAT).answer()
        (row,) = (await served.ask(None, "/learned", method="GET").answer()).json()["rules"]
    assert answer.status == 200
    assert answer.headers["x-gatepass-adapted"].split(", ")[0] == rule
    assert f"x-gatepass-adapted: {rule}\n" in text
    assert f"x-gatepass-attempts: {answer.headers['x-gatepass-attempts']}\n" in text
    of_the_page = {"callers": ["ragflow"], "age_s": 720, "expires_in_s": 2820, "uses": 31}
    shown = "\n".join(rule_lines([LearnedRule(**{**row, **of_the_page})]))
    assert f"$ gatepass learned\n{shown}\n```" in text


def test_the_page_of_profiles_has_a_row_for_each_that_changes_something():
    page = (DOCS / "concepts/profiles.md").read_text()
    plain = {name for name, profile in BUILT_IN_PROFILES.items() if profile == PLAIN}
    assert set(re.findall(r"(?m)^\| `(\w+)` \|", page)) == BUILT_IN_PROFILES.keys() - plain
    equal_to_plain = set(re.findall(r"`(\w+)`", page.partition("\n`open_webui`")[2].partition(" are equal")[0]))
    assert equal_to_plain | {"open_webui", "plain"} == plain


def test_the_first_page_shows_the_questions_and_options_of_init():
    page = (DOCS / "getting_started.md").read_text()
    shown = ["base_url", "auth", *OF_AUTH["oauth2"], "embeddings_url", "rerank_url", "clients", "listen"]
    for name in shown:
        assert QUESTIONS[name].text in page, name
    options = {option for parameter in init.params for option in parameter.opts}
    assert set(re.findall(r"--[a-z-]+(?= )", page.partition("gatepass init --yes")[2].partition("```")[0])) <= options
