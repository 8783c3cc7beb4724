"""What differential privacy a run gave: epsilon from the library dp-accounting (extra `privacy`).

Amplification by sampling is claimed only where it holds: every client can be reached at any time, the cohort is a
uniform sample of the clients with data, and whose report is used does not depend on anything else. On real traces
none of that is true; then every step counts in full (q = 1), and the reasons are given.

A uniform cohort of fixed size is no Poisson sample. Its epsilon is computed for what it is: sampling without
replacement, neighbors that differ in *one client's data* (Wang, Balle, Kasiviswanathan 2019), sensitivity 2 S. The
figure that papers usually print, as if the cohort were a Poisson sample, stands beside it under its own name.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, sqrt
from typing import TYPE_CHECKING, final

from evsim.base.errors import missing_extra, require

if TYPE_CHECKING:
    from types import ModuleType

    from evsim.algorithms.dp import DpMean

#: Epsilon beyond which nothing is guaranteed, and privacy loss distributions take gigabytes.
_NO_GUARANTEE = 1_000.0
_LITTLE_NOISE = 0.2


@final
@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a scenario's cohorts come about.

    Attributes:
        n_clients: N, the clients that can be drawn: those with data. Others never register.
        cohort: clients asked per step.
        always_available: every client is online all the time.
        uniform: the selector takes every client with the same probability.
        synchronous: a cohort is asked at once and all its reports are of one model version.
        over_commitment: clients asked per report used; above 1 the fastest win.
        deadline: slow reports may be left out.
    """

    n_clients: int
    cohort: int
    always_available: bool
    uniform: bool
    synchronous: bool
    over_commitment: float = 1.0
    deadline: bool = False

    @property
    def rate(self) -> float:
        """q, the share of the clients that is asked per step."""
        return min(self.cohort / max(self.n_clients, 1), 1.0)

    @property
    def reasons_against_amplification(self) -> tuple[str, ...]:
        """Why sampling must not be counted as privacy; empty if it may."""
        found = {
            "clients are not always available": not self.always_available,
            "the selection is not uniform": not self.uniform,
            "aggregation is not in synchronous rounds": not self.synchronous,
            "over-commitment favors fast clients": self.over_commitment > 1,
            "the reporting deadline leaves out slow clients": self.deadline,
        }
        return tuple(reason for reason, holds in found.items() if holds)


@final
@dataclass(frozen=True, kw_only=True)
class Privacy:
    """The guarantee of a run: (epsilon, delta) at the level of clients.

    Attributes:
        epsilon: of all steps together; infinite without noise.
        delta: as given.
        steps: server steps.
        noise_multiplier: z.
        sampling_rate: q that was used; 1 if sampling does not count.
        neighbors: the relation that epsilon is about.
        epsilon_if_poisson: what epsilon would be for a Poisson sample of the same rate; None where q = 1.
        warnings: why q is 1.
    """

    epsilon: float
    delta: float
    steps: int
    noise_multiplier: float
    sampling_rate: float
    neighbors: str
    epsilon_if_poisson: float | None
    warnings: tuple[str, ...]


def account(merge: DpMean, sampling: Sampling, steps: int) -> Privacy:
    """The guarantee after so many server steps.

    Raises:
        MissingExtraError: if dp-accounting is not installed.
    """
    reasons = sampling.reasons_against_amplification
    rate = 1.0 if reasons else sampling.rate
    z, delta = merge.noise_multiplier, merge.delta
    amplified = rate < 1
    if z == 0.0 or steps == 0:
        epsilon, poisson = (inf, inf) if steps else (0.0, 0.0)
    elif amplified:
        epsilon, poisson = _fixed_size(z, sampling, steps, delta), _poisson(z, rate, steps, delta)
    else:
        epsilon = poisson = _poisson(z, 1.0, steps, delta)
    return Privacy(
        epsilon=epsilon,
        delta=delta,
        steps=steps,
        noise_multiplier=z,
        sampling_rate=rate,
        neighbors="one client's data replaced" if amplified else "one client added or removed",
        epsilon_if_poisson=poisson if amplified else None,
        warnings=tuple(f"sampling is not counted as privacy (q = 1): {reason}" for reason in reasons),
    )


