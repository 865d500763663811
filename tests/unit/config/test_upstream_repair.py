"""`upstreams.NAME.repair`."""

import pytest
from pydantic import ValidationError

from gatepass.config.upstream import RepairConfig, UpstreamConfig


def test_no_optional_repair_is_on_by_default():
    assert UpstreamConfig(base_url="https://h/v1").repair == RepairConfig()
    assert RepairConfig().model_dump() == {"cumulative": False, "one_id": False, "without_choices": "move"}


@pytest.mark.parametrize("wish", ["move", "keep", "drop"])
def test_without_choices_accepts_move_keep_and_drop(wish):
    assert RepairConfig.model_validate({"without_choices": wish}).without_choices == wish


@pytest.mark.parametrize("block", [{"without_choices": "merge"}, {"cumulative": "yes"}, {"one_ids": True}])
def test_anything_else_is_refused(block):
    with pytest.raises(ValidationError):
        RepairConfig.model_validate(block)
