"""``python -m evsim.cli``: the command line without an installed script."""

from __future__ import annotations

from evsim.cli import app

app()
