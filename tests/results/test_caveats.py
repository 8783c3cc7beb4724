"""What a comparison says against itself: the same, equal on the grid, coarse, few, and arms that differ in more."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from evsim.base.errors import RunFolderError
from evsim.results.arms import load_arms
from evsim.results.caveats import comparison_caveats, counted, unsaid
from evsim.results.comparison import compare, in_words
from evsim.results.report import study_page
from evsim.results.standing import STUDY_FILE
from evsim.results.summary import summary_table
from tests.results.hand_made import write

HOUR = 3_600_000


def runs(folder, kind, times, *, end=40, low=0.2, trigger="grid", spacing=HOUR, **more):
    """A run per seed that crosses 0.8 at its hour, evaluated every hour; None: never."""
    paths = []
    for seed, time in enumerate(times):
        curve = tuple(
            (hour * spacing, hour, 0.9 if time is not None and hour >= time else low) for hour in range(end + 1)
        )
        path = folder / f"{kind}-{seed}"
        text = f'name = "tiny"\nseed = {seed}\n[selection]\nkind = "{kind}"\n'
        write(path, rows=(), curve=curve, end=end * spacing, seed=seed, scenario=text, trigger=trigger, **more)
        paths.append(path)
    return paths


def keys(arms):
    return {each.caveat.key: each.caveat for each in comparison_caveats(arms) if each.runs == 0}


def row(arms):
    return compare(arms).iloc[1]


@pytest.mark.parametrize("times", [(20, 30), (20, None), (None, None), (20,)])
def test_identical_arms_give_exactly_one_and_are_called_identical(tmp_path, times):
    arms = load_arms(runs(tmp_path, "uniform", times) + runs(tmp_path, "oort", times), running_mean=1)
    found = row(arms)
    assert (found["speedup"], found["speedup_low"], found["speedup_high"], found["bound"]) == (1.0, 1.0, 1.0, "")
    assert found["same"] == "identical runs"
    assert in_words(arms, compare(arms))[2][4] == "1 (identical runs)"
    assert "identical_runs" in keys(arms)
    assert "equal_on_grid" not in keys(arms)


def test_another_timeline_is_not_identical_even_if_no_evaluation_shows_it(tmp_path):
    paths = runs(tmp_path, "uniform", [20, 30], timeline_hash="a") + runs(tmp_path, "oort", [20, 30], timeline_hash="b")
    assert row(load_arms(paths, running_mean=1))["same"] == "equal on the grid"


def test_equal_crossings_are_known_up_to_the_grid_only(tmp_path):
    arms = load_arms(runs(tmp_path, "uniform", [20, 30]) + runs(tmp_path, "oort", [20, 30], low=0.3), running_mean=1)
    found = row(arms)
    assert (found["speedup"], found["same"]) == (1.0, "equal on the grid")
    # both crossed between 19 and 20 hours, and between 29 and 30
    bound = math.sqrt(19 / 20 * 29 / 30)
    assert (found["speedup_low"], found["speedup_high"]) == pytest.approx((bound, 1 / bound), rel=1e-12)
    assert keys(arms)["equal_on_grid"].measure == "2 of 2 seeds"


def test_every_two_arms_that_are_the_same_are_named_not_the_baseline_alone(tmp_path):
    paths = runs(tmp_path, "uniform", [30, 31]) + runs(tmp_path, "oort", [20, 30]) + runs(tmp_path, "refl", [20, 30])
    text = keys(load_arms(paths, running_mean=1))["identical_runs"].text
    assert text.endswith(": selection.kind=refl and selection.kind=oort")


def test_few_seeds_are_said_to_be_few(tmp_path):
    few = load_arms(runs(tmp_path / "a", "uniform", range(20, 24)), running_mean=1)
    assert keys(few)["few_seeds"].measure == "4 seeds"
    enough = load_arms(runs(tmp_path / "b", "uniform", range(20, 25)), running_mean=1)
    assert keys(enough) == {}


def test_a_grid_too_coarse_for_the_times_found_is_said_to_be_so(tmp_path):
    fine = load_arms(runs(tmp_path / "a", "uniform", [60], end=70), running_mean=5)
    assert "coarse_grid" not in keys(fine)
    coarse = load_arms(runs(tmp_path / "b", "uniform", [40], end=70), running_mean=5)
    found = keys(coarse)["coarse_grid"]
    assert (found.measure, found.remedy) == ("5h of 1d 20h for tiny", "evaluation.every of 52min or less")


def test_a_target_that_no_training_was_needed_for(tmp_path):
    arms = load_arms(runs(tmp_path, "uniform", [0, 20]) + runs(tmp_path, "oort", [10, 20]), running_mean=1)
    assert keys(arms)["reached_untrained"].measure == "1 of 4 runs"
    assert row(arms)["bound"] == "unknown"


def test_seeds_that_have_no_partner_are_told(tmp_path):
    arms = load_arms(runs(tmp_path, "uniform", [20, 30]) + runs(tmp_path, "oort", [10]), running_mean=1)
    assert keys(arms)["unpaired_seeds"].measure == "1 of 2 seeds in common"
    assert (row(arms)["pairs"], row(arms)["speedup"]) == (1, pytest.approx(2.0))


def test_steps_at_different_rates_make_no_common_grid(tmp_path):
    every = {"trigger": "step", "end": 20}
    paths = runs(tmp_path, "uniform", [10, 12], **every) + runs(tmp_path, "oort", [10, 12], spacing=HOUR // 3, **every)
    told = (
        r"(?s)in 6h 40min 7 evaluations of selection.kind=uniform, 21 of selection.kind=oort.*set evaluation.every to a"
    )
    with pytest.raises(RunFolderError, match=told):
        load_arms(paths, running_mean=1)
    same = runs(tmp_path / "b", "uniform", [10, 12], **every) + runs(tmp_path / "b", "oort", [9, 12], **every)
    assert len(load_arms(same, running_mean=1).runs) == 2


BASE = {"algorithm": "fedavg", "aggregation": {"cohort_goal": 20}, "client_rule": {"kind": "sgd", "learning_rate": 0.1}}


@pytest.mark.parametrize(
    ("other", "named", "said"),
    [
        ({"aggregation": {"cohort_goal": 30}}, {"aggregation.cohort_goal"}, []),
        ({"aggregation": {"cohort_goal": 30}}, {"aggregation"}, []),
        ({"aggregation": {"cohort_goal": 30}}, set(), ["aggregation.cohort_goal is 30, not 20"]),
        ({"client_rule": {"kind": "fedprox", "learning_rate": 0.1, "mu": 1}}, {"client_rule.kind"}, []),
        (
            {"client_rule": {"kind": "fedprox", "learning_rate": 0.5, "mu": 1}},
            {"client_rule.kind"},
            ["client_rule.learning_rate is 0.5, not 0.1"],
        ),
        (
            {"client_rule": {"kind": "fedprox", "learning_rate": 0.1, "mu": 1}, "algorithm": "fedprox"},
            {"algorithm"},
            [],
        ),
        ({"start": "18:00"}, {"algorithm"}, ["start is 18:00, not unset"]),
    ],
)
def test_keys_that_differ_though_no_override_says_so(other, named, said):
    assert unsaid(BASE, BASE | other, named) == said


def test_a_study_says_in_what_its_arms_differ_without_a_word(tmp_path):
    arms = {}
    for arm, rate in (("few", 0.1), ("many", 0.5)):
        text = f'name = "s"\n[aggregation]\ncohort_goal = {len(arm)}\n[client_rule]\nlearning_rate = {rate}\n'
        write(tmp_path / arm / "seed-0", rows=(), scenario=text)
        arms[arm] = {"folder": arm, "overrides": [f"aggregation.cohort_goal={len(arm)}"]}
    told = {"name": "s", "seeds": [0], "arms": arms, "target": {"metric": "accuracy", "at_least": 0.5}}
    told["executors"] = [{"executor": {"kind": "serial", "threads": 1}, "why": "measured", "arms": ["few", "many"]}]
    (tmp_path / STUDY_FILE).write_text(json.dumps(told))
    found = load_arms([tmp_path], running_mean=1)
    assert keys(found)["differs_in_more"].measure == "client_rule.learning_rate is 0.5, not 0.1"
    page = study_page(found)
    assert "many differs from few in more than its overrides say" in page
    assert "Trained by serial (threads = 1, measured): few, many" in page


def test_caveats_of_runs_are_said_once_with_how_many_runs_they_concern(tmp_path):
    old = "an old sentence"
    new = {"key": "diverged", "text": "<b>it diverged</b>", "measure": "step 3", "remedy": "slower"}
    first = write(tmp_path / "a", caveats=[old, new])
    second = write(tmp_path / "b", seed=1, caveats=[new | {"measure": "step 9"}])
    failed = "rounds fail and their work is lost (1 of 3); a later reporting_deadline, more over_commitment, or fewer "
    failed += "minimum_reports"
    lines = [str(each) for each in counted([first, second]) if each.caveat.key != "few_evaluations"]
    assert lines[:2] == [
        "<b>it diverged</b> (step 3); slower [2 of 2 runs, the measure is the first's]",
        f"{failed} [2 of 2 runs, the measure is the first's]",
    ]
    assert f"{old} [1 of 2 runs]" in lines
    said = [text for label, text in summary_table(first) if label == "caveat"]
    assert said[:2] == [old, "<b>it diverged</b> (step 3); slower"]


def test_what_the_manifest_says_goes_before_what_the_tables_show(tmp_path):
    said = {"key": "failed_rounds", "text": "as the run saw it", "measure": "", "remedy": ""}
    run = write(tmp_path / "a", caveats=[said])
    assert [each.text for each in run.caveats if each.key == "failed_rounds"] == ["as the run saw it"]


def test_the_summary_of_a_buffer_says_how_many_slots_were_held_for_nobody(tmp_path):
    text = '[aggregation]\nkind = "buffered"\nconcurrency = 4\nbuffer_size = 1\n'
    run = write(tmp_path / "a", rows=(("DROPPED", 2, 0, 60, 40, 20, 0, -1),), scenario=text)
    assert dict(summary_table(run))["slots held by lost devices"] == "0.0 of 4 on average"


def test_the_page_lists_every_caveat_and_no_other():
    root = Path(__file__).parents[2]
    page = (root / "docs" / "results.md").read_text(encoding="utf-8")
    rooms = ("run/caveats.py", "results/caveats.py", "results/reading.py")
    sources = [(root / "evsim" / room).read_text(encoding="utf-8") for room in rooms]
    made = {key for source in sources for key in re.findall(r'Caveat\(\s*"(\w+)"', source)}
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == made
