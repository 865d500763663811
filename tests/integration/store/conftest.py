import pytest

from gatepass.store import guarded


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine needs longer than requests wait for the store."""
    monkeypatch.setattr(guarded, "BOUND_S", 5.0)
