"""Oort's testing selector: how many, or which, clients make a trustworthy test set (OSDI 2021, section 5).

Functions, not a `Selector`: they plan an evaluation, before any round.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from evsim.base.counts import ceil_count
from evsim.base.errors import PolicyError, Problem, report, require
from evsim.base.quiet import quiet_stdout
from evsim.base.vocabulary import FloatArray, IntArray

if TYPE_CHECKING:
    from collections.abc import Sequence

_WINDOW = 5.0  # the greedy heuristic looks at so many times the largest share of a request at first


def deviation_cohort(tolerance: float, sample_range: float, n_clients: int, confidence: float) -> int:
    """Clients to ask so that their mean data size per category deviates by less than `tolerance` from everybody's.

    Hoeffding-Serfling for a draw without replacement (Bardenet, Maillard 2015):
    n = (N + 1) / (1 - 2 N / ln(1 - delta) x (tolerance / range)^2), rounded up, at most N.

    >>> deviation_cohort(tolerance=10, sample_range=100, n_clients=10_000, confidence=0.95)
    148

    Args:
        tolerance: allowed deviation, in samples.
        sample_range: largest minus smallest number of samples of a client; a bound will do.
        n_clients: N, size of the population.
        confidence: delta, the probability that the deviation stays below the tolerance.
    """
    require(tolerance > 0, "tolerance must be > 0", tolerance=tolerance)
    require(sample_range >= 0, "sample_range must be >= 0", sample_range=sample_range)
    require(n_clients >= 1, "n_clients must be >= 1", n_clients=n_clients)
    require(0 < confidence < 1, "confidence must be in (0, 1)", confidence=confidence)
    if sample_range == 0:
        return 1
    divisor = 1 - 2 * n_clients / log(1 - confidence) * (tolerance / sample_range) ** 2
    return min(ceil_count(1 / divisor, n_clients + 1), n_clients)


@final
@dataclass(frozen=True, eq=False)
class Profiles:
    """What the clients of a test by category have and can do, one entry or row per client.

    Attributes:
        have: samples per client and category, shape (clients, categories).
        ms_per_sample: time to evaluate one sample, ms.
        transfer_ms: time to move the model, ms.
    """

    have: IntArray
    ms_per_sample: FloatArray
    transfer_ms: FloatArray

    def __post_init__(self) -> None:
        n = len(self.have)
        shapes = np.ndim(self.have), np.shape(self.ms_per_sample), np.shape(self.transfer_ms)
        require(shapes == (2, (n,), (n,)), "have must be (clients, categories), the times (clients,)", shapes=shapes)
        require(bool((np.asarray(self.have) >= 0).all()), "have must be >= 0")


@final
@dataclass(frozen=True, eq=False)
class TestPlan:
    """Who evaluates how many samples of each category.

    Attributes:
        clients: ids, ascending.
        samples: shape (len(clients), categories).
        duration_ms: end of the slowest client.
        gap: relative distance to the solver's lower bound: 0 is proven the fastest (among the clients considered); more
            if the solver was allowed to stop earlier or ran into its time limit.
    """

    __test__ = False  # no test class, whatever its name says

    clients: IntArray
    samples: IntArray
    duration_ms: float
    gap: float


def select_by_category(
    request: ArrayLike, profiles: Profiles, budget: int | None = None, *, time_limit_s: float = 60.0, gap: float = 0.0
) -> TestPlan:
    """The fastest plan that evaluates exactly the requested number of samples per category (the paper's MILP).

    min t subject to t >= ms_i sum_j q_ij + transfer_i z_i, sum_i q_ij = request_j, 0 <= q_ij <= have_ij z_i,
    sum_i z_i <= budget, q integer, z in {0, 1}. Solved by HiGHS.

    Args:
        request: samples wanted per category.
        profiles: the clients.
        budget: at most so many clients; None: no limit.
        time_limit_s: wall-clock limit of the solver.
        gap: relative gap at which the solver may stop; 0 asks for the optimum.

    Raises:
        PolicyError: if the request cannot be met, or not within the time limit.
    """
    wanted = _request(request, profiles)
    _check_supply(wanted, profiles, budget)
    return _solve(wanted, profiles, np.arange(len(profiles.have)), budget, {"time_limit": time_limit_s, "gap": gap})


def select_by_category_greedy(
    request: ArrayLike, profiles: Profiles, budget: int | None = None, *, time_limit_s: float = 60.0
) -> TestPlan:
    """The paper's heuristic: first choose clients, then share the samples among them.

    Clients are ranked by how many samples of categories still missing they have, and taken until the request is
    covered; the linear program then runs on these few. The set is doubled while a larger one is faster than before.

    Raises:
        PolicyError: as `select_by_category`, or if the greedy set needs more clients than the budget allows.
    """
    wanted = _request(request, profiles)
    _check_supply(wanted, profiles, budget)
    chosen = _cover(wanted, profiles)
    if budget is not None and len(chosen) > budget:
        raise _infeasible(f"the greedy cover needs {len(chosen)} clients, the budget is {budget}")
    limit = len(profiles.have) if budget is None else budget
    options = {"time_limit": time_limit_s, "gap": 0.25}
    best = _solve(wanted, profiles, np.sort(chosen), None, options)
    order = np.concatenate([chosen, np.setdiff1d(_by_usefulness(wanted, profiles), chosen, assume_unique=True)])
    size = len(chosen)
    while size < min(limit, len(order)):
        size = min(2 * size, limit, len(order))
        larger = _solve(wanted, profiles, np.sort(order[:size]), None, options)
        if larger.duration_ms >= best.duration_ms:
            return best
        best = larger
    return best


def _request(request: ArrayLike, profiles: Profiles) -> IntArray:
    wanted = np.asarray(request, np.int64)
    categories = profiles.have.shape[1]
    require(wanted.shape == (categories,), f"request must have {categories} entries", request=wanted.tolist())
    require(
        bool((wanted >= 0).all()) and wanted.sum() > 0, "request must be >= 0 and not all 0", request=wanted.tolist()
    )
    return wanted


def _check_supply(wanted: IntArray, profiles: Profiles, budget: int | None) -> None:
    require(budget is None or budget >= 1, "budget must be >= 1 or None", budget=budget)
    short = np.flatnonzero(profiles.have.sum(axis=0) < wanted)
    if len(short):
        j = int(short[0])
        raise _infeasible(f"category {j}: {int(wanted[j])} samples, the clients have {int(profiles.have[:, j].sum())}")


def _infeasible(given: str) -> PolicyError:
    hint = "ask for fewer samples or allow more clients"
    return PolicyError(report([Problem("select_by_category", given, "a request that can be met", hint)]))


def _cover(wanted: IntArray, profiles: Profiles) -> IntArray:
    """Clients that cover the request together: always the one with most samples of what is still missing."""
    missing, chosen = wanted.copy(), []
    left = np.ones(len(profiles.have), np.bool_)
    while missing.any():
        gain = np.minimum(profiles.have, missing).sum(axis=1) * left
        best = int(np.argmax(gain))
        chosen.append(best)
        left[best] = False
        missing = np.maximum(missing - profiles.have[best], 0)
    return np.array(chosen)


def _by_usefulness(wanted: IntArray, profiles: Profiles) -> IntArray:
    """Clients with something requested, the fastest for what they have first."""
    useful = np.minimum(profiles.have, wanted).sum(axis=1)
    pace = profiles.ms_per_sample + profiles.transfer_ms / np.maximum(useful, 1)
    order = np.argsort(pace, kind="stable")
    return np.asarray(order[useful[order] > 0])


def _solve(
    wanted: IntArray, profiles: Profiles, clients: IntArray, budget: int | None, options: dict[str, float]
) -> TestPlan:
    """The MILP on some clients; variables are q (clients x categories), z (clients), t."""
    have = np.minimum(profiles.have[clients], wanted)
    n, categories = have.shape
    size = n * categories + n + 1
    cost = np.zeros(size)
    cost[-1] = 1.0
    upper = np.concatenate([have.ravel(), np.ones(n), [np.inf]])
    constraints = _constraints(wanted, profiles, clients, have, budget)
    with quiet_stdout():  # HiGHS prints some lines whatever its options say
        result = milp(
            cost,
            integrality=np.concatenate([np.ones(size - 1), [0]]),
            bounds=Bounds(0, upper),
            constraints=constraints,
            options={"time_limit": options["time_limit"], "mip_rel_gap": options["gap"]},
        )
    if result.x is None:
        raise _infeasible(f"the solver found no plan: {result.message}")
    q = np.rint(result.x[: n * categories]).astype(np.int64).reshape(n, categories)
    used = q.sum(axis=1) > 0
    q, clients = q[used], clients[used]
    ends = profiles.ms_per_sample[clients] * q.sum(axis=1) + profiles.transfer_ms[clients]
    return TestPlan(clients, q, float(ends.max()), float(result.mip_gap))


def _constraints(
    wanted: IntArray, profiles: Profiles, clients: IntArray, have: IntArray, budget: int | None
) -> Sequence[Any]:
    n, categories = have.shape
    per_client = sparse.kron(sparse.eye(n), np.ones((1, categories)))
    per_category = sparse.kron(np.ones((1, n)), sparse.eye(categories))
    speed = sparse.diags(profiles.ms_per_sample[clients])
    transfer = sparse.diags(profiles.transfer_ms[clients])
    nothing = sparse.csr_matrix((categories, n + 1))
    ends = sparse.hstack([speed @ per_client, transfer, -np.ones((n, 1))]).tocsr()
    only_chosen = sparse.hstack([sparse.eye(n * categories), _per_entry(have), np.zeros((n * categories, 1))]).tocsr()
    budgeted = np.concatenate([np.zeros(n * categories), np.ones(n), [0.0]])
    return [
        LinearConstraint(ends, -np.inf, 0),
        LinearConstraint(sparse.hstack([per_category, nothing]).tocsr(), wanted, wanted),
        LinearConstraint(only_chosen, -np.inf, 0),
        LinearConstraint(budgeted, 0, n if budget is None else budget),
    ]


def _per_entry(have: IntArray) -> Any:
    """-have_ij at row (i, j), column i: q_ij <= have_ij z_i."""
    n, categories = have.shape
    rows = np.arange(n * categories)
    return sparse.csr_matrix((-have.ravel().astype(np.float64), (rows, rows // categories)), (n * categories, n))
