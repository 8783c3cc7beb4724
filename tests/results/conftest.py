"""The hand-made run as a fixture."""

from __future__ import annotations

import pytest

from tests.results.hand_made import write


@pytest.fixture
def tiny(tmp_path):
    return write(tmp_path / "tiny", spread=True)
