"""What every test may rely on: nothing of another test's plug-ins is left."""

from __future__ import annotations

import pytest

from evsim.base import registry


@pytest.fixture(autouse=True)
def no_plug_ins_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error is blamed on the plug-ins loaded so far, which in a run are its own."""
    monkeypatch.setattr(registry, "_loaded", {})
