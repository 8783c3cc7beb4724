from __future__ import annotations

import pytest


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every server step, whatever it costs, and rows written at once."""
    monkeypatch.setattr("evsim.run.checkpoints._WORTH", 0)
    monkeypatch.setattr("evsim.run.recorder._FLUSH_EVERY_S", 0.02)
    monkeypatch.setattr("evsim.run.simulation._WRITE_EVERY_S", 0.0)
