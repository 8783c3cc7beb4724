"""The progress of a run: one line with the virtual clock, on a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from evsim.base.metrics import as_text
from evsim.base.units import MS_PER_SECOND, format_clock
from evsim.cli.base import console

if TYPE_CHECKING:
    from evsim.run.simulation import Snapshot

_PER_SECOND = 10
_BAR = 8  # characters: the line fits a terminal of 80


@contextmanager
def progress(start_ms: int) -> Iterator[Callable[[Snapshot], None] | None]:
    """What to call with each snapshot; None where nobody watches."""
    screen = console()
    if not screen.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (BarColumn(bar_width=_BAR), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=screen, transient=True, refresh_per_second=_PER_SECOND) as bar:
        task = bar.add_task("loading", total=None)

        def show(snapshot: Snapshot) -> None:
            bar.update(task, total=1.0, completed=share_done(snapshot), description=line(snapshot, start_ms))

        yield show


def share_done(snapshot: Snapshot) -> float:
    """How much of the run is over at least, from 0 to 1."""
    shares = [0.0]
    if snapshot.horizon_ms:
        shares.append(snapshot.now_ms / snapshot.horizon_ms)
    if snapshot.max_steps:
        shares.append(snapshot.server_step / snapshot.max_steps)
    return min(max(shares), 1.0)


def line(snapshot: Snapshot, start_ms: int) -> str:
    """Virtual clock, server step, last metric, devices online, tasks in flight, speed.

    Speed is virtual seconds per wall-clock second.
    """
    speed = snapshot.now_ms / MS_PER_SECOND / max(snapshot.wall_s, 1e-9)
    limit = "" if snapshot.max_steps is None else f"/{snapshot.max_steps}"
    parts = [
        format_clock(snapshot.now_ms, start_ms),
        f"step {snapshot.server_step}{limit}",
        *(f"{name} {as_text(name, value)}" for name, value in list(snapshot.metrics.items())[:1]),
        f"{snapshot.online:,} online",
        f"{snapshot.in_flight:,} in flight",
        f"{speed:,.0f}x",
    ]
    return "  ".join(part for part in parts if part)
