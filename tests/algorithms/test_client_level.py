"""What one client adds to a step is bounded, however many of its reports the step holds, under every aggregation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evsim.algorithms.base import ReportMeta, StatefulMerge, StepInfo
from evsim.algorithms.dp import DpMean
from evsim.algorithms.mean import Mean
from evsim.algorithms.norm_clip import NormClip
from evsim.base.errors import TrainingError
from evsim.run.simulation import Simulation
from evsim.scenario import Scenario

BASE = """
name = "short"
precision = "float64"
algorithm = "dp_fedavg"
model = "softmax"
stop = { server_steps = 6 }
client_rule = { kind = "sgd", learning_rate = 0.1, batch_size = 10 }
data = { dataset = "digits", partition = { kind = "dirichlet", alpha = 0.5, samples_per_client = 20 } }
population = { clients = 12, availability = "always", speed = "phones" }
cost = { model_bytes = 1_000_000, sample_scale = 60 }
"""
AGGREGATIONS = {
    "rounds": 'aggregation={ kind = "synchronous", cohort_goal = 6 }',
    "rounds that keep late reports": (
        'aggregation={ kind = "synchronous", cohort_goal = 8, reporting_deadline = "3 min", late_reports = "keep" }'
    ),
    "buffers": 'aggregation={ kind = "buffered", concurrency = 8, buffer_size = 6 }',
    "buffers and periods": 'aggregation={ kind = "buffered", concurrency = 8, buffer_size = 40, period = "20 min" }',
}
BOUND = 0.05


@dataclass(frozen=True, kw_only=True)
class Watched(StatefulMerge):
    """One of the rules, which keeps what it was given, so that a test can merge it again."""

    rule: Literal["dp", "norm_clip"]
    adaptive: bool = False

    steps: ClassVar[list] = []  # (rule, server, info, reports)
    minimum_updates = 1

    @property
    def inner(self):
        if self.rule == "norm_clip":
            return NormClip(max_norm=BOUND)
        return DpMean(max_norm=BOUND, noise_multiplier=0.0, adaptive=self.adaptive)

    def init_state(self, model):
        return self.inner.init_state(model) if self.rule == "dp" else {}

    def init(self, server, info):
        return self.inner, server, info, []

    def add(self, acc, update, weight, meta):
        acc[-1].append((update, weight, meta))
        return acc

    def finish(self, acc, server, info):
        self.steps.append(acc)
        return _merged(*acc)[0]

    def next_state(self, acc, server, info):
        return self.inner.next_state(_merged(*acc)[1], server, info) if self.rule == "dp" else {}


def _merged(rule, server, info, reports):
    acc = rule.init(server, info)
    for report in reports:
        acc = rule.add(acc, *report)
    return rule.finish(acc, server, info), acc


def _sum(rule, server, info, reports):
    """The sum that the rule divides, as one vector."""
    merged, _ = _merged(rule, server, info, reports)
    if "model" not in merged:
        return 0.0
    scale = info.cohort_goal if isinstance(rule, DpMean) else sum(weight[""] for _, weight, _ in reports)
    return scale * torch.cat([leaf.reshape(-1) for leaf in merged["model"].values()]).numpy()


def _largest_part(rule, server, info, reports):
    """What the client that adds most adds, in units of what it may: the sum with it less the sum without it."""
    parts = []
    for client in {meta.client for *_, meta in reports}:
        others = [report for report in reports if report[2].client != client]
        heaviest = max(weight[""] for _, weight, meta in reports if meta.client == client)
        part = _sum(rule, server, info, reports) - _sum(rule, server, info, others)
        may = float(server["dp"]["max_norm"]) if isinstance(rule, DpMean) else heaviest * BOUND
        parts.append(np.linalg.norm(part) / may)
    return max(parts)


def _run_watched(folder, *overrides):
    """Six steps whose clients stay within the bound and reach it: else nothing was clipped."""
    Watched.steps.clear()
    (folder / "short.toml").write_text(BASE)
    Simulation(Scenario.load(folder / "short.toml", overrides)).run(folder / "run", None)
    assert len(Watched.steps) == 6
    largest = max(_largest_part(*step) for step in Watched.steps)
    assert 0.99 < largest <= 1 + 1e-12


@pytest.mark.filterwarnings("ignore::UserWarning")  # no amplification under buffers, and so on: tested elsewhere
@pytest.mark.parametrize("executor", ["serial", "batched"])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("rule", ["dp", "dp, adaptive", "norm_clip"])
def test_no_client_adds_more_than_it_may(rule, aggregation, executor, tmp_path):
    name, _, adaptive = rule.partition(", ")
    merge = f'merge={{ kind = "{__name__}:Watched", rule = "{name}", adaptive = {str(bool(adaptive)).lower()} }}'
    _run_watched(tmp_path, merge, AGGREGATIONS[aggregation], f'executor.kind="{executor}"')
    clients = [[meta.client for *_, meta in reports] for *_, reports in Watched.steps]
    repeats = any(len(set(own)) < len(own) for own in clients)
    assert repeats == (aggregation != "rounds")  # else there was nothing to bound
    stale = any(meta.staleness for *_, reports in Watched.steps for *_, meta in reports)
    assert stale == (aggregation != "rounds")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("selection", ["oort", "tifl", "power_of_choice"])
def test_no_client_adds_more_than_it_may_whoever_selects_while_late_reports_are_kept(selection, tmp_path):
    merge = f'merge={{ kind = "{__name__}:Watched", rule = "dp", adaptive = false }}'
    options = ', d = 10, query_timeout = "1 min"' if selection == "power_of_choice" else ""
    _run_watched(
        tmp_path,
        merge,
        AGGREGATIONS["rounds that keep late reports"],
        f'selection={{ kind = "{selection}"{options} }}',
        'executor.kind="serial"',
    )
    assert any(meta.staleness for *_, reports in Watched.steps for *_, meta in reports)


SERVER = {"model": {"w": torch.zeros(3, dtype=torch.float64)}, "buffers": {}}
UPDATES = st.lists(
    st.tuples(st.integers(0, 4), st.lists(st.floats(-9, 9, width=16), min_size=3, max_size=3), st.floats(0, 4)),
    min_size=1,
    max_size=9,
)


def _reports(drawn):
    """In the order of merges: by client, then by task."""
    found = []
    for task, (client, update, weight) in enumerate(sorted(drawn, key=lambda each: each[0])):
        payload = {"model": {"w": torch.tensor(update, dtype=torch.float64)}, "buffers": {}}
        found.append((payload, {"": weight}, ReportMeta(client, task, 1, 1, 0, 0)))
    return found


def _by_client(reports):
    """Client -> (its weights, its updates)."""
    found = {}
    for payload, weight, meta in reports:
        weights, updates = found.setdefault(meta.client, ([], []))
        weights.append(weight[""])
        updates.append(payload["model"]["w"].numpy())
    return {client: (np.array(weights), np.array(updates)) for client, (weights, updates) in found.items()}


@settings(max_examples=60)
@given(drawn=UPDATES)
def test_dp_clips_the_sum_of_a_clients_reports_and_counts_it_once(drawn):
    reports, info = _reports(drawn), StepInfo(0, 9, 7, len(drawn), 0)
    rule = DpMean(max_norm=2.0, noise_multiplier=0.0, adaptive=True, count_noise=0.0)
    server = {**SERVER, **rule.init_state(SERVER["model"])}
    merged, acc = _merged(rule, server, info, reports)
    sums = [updates.sum(0) for _, updates in _by_client(reports).values()]
    norms = [np.linalg.norm(each) for each in sums]
    expected = sum(each * min(1.0, 2.0 / norm) if norm else each for each, norm in zip(sums, norms, strict=True)) / 7
    np.testing.assert_allclose(merged["model"]["w"].numpy(), expected, rtol=1e-12, atol=1e-12)
    share = sum((norm <= 2.0) - 0.5 for norm in norms) / 7 + 0.5
    bound = float(rule.next_state(acc, server, info)["dp"]["max_norm"])
    assert bound == pytest.approx(2.0 * np.exp(-0.2 * (share - 0.5)), rel=1e-12)


@settings(max_examples=60)
@given(drawn=UPDATES)
def test_norm_clip_bounds_a_client_by_its_heaviest_report_and_divides_by_all_weights(drawn):
    reports, info = _reports(drawn), StepInfo(0, 9, 7, len(drawn), 0)
    merged, _ = _merged(NormClip(max_norm=2.0), SERVER, info, reports)
    total, weight = np.zeros(3), 0.0
    for weights, updates in _by_client(reports).values():
        part = weights @ updates
        norm, may = np.linalg.norm(part), 2.0 * weights.max()
        total += part * min(1.0, may / norm) if norm else part
        weight += weights.sum()
    if weight == 0:
        assert "model" not in merged
    elif weight > 1e-3:  # below that, the test's own sums lose their digits
        np.testing.assert_allclose(merged["model"]["w"].numpy(), total / weight, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", [DpMean(max_norm=1.0, noise_multiplier=0.0), NormClip(max_norm=1.0)])
def test_reports_out_of_order_are_refused_since_a_client_would_be_counted_twice(rule):
    reports = [_reports([(client, [1.0, 0.0, 0.0], 1.0)])[0] for client in (1, 0, 1)]
    server = {**SERVER, "dp": {"max_norm": torch.tensor(1.0)}}
    with pytest.raises(TrainingError, match="client 0 reports after client 1"):
        _merged(rule, server, StepInfo(0, 9, 3, 3, 0), reports)


def test_one_report_of_each_client_is_clipped_as_ever():
    """And nothing is clipped that is short enough: then norm_clip is the mean, to the last bit."""
    reports, info = _reports([(k, [0.1 * k, -0.3, 0.7 / (k + 1)], 1.0 + k) for k in range(5)]), StepInfo(0, 9, 5, 5, 0)
    found, mean = (_merged(rule, SERVER, info, reports)[0] for rule in (NormClip(max_norm=9.0), Mean()))
    assert torch.equal(found["model"]["w"], mean["model"]["w"])
