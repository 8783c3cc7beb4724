"""Arms compared by hand: pairs, censored runs, bounds, and runs that cannot be compared."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evsim.base.errors import RunFolderError
from evsim.results.arms import load_arms
from evsim.results.comparison import compare, in_words, speedup, t_interval
from tests.results.hand_made import write

HOUR = 3_600_000
NAN = {"speedup": math.nan, "speedup_low": math.nan, "speedup_high": math.nan}


def arm(folder, kind, times, *, end=10, every=1, low=0.2, **more):
    """Runs that cross 0.8 at the given hours, evaluated every hour; None: never."""
    paths = []
    for seed, time in enumerate(times):
        curve = tuple(
            (hour * HOUR, hour, 0.9 if time is not None and hour >= time else low) for hour in range(0, end + 1, every)
        )
        text = f'name = "tiny"\nseed = {seed}\n[selection]\nkind = "{kind}"\n' + more.get("toml", "")
        path = folder / f"{kind}-{seed}"
        extra = {key: value for key, value in more.items() if key != "toml"}
        write(path, rows=(), curve=curve, end=end * HOUR, seed=seed, scenario=text, **extra)
        paths.append(path)
    return paths


def test_paired_speed_up_by_hand(tmp_path):
    paths = arm(tmp_path, "uniform", [4, 8]) + arm(tmp_path, "oort", [2, 2])
    arms = load_arms(paths, running_mean=1)
    assert list(arms.runs) == ["selection.kind=uniform", "selection.kind=oort"]
    assert arms.times()["selection.kind=uniform"] == {0: 4.0 * HOUR, 1: 8.0 * HOUR}
    assert arms.horizon_ms() == 8 * HOUR
    row = compare(arms).loc["selection.kind=oort"]
    assert row["speedup"] == pytest.approx(math.sqrt(2 * 4), rel=1e-12)
    # logs are log 2 and log 4: mean 1.5 log 2, standard error log 2 / 2, t of one degree of freedom 12.706
    half = 12.706204736 * math.log(2) / 2
    assert row["speedup_low"] == pytest.approx(math.exp(1.5 * math.log(2) - half), rel=1e-9)
    assert row["speedup_high"] == pytest.approx(math.exp(1.5 * math.log(2) + half), rel=1e-9)
    assert row["mean_h"] == pytest.approx(2.0, rel=1e-12)
    assert (row["median_h"], row["saved_h"], row["bound"], row["pairs"]) == (2.0, 4.0, "", 2)
    base = compare(arms).loc["selection.kind=uniform"]
    # logs are log 4 and log 8: mean 2.5 log 2, the same half width
    assert base["mean_h"] == pytest.approx(math.sqrt(4 * 8), rel=1e-12)
    assert base["mean_low_h"] == pytest.approx(math.exp(2.5 * math.log(2) - half), rel=1e-9)
    assert compare(arms).loc["selection.kind=uniform", "speedup"] == 1.0


def test_the_headline_is_the_crossing_of_the_mean_of_five(tmp_path):
    arms = load_arms(arm(tmp_path, "uniform", [3]))
    assert arms.running_mean == 5
    # four of five at 0.9 give 0.76, five give 0.9
    assert arms.times() == {"tiny": {0: 7.0 * HOUR}}


def test_a_censored_run_counts_to_the_horizon_and_gives_a_bound(tmp_path):
    paths = arm(tmp_path, "uniform", [4, 8]) + arm(tmp_path, "oort", [2, None], end=10)
    arms = load_arms(paths, running_mean=1)
    table = compare(arms)
    row = table.loc["selection.kind=oort"]
    assert (row["reached"], row["runs"], row["bound"]) == (1, 2, "at most")
    assert row["mean_h"] == pytest.approx(math.sqrt(2 * 10), rel=1e-12)
    assert row["speedup"] == pytest.approx(math.sqrt((4 / 2) * (8 / 10)), rel=1e-12)
    assert math.isnan(row["speedup_low"])
    assert math.isinf(row["median_h"])
    words = in_words(arms, table)[2]
    assert words[1:3] == ("1/2", "not reached")
    assert words[4] == "at most 1.26"


def test_restricted_mean_watches_every_run_equally_long(tmp_path):
    paths = arm(tmp_path, "uniform", [4, 9]) + arm(tmp_path, "oort", [2, None], end=6)
    arms = load_arms(paths, running_mean=1)
    assert arms.horizon_ms() == 6 * HOUR
    table = compare(arms)
    assert table["mean_h"].tolist() == pytest.approx([math.sqrt(4 * 6), math.sqrt(2 * 6)], rel=1e-12)
    assert table.loc["selection.kind=oort", "saved_h"] == 1.0


def test_seeds_that_cross_at_one_evaluation_are_known_up_to_the_grid_only(tmp_path):
    row = compare(load_arms(arm(tmp_path, "uniform", [4, 4, 4]), running_mean=1)).iloc[0]
    assert (row["mean_low_h"], row["mean_high_h"]) == pytest.approx((3.0, 4.0), rel=1e-12)
    assert row["mean_h"] == pytest.approx(4.0, rel=1e-12)


def test_when_nobody_arrives_there_is_no_ratio(tmp_path):
    paths = arm(tmp_path, "uniform", [None]) + arm(tmp_path, "oort", [None], low=0.3)
    arms = load_arms(paths, running_mean=1)
    row = compare(arms).loc["selection.kind=oort"]
    assert (row["reached"], row["bound"], row["mean_h"]) == (0, "unknown", pytest.approx(10.0, rel=1e-12))
    assert math.isnan(row["speedup"])
    assert math.isnan(row["mean_low_h"])
    assert in_words(arms, compare(arms))[2][3:5] == (
        "10.00 h [none arrived: no interval]",
        "unknown: too many runs never arrived",
    )


def test_pairs_that_contradict_give_no_bound():
    assert speedup([None, 5.0], [3.0, None], 10.0) == pytest.approx(NAN | {"bound": "unknown"}, nan_ok=True)
    found = speedup([None, 4.0], [5.0, 2.0], 10.0)
    assert (found["bound"], found["speedup"]) == ("at least", pytest.approx(2.0, rel=1e-12))


def test_one_seed_has_no_interval():
    mean, low, high = t_interval(np.array([3.0]))
    assert mean == 3.0
    assert math.isnan(low)
    assert math.isnan(high)


@given(times=st.lists(st.tuples(st.floats(1, 1e6), st.floats(1, 1e6)), min_size=1, max_size=8))
@settings(derandomize=True, max_examples=40)
def test_speed_up_of_swapped_arms_is_the_inverse(times):
    base, other = [list(side) for side in zip(*times, strict=True)]
    there, back = speedup(base, other, 1e7), speedup(other, base, 1e7)
    assert there["speedup"] * back["speedup"] == pytest.approx(1.0, rel=1e-9)
    if len(times) > 1:
        assert there["speedup_low"] <= there["speedup"] * (1 + 1e-12)
        assert there["speedup_low"] * back["speedup_high"] == pytest.approx(1.0, rel=1e-6)


@given(
    base=st.lists(st.one_of(st.none(), st.floats(1, 100)), min_size=1, max_size=6),
    seed=st.integers(0, 100),
)
@settings(derandomize=True, max_examples=40)
def test_a_bound_is_true_whatever_the_censored_time_would_have_been(base, seed):
    draws = np.random.default_rng(seed)
    arm_times = [float(draws.uniform(1, 100)) for _ in base]
    found = speedup(base, arm_times, 100.0)
    truth = [100.0 * (1 + draws.exponential()) if time is None else time for time in base]
    ratio = math.exp(np.mean(np.log(np.array(truth) / np.array(arm_times))))
    if None in base:
        assert found["bound"] == "at least"
        assert found["speedup"] <= ratio * (1 + 1e-12)
    else:
        assert found["speedup"] == pytest.approx(ratio, rel=1e-9)


def test_runs_of_different_data_are_refused(tmp_path):
    paths = arm(tmp_path, "uniform", [4], toml='[data]\ndataset = "digits"\n')
    paths += arm(tmp_path, "oort", [4], toml='[data]\ndataset = "synthetic"\n')
    with pytest.raises(RunFolderError, match=r"data.dataset is \{'data.dataset': 'synthetic'\}.*not comparable"):
        load_arms(paths, running_mean=1)


def test_arms_on_different_grids_are_refused(tmp_path):
    paths = arm(tmp_path, "uniform", [4]) + arm(tmp_path, "oort", [4], every=2)
    with pytest.raises(RunFolderError, match=r"evaluated every 2h; expected every 1h"):
        load_arms(paths, running_mean=1)


def test_a_run_that_stopped_at_its_target_has_no_running_mean(tmp_path):
    paths = arm(tmp_path, "uniform", [4], end=10)
    write(
        tmp_path / "stopped",
        rows=(),
        scenario='name = "tiny"\n[selection]\nkind = "oort"\n',
        end=HOUR,
        curve=((0, 0, 0.1), (HOUR, 1, 0.9)),
    )
    manifest = tmp_path / "stopped" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("virtual_time", "target_accuracy"))
    with pytest.raises(RunFolderError, match=r"stopped when it first reached its target.*--running-mean 1"):
        load_arms([*paths, tmp_path / "stopped"])
    assert len(load_arms([*paths, tmp_path / "stopped"], running_mean=1).runs) == 2


def test_two_runs_of_one_seed_are_refused(tmp_path):
    paths = arm(tmp_path / "a", "uniform", [4]) + arm(tmp_path / "b", "uniform", [5])
    with pytest.raises(RunFolderError, match="several runs of seed 0; expected one run per arm and seed"):
        load_arms(paths, running_mean=1)


def test_a_baseline_that_is_no_arm_and_a_missing_target_are_both_told(tmp_path):
    paths = arm(tmp_path, "uniform", [4], target=None)
    with pytest.raises(RunFolderError, match=r"(?s)2 problems.*--target.*baseline: 'unifrom'"):
        load_arms(paths, running_mean=1, baseline="unifrom")


def test_a_metric_that_is_not_there_is_told(tmp_path):
    with pytest.raises(RunFolderError, match="the runs name none for f1"):
        load_arms(arm(tmp_path / "a", "uniform", [4]), running_mean=1, metric="f1")
    arms = load_arms(arm(tmp_path, "uniform", [4]), running_mean=1, metric="f1", target=0.5)
    with pytest.raises(RunFolderError, match="no metric 'f1'"):
        compare(arms)


def test_a_crossing_at_time_zero_is_the_shortest_and_not_the_longest(tmp_path):
    row = compare(load_arms(arm(tmp_path, "uniform", [0, 8]), running_mean=1)).iloc[0]
    assert (row["reached"], row["median_h"]) == (2, 4.0)
    assert row["mean_h"] < 1


def test_the_final_metric_and_its_difference_in_pairs_by_hand(tmp_path):
    paths = arm(tmp_path, "uniform", [4, 8], low=0.2) + arm(tmp_path, "oort", [2, 10], low=0.4)
    table = compare(load_arms(paths, running_mean=2))
    # the last two of eleven evaluations: 0.9 where the run crossed by hour 9, else one at the low value
    assert table["final"].tolist() == pytest.approx([0.9, (0.9 + 0.65) / 2], rel=1e-12)
    row = table.loc["selection.kind=oort"]
    assert row["final_difference"] == pytest.approx(-0.125, rel=1e-12)
    half = 12.706204736 * 0.125  # of 0 and -0.25: standard error 0.125
    assert row["final_difference_low"] == pytest.approx(-0.125 - half, rel=1e-9)
    assert row["final_difference_high"] == pytest.approx(-0.125 + half, rel=1e-9)
    head, *rows = in_words(load_arms(paths, running_mean=2), table)
    assert head[-3:] == ("final accuracy (difference)", "uploads", "bytes")
    assert rows[0][-3] == "0.900"
    assert rows[1][-3].startswith("0.775 (-0.125 [")


def sending(folder, kind, time, ended, *, end=10):
    """One run that crosses at an hour, of which tasks end at the given hours; 1,000 bytes down and 100 up each."""
    curve = tuple((h * HOUR, h, 0.9 if time is not None and h >= time else 0.2) for h in range(end + 1))
    rows = [(outcome, 0, 0, hour * HOUR, 20, 50, 30, 0) for outcome, hour in ended]
    text = f'name = "tiny"\n[selection]\nkind = "{kind}"\n'
    write(folder / kind, rows=rows, curve=curve, end=end * HOUR, scenario=text)
    return folder / kind


def test_uploads_and_bytes_until_the_target_are_counted_and_at_least_where_nobody_arrives(tmp_path):
    ended = [("AGGREGATED", 1), ("DROPPED", 2), ("LATE", 3), ("AGGREGATED", 4), ("AGGREGATED", 9)]
    paths = [sending(tmp_path, "uniform", None, ended), sending(tmp_path, "oort", 4, ended)]
    arms = load_arms(paths, running_mean=1)
    table = compare(arms)
    assert table["uploads"].tolist() == [4, 3]  # a lost one is no upload; the last one comes after the crossing
    assert table["traffic_bytes"].tolist() == [5_500, 4_400]
    assert table["spent_bound"].tolist() == ["at least", ""]
    assert table.loc["selection.kind=oort", "bound"] == "at least"  # only the baseline never arrives
    words = in_words(arms, table)
    assert words[1][-2:] == ("at least 4", "at least 5.5 kB")
    assert words[2][4] == "at least 2.50"


def test_a_metric_where_smaller_is_better_is_compared_in_its_own_direction(tmp_path):
    for kind, falls in (("uniform", 8), ("oort", 4)):
        curve = tuple((h * HOUR, h, 10.0 if h >= falls else 80.0) for h in range(11))
        text = f'name = "tiny"\n[selection]\nkind = "{kind}"\n'
        write(tmp_path / kind, rows=(), curve=curve, end=10 * HOUR, scenario=text, metric="perplexity", target=None)
    arms = load_arms([tmp_path / "uniform", tmp_path / "oort"], target=40, running_mean=1)
    assert (arms.metric, arms.goal.at_most) == ("perplexity", 40)
    table = compare(arms)
    assert table.loc["selection.kind=oort", "speedup"] == pytest.approx(2.0)
    assert in_words(arms, table)[0][-3] == "final perplexity (difference)"
    told = load_arms([tmp_path / "oort"], target=40, running_mean=1).runs["tiny"][0]
    assert told.headline == "perplexity"
    assert told.curve().value_at(10 * HOUR) == 10.0
