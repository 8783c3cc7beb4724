"""What runs with a caveat, that the remedy it names removes it, and that the command line says it once."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evsim.algorithms.compositions import COMPOSITIONS
from evsim.base.bundled import bundled
from evsim.cli import app
from evsim.scenario import Scenario
from evsim.scenario.caveats import caveats, sampling

BUFFER = "aggregation={ kind = 'buffered', concurrency = 20, buffer_size = 5 }"
PERIOD = "aggregation={ kind = 'buffered', concurrency = 20, buffer_size = 50, period = '5min' }"
SINGLE = "aggregation={ kind = 'buffered', concurrency = 20, buffer_size = 1 }"
KEEP = "aggregation.late_reports=keep"
DISCOUNT = "weighting={ kind = 'hinge_staleness' }"
IDEAL = (
    "aggregation.reporting_deadline=",
    "aggregation.over_commitment=",
    "population.availability=always",
    "algorithm=dp_fedavg",
)


def _caveats(*overrides: str) -> list[str]:
    return caveats(Scenario.load("quickstart", overrides))


@pytest.mark.parametrize("path", bundled("scenarios"), ids=lambda path: path.stem)
def test_a_bundled_scenario_has_none(path):
    assert caveats(Scenario.load(path)) == []


@pytest.mark.parametrize("name", sorted(set(COMPOSITIONS) - {"fedbuff", "fedasync", "dp_fedavg"}))
def test_a_method_of_rounds_has_none_in_rounds(name):
    assert _caveats(f"algorithm={name}") == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([BUFFER, "algorithm=scaffold"], ["guarantee does not carry over"]),
        ([BUFFER, "algorithm=dp_fedavg"], ["aggregation is not in synchronous rounds"]),
        (["algorithm=dp_fedavg"], ["(q = 1): clients are not always available, over-commitment favors fast clients"]),
        (
            [*IDEAL, "aggregation.pacing={ kind = 'quantile' }"],
            ["(q = 1): the reporting deadline leaves out slow clients"],
        ),
        (["algorithm=fedbuff"], ["divides by cohort_goal = 20, however few", "the weighting has nothing to discount"]),
        (["algorithm=fedasync"], ["buffer_size = 1, not for rounds", "the weighting has nothing to discount"]),
        ([BUFFER, "algorithm=fedasync"], ["in buffers of 5 merge mixing takes them in one after the other"]),
        ([PERIOD, "algorithm=fedbuff"], ["divides by buffer_size = 50, however few reports a period brought"]),
        (["merge.kind=refl"], ["merge refl is then the plain mean of the reports, without weights"]),
        ([DISCOUNT], ["the weighting has nothing to discount"]),
    ],
)
def test_what_is_said_of_each(overrides, said):
    found = _caveats(*overrides)
    assert len(found) == len(said)
    assert all(words in caveat for words, caveat in zip(said, found, strict=True))


@pytest.mark.parametrize(
    "overrides",
    [
        IDEAL,
        [BUFFER, "algorithm=fedbuff"],
        [SINGLE, "algorithm=fedasync"],
        [PERIOD, "algorithm=fedbuff", "merge.kind=mean"],
        [PERIOD, "algorithm=fedbuff", "aggregation.buffer_size=20"],
        [PERIOD, "algorithm=fedbuff", "aggregation.period="],
        ["merge.kind=refl", KEEP],
        [DISCOUNT, KEEP],
        [DISCOUNT, BUFFER],
    ],
)
def test_the_remedy_leaves_nothing_to_say(overrides):
    assert _caveats(*overrides) == []


def test_sampling_is_told_as_the_scenario_has_it():
    found = sampling(Scenario.load("quickstart", IDEAL), 300)
    assert (found.n_clients, found.cohort, found.over_commitment, found.deadline) == (300, 20, 1.0, False)
    assert found.reasons_against_amplification == ()


# -- the command line --------------------------------------------------------------------------------------------------

DRY = ["replay", "-o", "stop.virtual_time=1h", "-o", "population.clients=60", "-o", DISCOUNT]
SAID = 'evsim: caveat: without aggregation.late_reports = "keep" no report of a round is stale: '


@pytest.fixture
def evsim(tmp_path, monkeypatch):
    """Runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_check_says_them_on_stderr(evsim):
    done = evsim("check", *DRY)
    assert (done.exit_code, done.stderr.count(SAID), done.stderr.count("\n")) == (0, 1, 1)
    assert done.stdout.endswith("replay: runs, with caveats\n")


def test_run_says_them_on_stderr_once(evsim):
    done = evsim("run", *DRY)
    assert (done.exit_code, done.stderr.count(SAID), done.stderr.count("\n")) == (0, 1, 1)
    assert Path("runs/replay-1/manifest.json").is_file()


def test_run_does_not_let_python_warn_of_them_again(evsim):
    overrides = ["algorithm=scaffold", BUFFER, "stop.virtual_time=30min", "executor.kind=serial"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the run would end with the warning
        done = evsim("run", "quickstart", *(word for each in overrides for word in ("-o", each)))
    assert (done.exit_code, done.stderr.count("SCAFFOLD"), done.stderr.count("\n")) == (0, 1, 1)
