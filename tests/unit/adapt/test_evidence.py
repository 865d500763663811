"""What others may read of the sentence that a lesson was learned from."""

import pytest

from gatepass.adapt.evidence import EVIDENCE_CHARS, QUOTED_CHARS, evidence_of

PROMPT = "my neighbour's diagnosis is a secret that I tell to nobody"


@pytest.mark.parametrize(
    "said",
    [
        "",
        "Unsupported value: 'stream' does not support true with this model.",
        "It doesn't know the user's `seed`, and can't.",
        'Input should be "system", “user” or ‘tool’',
        f"'{'x' * QUOTED_CHARS}'",
    ],
)
def test_names_and_short_values_stay(said):
    assert evidence_of(said) == said


@pytest.mark.parametrize("quotes", ["''", '""', "``", "“”", "‘’"])
def test_what_is_quoted_at_length_is_left_out(quotes):
    begin, end = quotes
    assert (
        evidence_of(f"Invalid value: {begin}{PROMPT}{end}. Use 'user'.") == f"Invalid value: {begin}…{end}. Use 'user'."
    )
    assert evidence_of(f"Invalid value: {begin}{PROMPT}") == f"Invalid value: {begin}…"


def test_a_quotation_in_json_ends_at_its_own_end():
    said = '{"input":"he said \\"no\\" and that ' + PROMPT + '","type":"x"}'
    assert evidence_of(said) == '{"input":"…","type":"x"}'


def test_a_long_sentence_is_cut():
    assert evidence_of("x" * 500) == "x" * EVIDENCE_CHARS


def test_a_sentence_of_quotes_is_read_in_one_pass():
    assert len(evidence_of("'a " * 100_000)) <= EVIDENCE_CHARS
    assert len(evidence_of('"\\' * 100_000)) <= EVIDENCE_CHARS