def account_of_tree(z: float, delta: float, squared: int, steps: int) -> Privacy:
    """The guarantee of noise on the nodes of trees, exact for a client that is in them as often as is allowed.

    All nodes together are one Gaussian mechanism: a client moves a node by up to S times how often it is in it, so that
    mu = sqrt(squared) / z. It holds whatever the model was that a client got, and needs no extra.

    Args:
        z: noise of a node, in units of S.
        delta: of the guarantee.
        squared: s2, the sum over nodes of the squared occurrences of a client.
        steps: server steps.
    """
    epsilon = 0.0 if steps == 0 else inf if z == 0.0 else _epsilon(sqrt(squared) / z, delta)
    return Privacy(
        epsilon=epsilon,
        delta=delta,
        steps=steps,
        noise_multiplier=z,
        sampling_rate=1.0,
        neighbors="one client added or removed",
        epsilon_if_poisson=None,
        warnings=(),
    )


def epsilon_of_release(noise_multiplier: float, delta: float) -> float:
    """Epsilon of one report under `local_dp_noise`, exact (Balle and Wang, ICML 2018, theorem 8); needs no extra.

    Any two updates of norm at most S differ by at most 2 S, so that mu = 2 / z.

    >>> round(epsilon_of_release(10.0, 1e-5), 3)
    0.726
    """
    require(noise_multiplier > 0, "noise_multiplier must be > 0", noise_multiplier=noise_multiplier)
    require(0 < delta < 1, "0 < delta < 1 must hold", delta=delta)
    return _epsilon(2 / noise_multiplier, delta)


def _epsilon(mu: float, delta: float) -> float:
    """Epsilon of Gaussian mechanisms that together are mu-GDP: multiplier z has mu = 1 / z, T of them sqrt(T) mu."""
    from scipy.optimize import brentq

    if _gaussian_delta(0.0, mu) <= delta:
        return 0.0
    high = 1.0
    while _gaussian_delta(high, mu) > delta:
        high *= 2
    return float(brentq(lambda epsilon: _gaussian_delta(epsilon, mu) - delta, 0.0, high, xtol=1e-12))


def _gaussian_delta(epsilon: float, mu: float) -> float:
    from scipy.special import log_ndtr, ndtr

    tail = exp(epsilon + float(log_ndtr(-mu / 2 - epsilon / mu)))  # together, since exp(epsilon) may overflow
    return float(ndtr(mu / 2 - epsilon / mu)) - tail


def _poisson(z: float, rate: float, steps: int, delta: float) -> float:
    """By privacy loss distributions, which are tight; exact, but not amplified, where those would take too long."""
    dp = _library()
    whole = _epsilon(sqrt(steps) / z, delta)
    if rate == 1 or whole > _NO_GUARANTEE or z < _LITTLE_NOISE:
        return whole
    from dp_accounting import pld

    event = dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(z))
    return float(pld.PLDAccountant().compose(event, steps).get_epsilon(delta))


def _fixed_size(z: float, sampling: Sampling, steps: int, delta: float) -> float:
    """By Renyi differential privacy; the sum of a cohort changes by up to 2 S when one client's data is replaced."""
    dp = _library()
    from dp_accounting import rdp

    event = dp.SampledWithoutReplacementDpEvent(sampling.n_clients, sampling.cohort, dp.GaussianDpEvent(z / 2))
    relation = dp.NeighboringRelation.REPLACE_ONE
    accountant = rdp.RdpAccountant(neighboring_relation=relation).compose(event, steps)
    return float(accountant.get_epsilon(delta))


def _library() -> ModuleType:
    try:
        import dp_accounting
    except ImportError as error:
        raise missing_extra("dp-accounting", "privacy", "epsilon") from error
    module: ModuleType = dp_accounting
    return module
