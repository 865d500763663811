import pytest
from pydantic import ValidationError

from gatepass.config.upstream import RejectionConfig


def test_nothing_else_rejects_a_token_by_default():
    usual = RejectionConfig()
    assert (usual.statuses, usual.codes) == ([], [])


def test_codes_are_texts_however_they_are_written():
    assert RejectionConfig.model_validate({"codes": ["A0230", 40101, "110"]}).codes == ["A0230", "40101", "110"]


@pytest.mark.parametrize(
    "bad",
    [
        {"statuses": [200]},
        {"statuses": [302]},
        {"statuses": [600]},
        {"statuses": ["403"]},
        {"codes": [True]},
        {"codes": [1.5]},
        {"codes": [""]},
        {"codes": ["two words"]},
    ],
)
def test_rejection_settings_that_cannot_match_are_refused(bad):
    with pytest.raises(ValidationError):
        RejectionConfig.model_validate(bad)
