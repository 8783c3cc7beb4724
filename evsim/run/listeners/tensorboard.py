"""A run in TensorBoard: what was measured by server steps, and by hours of virtual time."""

from __future__ import annotations

import importlib.util
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from evsim.base.errors import missing_extra, require
from evsim.base.units import MS_PER_HOUR, MS_PER_MINUTE, MS_PER_SECOND

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from evsim.timeline.audience import RunFacts

_ROUND = ("reports", "late", "dropped", "mean_staleness", "loss")


@final
class TensorBoard:
    """Writes event files into a folder of the run folder; `tensorboard --logdir runs` shows all runs below.

    Steps are model versions. The wall time of an event is virtual time since the run began, so that the horizontal axis
    "Relative" shows virtual hours. Of each evaluation ``test/<metric>``, of each applied round ``round/<column of
    server_steps>``, its loss and ``round/minutes``, the failed rounds so far, and ``virtual_hours`` of both. A run that
    is resumed tells its story anew: event files that are there are replaced.

    Args:
        folder: name of the folder in the run folder.

    Raises:
        MissingExtraError: if TensorBoard is not installed.
    """

    def __init__(self, folder: str = "tensorboard") -> None:
        plain = Path(folder).name == folder and folder != ".."
        require(plain, "folder must be a plain name, it lies in the run folder", folder=folder)
        if importlib.util.find_spec("tensorboard") is None:
            raise missing_extra("tensorboard", "tensorboard", "the listener tensorboard")
        self._name = folder
        self._failed = 0
        self._out: SummaryWriter | None = None

    def started(self, run: RunFacts) -> None:
        """Open the folder."""
        from torch.utils.tensorboard import SummaryWriter

        require(run.folder is not None, "tensorboard needs a run folder to write into")
        assert run.folder is not None  # noqa: S101  for the type checker
        folder = run.folder / self._name
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._out = SummaryWriter(str(folder))

    def round_closed(self, at: int, row: dict[str, Any]) -> None:
        """A round or buffer is closed; what was written so far reaches the disk."""
        if row["applied"]:
            told = {f"round/{name}": row[name] for name in _ROUND if row.get(name) is not None}
            told["round/minutes"] = (row["closed_at"] - row["started_at"]) / MS_PER_MINUTE
            self._write(at, int(row["version"]), told | {"round/failed": self._failed})
        else:
            self._failed += 1
        if self._out is not None:
            self._out.flush()

    def evaluated(self, at: int, version: int, metrics: dict[str, float]) -> None:
        """The model was evaluated."""
        self._write(at, version, {f"test/{name}": value for name, value in metrics.items()})

    def ended(self, at: int, reason: str) -> None:
        """The run is over."""
        if self._out is not None:
            self._out.add_text("ended", reason, walltime=at / MS_PER_SECOND)
            self._out.close()
            self._out = None

    def _write(self, at: int, version: int, told: dict[str, Any]) -> None:
        if self._out is None:
            return
        for tag, value in {**told, "virtual_hours": at / MS_PER_HOUR}.items():
            if isfinite(value):
                self._out.add_scalar(tag, float(value), version, walltime=at / MS_PER_SECOND)
