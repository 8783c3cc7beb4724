"""What merges with central differential privacy of clients share: a bound on what each client adds, and noise.

Clients are clipped, not reports: u_k is the sum of all that client k reported in the step. A buffer, or a round with
late reports of earlier ones, may hold several reports of a client; clipped one by one they could add more than S.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import override

from evsim.algorithms.base import State, StatefulMerge
from evsim.algorithms.company import name_of
from evsim.algorithms.weighting import EqualWeights
from evsim.base.caveat import Caveat
from evsim.base.errors import PolicyError, Problem, TrainingError, require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evsim.algorithms.privacy import Privacy, Sampling

_ACCOUNTED = (1e-6, 1e6)  # noise multipliers whose epsilon can be computed
A = TypeVar("A")


@dataclass(frozen=True, kw_only=True)
class CentralDp(StatefulMerge[A]):
    """Clips what each client adds, sums, adds noise, divides by the expected cohort. Any server optimizer may follow.

    Buffers of the model are refused: their averages would leave without noise.

    Attributes:
        max_norm: S, the most a client adds to the sum of a step.
        noise_multiplier: z, the noise in units of S.
        cohort: m; None takes the aggregator's goal (a buffer's size).
        delta: of the (epsilon, delta) that a run reports; below 1 / N.
    """

    style = "model"

    max_norm: float
    noise_multiplier: float
    cohort: int | None = None
    delta: float = 1e-5

    def __post_init__(self) -> None:
        z = self.noise_multiplier
        require(isfinite(self.max_norm) and self.max_norm > 0, "max_norm must be > 0", max_norm=self.max_norm)
        require(isfinite(z) and z >= 0, "noise_multiplier must be >= 0", noise_multiplier=z)
        least, most = _ACCOUNTED
        require(z == 0 or least <= z <= most, f"noise_multiplier must be 0 or in [{least:g}, {most:g}]", given=z)
        require(self.cohort is None or self.cohort >= 1, "cohort must be >= 1", cohort=self.cohort)
        require(0 < self.delta < 1, "0 < delta < 1 must hold", delta=self.delta)

    @abstractmethod
    def privacy(self, sampling: Sampling, steps: int) -> Privacy:
        """What so many server steps gave.

        Raises:
            MissingExtraError: if a library that it needs is not installed.
        """

    @property
    @override
    def minimum_updates(self) -> int:
        return 1

    @override
    def problems(self, scenario: Any) -> Iterator[Problem]:
        if not isinstance(scenario.weighting, EqualWeights):
            yield Problem("weighting", name_of(scenario.weighting), "'uniform': the noise is scaled for equal weights")
        try:
            self.check_cohort(self.divisor(scenario.aggregation.reports_per_step))
        except PolicyError as error:
            yield Problem("merge", str(error), "")

    @override
    def caveats(self, scenario: Any) -> Iterator[Caveat]:
        if scenario.selection.needs_training:
            yield Caveat(
                "selection_without_privacy",
                "the selection learns from losses that carry no noise, so what it chooses, and with it the model, "
                "leaks more than epsilon says",
                f"selection {name_of(scenario.selection)}",
                "use a selection that does not, such as uniform",
            )
        clients = scenario.population.clients
        if clients and self.delta * clients >= 1:
            yield Caveat(
                "delta_of_a_client",
                "with a delta of 1 / N or more, giving one client's data away in full counts as private",
                f"delta = {self.delta:g}, 1 / N = {1 / clients:g}",
                "set merge.delta well below 1 / N",
            )

    def divisor(self, cohort_goal: int) -> int:
        """m, the expected cohort.

        Raises:
            PolicyError: if neither this policy nor the aggregator names one.
        """
        if not (self.cohort or cohort_goal):
            name = name_of(self)
            raise PolicyError(f"merge {name}: cohort is not given and the aggregator has no goal; set cohort = N")
        return self.cohort or cohort_goal

    def check_cohort(self, cohort: int) -> None:
        """Whether what is promised can be kept with such a divisor.

        Raises:
            PolicyError: if not.
        """

    def refuse_buffers(self, server: State) -> None:
        """Buffers would leave without noise.

        Raises:
            TrainingError: if the model has any.
        """
        if server["buffers"]:
            raise TrainingError(
                f"merge {name_of(self)}: the model has buffers ({', '.join(list(server['buffers'])[:3])} ...), whose "
                "averages would leave without noise; use a model without BatchNorm, such as norm = 'group'"
            )
