"""What every test may rely on: nothing of another test's plug-ins is left."""

from __future__ import annotations

import signal

import pytest

from evsim.base import registry

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_plug_ins_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error is blamed on the plug-ins loaded so far, which in a run are its own."""
    monkeypatch.setattr(registry, "_loaded", {})
