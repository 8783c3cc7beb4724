"""Studies: arms times seeds, run in parallel processes, resumable; one executor for arms of one kind.

A study file says which scenario, which arms (named lists of overrides, or a grid of values) and which seeds. Arms of
one seed share every draw that their difference does not touch, so they can be compared in pairs.
`evsim.results.comparison` reads what comes out.
"""

from __future__ import annotations

from evsim.study.file import Study
from evsim.study.running import Progress, RunsFailedError, sweep

__all__ = ["Progress", "RunsFailedError", "Study", "sweep"]
