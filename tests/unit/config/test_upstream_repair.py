"""`upstreams.NAME.repair`."""

import pytest
from pydantic import ValidationError

from gatepass.config.upstream import RepairConfig, UpstreamConfig


def test_nothing_is_fixed_beside_what_always_is():
    assert UpstreamConfig(base_url="https://h/v1").repair == RepairConfig()
    assert RepairConfig().model_dump() == {"cumulative": False, "one_id": False, "without_choices": "move"}


@pytest.mark.parametrize("wish", ["move", "keep", "drop"])
def test_what_comes_without_choices_is_moved_kept_or_dropped(wish):
    assert RepairConfig.model_validate({"without_choices": wish}).without_choices == wish


@pytest.mark.parametrize("block", [{"without_choices": "merge"}, {"cumulative": "yes"}, {"one_ids": True}])
def test_anything_else_is_refused(block):
    with pytest.raises(ValidationError):
        RepairConfig.model_validate(block)
