"""The Chinese pages follow the English ones: sections, blocks, names, settings, versions and links."""

import re
from pathlib import Path

import pytest
from docs.entries import Entry
from docs.error_reference import error_parts
from docs.symptom_table import SECTIONS

from gatepass.errors import explanations
from tests.docs.test_errors import codes

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^( *)```[^\n]*\n.*?^\1``` *$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r" *# .*|(?<=--clients )\S+")
"""What the blocks of the two README files may have of their own: comments, and the client of the example."""
END_COMMENT = re.compile(r"(?<=\S) +# .*")
"""A comment behind a setting, which is Chinese. A setting that is a comment itself stays."""
NAME = re.compile(r"`([\w./:-]{3,})`|(#\d{3,})|\b(v0\.\d+(?:\.\d+)?)")
SETTING = re.compile(r"`([^`]+)`")
FACT = re.compile(r"`[^`]+`|(?<![\w/.-])-?\d[\d,.]*(?: [KM]iB)?\b")
CODES = "<!-- codes: generated"


def english_of(page: Path) -> Path:
    """The page of the same name, which no other folder has, or the first page of the folder of that name."""
    (found,) = [file for file in DOCS.rglob(page.name) if file != page] or [DOCS / page.stem / "README.md"]
    return found


PAIRS = {page.stem: (english_of(page), page) for page in sorted(DOCS.glob("zh/*.md"))}
PAIRS["README"] = ROOT / "README.md", ROOT / "README.zh.md"
WHOLE = sorted(PAIRS.keys() - {"index", "clients", "agents_and_mcp_hosts"})
"""The others are shorter in Chinese: they leave programs and further clients to the English pages."""
CHINESE = {english.resolve(): chinese for english, chinese in PAIRS.values()}


def both(page: str) -> tuple[str, str]:
    english, chinese = PAIRS[page]
    return english.read_text().partition(CODES)[0], chinese.read_text().partition(CODES)[0]


def blocks(text: str) -> list[str]:
    return [found[0] for found in FENCE.finditer(text) if not found[0].lstrip().startswith("```text")]


def links(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"\]\((?!https:)([^)#]*)#?([^)]*)\)", page.read_text())


@pytest.mark.parametrize("page", WHOLE)
def test_a_chinese_page_has_the_sections_of_the_english_one(page: str) -> None:
    english, chinese = (re.findall(r"^(#+) ", FENCE.sub("", text), re.MULTILINE) for text in both(page))
    assert chinese == english


@pytest.mark.parametrize("page", WHOLE)
def test_commands_and_configurations_are_unchanged(page: str) -> None:
    own = COMMENT if page == "README" else END_COMMENT
    english, chinese = ([own.sub("", block) for block in blocks(text)] for text in both(page))
    assert [block for block in chinese if block not in english] == []
    assert [block for block in english if block not in chinese] == []


@pytest.mark.parametrize("page", WHOLE)
def test_names_versions_and_issues_are_complete(page: str) -> None:
    english, chinese = (set(NAME.findall(FENCE.sub("", text))) for text in both(page))
    assert english - chinese == set()


@pytest.mark.parametrize("client", ["open_webui", "librechat", "dify", "codex", "claude_code"])
def test_the_chinese_page_of_clients_has_what_each_english_page_enters_and_checks(client: str) -> None:
    """The shown requests of `gatepass tail` differ in the caller alone, so that one is enough."""
    chinese, page = PAIRS["clients"][1].read_text(), (DOCS / f"clients/{client}.md").read_text()
    assert f"(../zh/clients.md#{client.replace('_', '-')})" in page
    enter, rest = re.split(r"^## Check$", page.partition("\n## Known limits\n")[0], flags=re.MULTILINE)
    shown = [END_COMMENT.sub("", block) for block in blocks(chinese)]
    assert [block for block in blocks(enter) if END_COMMENT.sub("", block) not in shown] == []
    assert set(NAME.findall(FENCE.sub("", enter + rest))) - set(NAME.findall(FENCE.sub("", chinese))) == set()


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section["en"]["title"])
def test_a_symptom_has_the_same_error_texts_commands_and_settings_in_both_languages(section: dict[str, object]) -> None:
    missing = {}
    for row in section["rows"]:  # type: ignore[attr-defined]  # YAML has no types
        assert row["en"].keys() == row["zh"].keys(), row["en"]["see"]
        english, chinese = (set(SETTING.findall(" ".join(row[language].values()))) for language in ("en", "zh"))
        if english - chinese:
            missing[row["en"]["see"]] = english - chinese
    assert missing == {}


def test_each_error_code_and_case_has_its_chinese_text_with_the_same_commands_and_settings() -> None:
    known = explanations()
    assert {name for name, entry in known.items() if not entry.of} == codes()
    assert {entry.of for entry in known.values() if entry.of} <= {*codes(), "doctor", "hint", "part"}
    for name, entry in known.items():
        assert bool(entry.sentence_zh) is (entry.of not in ("hint", "part"))
        english, chinese = (set(SETTING.findall(action)) for action in (entry.action, entry.action_zh))
        assert english - chinese == set(), name
        assert "`, `" not in entry.action_zh, name


def test_each_error_code_has_the_names_limits_and_statuses_of_the_english_page_in_chinese() -> None:
    missing = {}
    for english, chinese in zip(error_parts("en"), error_parts("zh"), strict=True):
        if isinstance(english, Entry):
            assert isinstance(chinese, Entry)
            shown = FACT.findall(f"{chinese.purpose} {chinese.facts['处理']} {chinese.details}")
            missing[english.title] = set(FACT.findall(f"{english.purpose} {english.details}")) - set(shown)
    assert {code: facts for code, facts in missing.items() if facts} == {}


@pytest.mark.parametrize("page", PAIRS)
def test_each_link_of_a_chinese_page_has_a_target_in_chinese_if_there_is_one(page: str) -> None:
    english, file = PAIRS[page]
    for path, _ in links(file):
        target = (file.parent / path).resolve() if path else file
        assert target not in CHINESE or target == english.resolve() or page == "index", f"{path} exists in Chinese"
