import os

import pytest


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine configures what a test runs."""
    for name in [name for name in os.environ if name.startswith("GATEPASS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
