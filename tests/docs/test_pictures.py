"""The drawn pictures: what they show is what the code does."""

import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

from gatepass.config.access import BUILT_IN_PROFILES
from gatepass.proxy.client_response import EVERY_S, SYNTHESIZED_HOLD_S
from gatepass.tokens.lifetime import STALE_SHARE

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs/images"
SPACE = "{http://www.w3.org/2000/svg}"


def elements(name: str, tag: str) -> list[ElementTree.Element]:
    root = ElementTree.parse(IMAGES / f"{name}.svg").getroot()  # noqa: S314 - our own file
    return list(root.iter(f"{SPACE}{tag}"))


def texts(name: str) -> list[str]:
    return [text.text or "" for text in elements(name, "text")]


def test_the_synthesized_stream_has_its_keep_alives_at_their_times() -> None:
    at_s = {
        int(text.attrib["x"]): float((text.text or "").removesuffix(" s"))
        for text in elements("synthesized_stream", "text")
        if re.fullmatch(r"\d+ s", text.text or "")
    }
    shown = sorted(at_s[int(box.attrib["x"])] for box in elements("synthesized_stream", "rect")[2:])
    assert shown[:2] == [SYNTHESIZED_HOLD_S, SYNTHESIZED_HOLD_S + EVERY_S]
    assert SYNTHESIZED_HOLD_S + EVERY_S < shown[2] < SYNTHESIZED_HOLD_S + 2 * EVERY_S
    scale = {(x - min(at_s)) / seconds for x, seconds in at_s.items() if seconds}
    assert len(scale) == 1, "the times are not in proportion"
    assert f"{EVERY_S:.0f} s of silence" in " ".join(texts("synthesized_stream"))


def test_the_path_of_a_request_has_the_steps_of_the_architecture_and_existing_modules() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    steps = [step.lower() for step in re.findall(r"^\d+\. \*\*(\w+)\.\*\*", page, re.MULTILINE)]
    shown = [found[1] for text in texts("request_path") if (found := re.match(r"\d+\. (\w+)$", text))]
    assert shown == steps
    modules = [module for text in texts("request_path") for module in re.findall(r"[\w/]+(?:\.py|/)", text)]
    assert len(modules) >= 10
    assert [module for module in modules if not (ROOT / "src/gatepass" / module).exists()] == []


def test_the_life_of_a_token_has_the_share_after_which_a_token_is_refreshed() -> None:
    (moment,) = [text for text in texts("token_life") if "%" in text]
    lifetimes = {int(found[1]) for text in texts("token_life") if (found := re.match(r"token \w, (\d+) s", text))}
    assert {f"{STALE_SHARE * lifetime:.0f} s: {STALE_SHARE:.0%} of the lifetime" for lifetime in lifetimes} == {
        moment.replace(" %", "%")
    }


def test_the_three_clients_have_profiles_that_exist() -> None:
    profiles = {found[1] for text in texts("three_clients") if (found := re.match(r"profile (\w+)", text))}
    assert len(profiles) == 3
    assert profiles <= set(BUILT_IN_PROFILES)


def test_the_dialog_of_ragflow_has_the_fields_and_values_of_its_page() -> None:
    page = (ROOT / "docs/ragflow.md").read_text().partition("\n| field | value |\n")[2].partition("\n\n")[0]
    fields = dict(re.findall(r"^\| ([\w -]+) \| (.*) \|$", page, re.MULTILINE))
    shown = elements("ragflow_dialog", "text")
    value = {
        label.text or "": text.text or "" for label, text in pairwise(shown) if label.attrib["y"] == text.attrib["y"]
    }
    del value["OpenAI-API-Compatible"]
    assert list(value) == list(fields)
    assert f"`{value['Base url']}`" in fields["Base url"]
    assert "a drawing" in texts("ragflow_dialog")
