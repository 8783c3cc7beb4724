"""evsim sweep, compare and report, from the command line."""

from __future__ import annotations

import pandas as pd
import pytest
from typer.testing import CliRunner

from evsim.cli import app
from evsim.cli.study_commands import _caution
from evsim.study import Study
from tests.results.hand_made import write
from tests.results.test_comparison import arm

HOUR = 3_600_000


def call(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture
def runs(tmp_path):
    folders = []
    for kind, crossing in (("uniform", 4), ("oort", 2)):
        for seed in (0, 1):
            curve = tuple((hour * HOUR, hour, 0.9 if hour >= crossing + seed else 0.1) for hour in range(11))
            text = f'name = "x"\nseed = {seed}\n[selection]\nkind = "{kind}"\n'
            folder = tmp_path / f"{kind}-{seed}"
            write(folder, rows=(), curve=curve, end=10 * HOUR, seed=seed, scenario=text)
            folders.append(folder)
    return folders


def test_compare_prints_a_table_and_writes_csv_and_png(runs, tmp_path):
    done = call("compare", *runs, "--running-mean", 1, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "time to accuracy 0.8, crossed by the mean of 1 evaluations" in done.output
    assert "1.83 [" in done.output  # root of 4/2 times 5/3
    table = pd.read_csv(tmp_path / "out" / "comparison.csv", index_col="arm")
    assert table.loc["selection.kind=oort", "mean_h"] == pytest.approx(6**0.5, rel=1e-5)
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_compare_takes_another_baseline(runs):
    done = call("compare", *runs, "--running-mean", 1, "--baseline", "selection.kind=oort")
    assert "0.55 [" in done.output


def test_compare_says_what_speaks_against_it(runs):
    done = call("compare", *runs, "--running-mean", 1)
    assert "caveat: fewer than 5 seeds" in done.output
    assert "(2 seeds); run 5 seeds or more" in done.output
    assert done.output.count("caveat: rounds fail and their work is lost (1 of 3)") == 1
    assert "[4 of 4 runs, the measure is the first's]" in done.output


def test_compare_goes_by_any_metric_in_its_direction(runs):
    done = call("compare", *runs, "--running-mean", 1, "--metric", "loss", "--target", 0.5)
    assert "time to loss 0.5, crossed by" in done.output
    assert "1.83 [" in done.output
    assert call("compare", *runs, "--running-mean", 1, "--metric", "loss", "--at-most", 0.5).exit_code == 0
    for wrong, told in (
        (("--metric", "loss", "--at-least", 0.5), "smaller is better, so a target of it is never at_least"),
        (("--metric", "loss"), "the runs name none for loss"),
        (("--target", 80), "must lie in (0, 1], but got target=80; did you mean 0.8?"),
        (("--metric", "churn", "--target", 1), "which way churn is better is not known"),
        (("--target", 0.5, "--at-least", 0.5), "give one of --target, --at-least, --at-most"),
    ):
        done = call("compare", *runs, *wrong)
        assert done.exit_code == 2, wrong
        assert told in done.output


def test_describe_of_a_run_says_its_caveats(runs):
    assert "rounds fail and their work is lost (1 of 3)" in call("describe", runs[0]).output


def test_compare_says_what_is_wrong_with_exit_code_2(runs, tmp_path):
    done = call("compare", runs[0], tmp_path / "nowhere")
    assert done.exit_code == 2
    assert "no such folder; expected the folder of a run" in done.output
    assert "Traceback" not in done.output
    assert call("compare", *runs, "--running-mean", 0).exit_code == 2


def test_report_writes_one_page_beside_the_run_or_where_asked(runs, tmp_path):
    done = call("report", runs[0])
    assert done.exit_code == 0, done.output
    assert (runs[0] / "report.html").is_file()
    assert call("report", runs[0], "--out", tmp_path / "page.html").exit_code == 0
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_report_of_nothing_is_refused(tmp_path):
    done = call("report", tmp_path)
    assert done.exit_code == 2
    assert "expected the folder of a run" in done.output


def test_a_study_says_the_caveats_of_its_scenarios_once_before_it_runs(capsys):
    arms = {"a": (), "b": ("algorithm=fedbuff",), "c": ("algorithm=fedbuff", "selection.kind=oort")}
    _caution(Study(name="x", scenario="quickstart", arms=arms, seeds=(0, 1)))
    lines = [line for line in capsys.readouterr().err.splitlines() if "buffer_mean divides" in line]
    assert len(lines) == 1
    assert lines[0].startswith("evsim: caveat: ")
    assert lines[0].endswith("[b, c]")


def test_sweep_of_a_wrong_study_makes_nothing(tmp_path):
    (tmp_path / "s.toml").write_text('scenario = "quickstart"\nseeds = 0\n')
    done = call("sweep", tmp_path / "s.toml", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "2 problems" in done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        (
            {"uniform": [4], "oort": [2]},
            ["2.00 h [one run: no interval]", "fewer than 5 seeds", "(1 seed has no interval)"],
        ),
        ({"uniform": [None], "oort": [None]}, ["0/1", "not reached"]),
        ({"uniform": [4, 8]}, ["2/2", "baseline"]),
        ({"uniform": [None]}, ["0/1", "baseline", "not reached"]),
    ],
)
def test_compare_of_few_runs_or_of_runs_that_never_arrive_says_what_there_is(tmp_path, arms, words):
    paths = [path for kind, times in arms.items() for path in arm(tmp_path, kind, times)]
    done = call("compare", *paths, "--running-mean", 1, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    printed = " ".join(done.output.split())
    assert [each for each in words if each not in printed] == []
    assert "nan" not in printed
    assert "inf" not in printed
    table = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert table["runs"].tolist() == [len(times) for times in arms.values()]
    expected = [1.0, *([2.0] if None not in arms["uniform"] else [1.0])]  # those that never arrive are identical runs
    assert table["speedup"].tolist() == pytest.approx(expected[: len(arms)], rel=1e-5)
    assert table["reached"].tolist() == [sum(time is not None for time in times) for times in arms.values()]
