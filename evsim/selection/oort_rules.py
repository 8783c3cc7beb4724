"""The numbers and choices of Oort, and the two presets: the paper's and FedScale's.

`docs/selection.md` has the table of differences; a test keeps it equal to `PRESETS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from evsim.base.errors import require
from evsim.base.units import Duration

_MOST = 1_000_000  # selections that the pacer looks back


@final
@dataclass(frozen=True, kw_only=True)
class OortRules:
    """Every choice within Oort, resolved.

    Attributes:
        random_first: the first round is a uniform draw that the selector does not count: R, which uncertainty and pacer
            go by, is one less than the round from then on (FedScale asks the selector from the second round).
        exploration, exploration_decay, exploration_min: share of the cohort that explores in round t (1 is the first):
            max(exploration * exploration_decay ** (t - 1), exploration_min).
        decay_first: the decay already applies to the first round (exponent t).
        whole_explorers: the number of explorers is int(share x n) (FedScale); False: rounded at random, so that it is
            right on average for small n too.
        explore_by: "speed": in proportion to 1 / expected duration; "size": in proportion to data size x penalty, among
            the `exploration_window` x wanted largest of them.
        exploration_window: see `explore_by`.
        sample_cap: local steps x batch size, FedScale's bound on the size an unexplored client is credited with.
        utility_scale: "raw": samples x root mean squared loss, clipped over all explored clients; "range": minus 0.999
            of the smallest, over the range, both over idle clients, unexplored ones included with their size.
        clip: quantile at which utilities are clipped (nearest rank).
        penalty: exponent alpha of (T / duration).
        uncertainty: factor 0.1 in sqrt(0.1 ln R / L).
        preferred_percentile: T starts at this percentile of all known durations; None: T is a duration.
        pacer: "fell": T relaxes when the utility of the last window is below that of the window before; "flat": when it
            changed by at most 10 %, and tightens when it changed fivefold.
        pacer_window: selections per window (W).
        pacer_every: the pacer looks once in so many selections.
        pacer_percentile: step of T in percentiles.
        pacer_delta: step (and start) of T as a duration, ms; None: T covers the next W x n fastest explored clients.
        cut_off: share c of the utility of the last client to exploit that admits to the draw.
        cut_off_keep: at least so many times the clients to exploit are admitted.
        participation_cap: clients selected more often are not exploited any more; None: no cap.
        blacklist_share: at most this share of the registered clients is excluded so.
        straggler: what a report that was not used teaches about utility: "nothing", or the round's "mean" (FedScale).
        fairness: weight f of the fairness term.
        noise: standard deviation of the relative noise on utilities.
    """

    random_first: bool
    exploration: float
    exploration_decay: float
    exploration_min: float
    decay_first: bool
    whole_explorers: bool
    explore_by: Literal["speed", "size"]
    exploration_window: float
    sample_cap: int | None
    utility_scale: Literal["raw", "range"]
    clip: float
    penalty: float
    uncertainty: float
    preferred_percentile: float | None
    pacer: Literal["fell", "flat"]
    pacer_window: int
    pacer_every: int
    pacer_percentile: float
    pacer_delta: Duration | None
    cut_off: float
    cut_off_keep: float
    participation_cap: int | None
    blacklist_share: float
    straggler: Literal["nothing", "mean"]
    fairness: float
    noise: float

    def __post_init__(self) -> None:
        for name in ("exploration", "exploration_min", "clip", "cut_off", "blacklist_share", "fairness"):
            _share(name, getattr(self, name))
        require(0 < self.exploration_decay <= 1, "exploration_decay must be in (0, 1]", given=self.exploration_decay)
        for name in ("penalty", "uncertainty", "pacer_percentile", "cut_off_keep", "noise"):
            value = getattr(self, name)
            require(0 <= value < np.inf, f"{name} must be >= 0 and finite", **{name: value})
        for name in ("pacer_window", "pacer_every"):
            require(1 <= getattr(self, name) <= _MOST, f"{name} must be in [1, {_MOST}]", **{name: getattr(self, name)})
        require(self.exploration_window >= 1, "exploration_window must be >= 1", given=self.exploration_window)
        self._check_optional()

    def _check_optional(self) -> None:
        for name in ("sample_cap", "participation_cap", "pacer_delta"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} must be >= 1 or left out", **{name: value})
        percentile = self.preferred_percentile
        require(
            percentile is None or 0 < percentile <= 100,  # noqa: PLR2004  a percentage
            "preferred_percentile must be in (0, 100]",
            preferred_percentile=percentile,
        )

    def counted(self, selection: int) -> int:
        """R in a round's selection (1 is the first): how often the selector was asked."""
        return selection - self.random_first

    def exploration_at(self, selection: int) -> float:
        """Share of the cohort that explores in a round's selection (1 is the first)."""
        decays = selection if self.decay_first else selection - 1
        return max(self.exploration * self.exploration_decay**decays, self.exploration_min)


def _share(name: str, value: float) -> None:
    require(0 <= value <= 1, f"{name} must be in [0, 1]", **{name: value})


PAPER = OortRules(
    random_first=False,
    exploration=0.9,
    exploration_decay=0.98,
    exploration_min=0.2,
    decay_first=False,
    whole_explorers=False,
    explore_by="speed",
    exploration_window=5.0,
    sample_cap=None,
    utility_scale="raw",
    clip=0.95,
    penalty=2.0,
    uncertainty=0.1,
    preferred_percentile=None,
    pacer="fell",
    pacer_window=20,
    pacer_every=1,
    pacer_percentile=5.0,
    pacer_delta=None,
    cut_off=0.95,
    cut_off_keep=1.0,
    participation_cap=10,
    blacklist_share=1.0,
    straggler="nothing",
    fairness=0.0,
    noise=0.0,
)

FEDSCALE = OortRules(
    random_first=True,
    exploration=0.9,
    exploration_decay=0.98,
    exploration_min=0.3,
    decay_first=False,
    whole_explorers=True,
    explore_by="size",
    exploration_window=5.0,
    sample_cap=None,
    utility_scale="range",
    clip=0.9,
    penalty=2.0,
    uncertainty=0.1,
    preferred_percentile=30.0,
    pacer="flat",
    pacer_window=20,
    pacer_every=20,
    pacer_percentile=5.0,
    pacer_delta=None,
    cut_off=0.05,
    cut_off_keep=10.0,
    participation_cap=None,
    blacklist_share=0.3,
    straggler="mean",
    fairness=0.0,
    noise=0.0,
)

PRESETS = {"paper": PAPER, "fedscale": FEDSCALE}
