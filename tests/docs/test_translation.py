"""tests/translation.md and tests/callers.md: each row has a test that exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "tests/translation.md").read_text().partition("## Published faults")[2].partition("\n## ")[0]
ROWS = [re.split(r" ?\| ?", line.strip("| ")) for line in TEXT.splitlines() if line.startswith("| ")][1:]
REPORT = re.compile(r"(?:(?:BerriAI/litellm|QuantumNous/new-api|musistudio/claude-code-router)?#\d{1,6}(?:, |$))+")


def defined_in(*patterns: str) -> set[str]:
    text = "\n".join(file.read_text() for pattern in patterns for file in (ROOT / "tests").glob(pattern))
    return set(re.findall(r"^(?:async )?def (test_\w+)", text, re.MULTILINE))


def test_each_published_fault_names_its_report_and_a_test_that_exists() -> None:
    defined = defined_in("unit/protocols/test_*.py", "integration/test_*.py")
    assert 12 <= len(ROWS) <= 25
    for fault, report, test in ROWS:
        assert fault.endswith("."), fault
        assert REPORT.fullmatch(report), report
        assert test.strip("`") in defined, test


def test_each_rule_for_callers_tokens_names_a_test_that_exists() -> None:
    defined = defined_in("unit/auth/test_*.py", "integration/test_callers.py", "integration/test_secrets.py")
    lines = [line for line in (ROOT / "tests/callers.md").read_text().splitlines() if re.match(r"\| [0-9]", line)]
    assert len(lines) > 40
    for line in lines:
        _, rule, _, test = re.split(r" ?\| ?", line.strip("|").strip())
        assert rule.endswith("."), line
        assert test.strip("`") in defined, test
