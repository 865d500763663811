"""tests/translation.md: each published fault has a test that exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "tests/translation.md").read_text().partition("## Published faults")[2].partition("\n## ")[0]
ROWS = [re.split(r" ?\| ?", line.strip("| ")) for line in TEXT.splitlines() if line.startswith("| ")][1:]
REPORT = re.compile(r"(?:(?:BerriAI/litellm|QuantumNous/new-api|musistudio/claude-code-router)?#\d{1,6}(?:, |$))+")


def test_each_published_fault_names_its_report_and_a_test_that_exists() -> None:
    files = [*(ROOT / "tests/unit/protocols").glob("test_*.py"), *(ROOT / "tests/integration").glob("test_*.py")]
    defined = set(
        re.findall(r"^(?:async )?def (test_\w+)", "\n".join(file.read_text() for file in files), re.MULTILINE)
    )
    assert 12 <= len(ROWS) <= 25
    for fault, report, test in ROWS:
        assert fault.endswith("."), fault
        assert REPORT.fullmatch(report), report
        assert test.strip("`") in defined, test
