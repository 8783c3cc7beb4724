"""A plug-in of any slot that raises in any of its methods: a sentence with slot, class and own line, exit code 2."""

from __future__ import annotations

import inspect
import json
import re
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evsim.base import registry
from evsim.cli import app
from evsim.scenario import Scenario
from evsim.study.running import run_one as run_of_a_study

SCENARIO = """
stop = { server_steps = 2, virtual_time = "3h" }
model = "softmax"
client_rule = { kind = "sgd", learning_rate = 0.1, batch_size = 4 }
aggregation = { kind = "synchronous", cohort_goal = 3, pacing = { kind = "quantile" } }
executor = { kind = "serial", threads = 1 }
[population]
clients = 8
availability = "always"
speed = { compute_ms_per_sample = 1, download_kbps = 800, upload_kbps = 800 }
[data]
dataset = { kind = "synthetic", alpha = 0, beta = 0 }
partition = "natural"
"""

MODULE = """
from dataclasses import dataclass
{imports}

@dataclass(frozen=True, kw_only=True)
class Mine({base}):
    {property}
    def {name}(self, *given, **named):
        {body}
"""

#: By slot: the key it fills, options beside the kind, and by a class to derive from the methods that raise.
SLOTS = {
    "aggregation": (
        "aggregation",
        "cohort_goal = 3",
        {"evsim.aggregation.synchronous:Synchronous": ["minimum_clients", "reports_per_step", "run"]},
    ),
    "pacing": ("aggregation.pacing", "", {"evsim.aggregation.pacing:QuantileDeadline": ["first", "next"]}),
    "selection": (
        "selection",
        "",
        {"evsim.selection.uniform:Uniform": ["init", "select", "feedback", "candidates", "caveats"]},
    ),
    "predictor": (
        "selection.predictor",
        "",
        {"evsim.selection.daily:Daily": ["init", "checked_in", "stays_online", "caveats"]},
    ),
    "broadcast": ("broadcast", "", {"evsim.algorithms.broadcast:FullModel": ["wires", "send"]}),
    "client_rule": (
        "client_rule",
        "learning_rate = 0.1, batch_size = 4",
        {
            "evsim.algorithms.sgd:Sgd": ["schedule", "work", "wires", "init_client", "begin"],
            "evsim.algorithms.fedprox:FedProx": ["loss", "step", "finish", "direction"],
        },
    ),
    "work": ("work", "shares = [0.5]", {"evsim.algorithms.workload:ByClass": ["steps", "problems"]}),
    "epochs": (
        "client_rule.epochs",
        "from = 1, to = 2",
        {"evsim.algorithms.epochs:UniformEpochs": ["most", "draw"]},
    ),
    "upload": ("upload", "max_norm = 1.0", {"evsim.algorithms.clip:Clip": ["wires", "init_client", "encode"]}),
    "weighting": ("weighting", "", {"evsim.algorithms.weighting:EqualWeights": ["weights", "problems"]}),
    "merge": ("merge", "", {"evsim.algorithms.robust:Median": ["init", "add", "finish"]}),
    "server_optimizer": ("server_optimizer", "", {"evsim.algorithms.server_sgd:ServerSgd": ["init", "apply"]}),
    "executor": ("executor", "", {"evsim.training.executors.serial:Serial": ["open"]}),
    "model": ("model", "", {"evsim.training.models.small:Softmax": ["build"]}),
    "dataset": ("data.dataset", "", {"evsim.training.data.synthetic:Synthetic": ["load"]}),
    "partition": ("data.partition", "", {"evsim.training.data.partition:Natural": ["split", "by_groups"]}),
    "skew": ("data.skew", "level = 0.1", {"evsim.training.data.skew:Noise": ["refusal", "dtype", "apply"]}),
    "transform": (
        "data.transform",
        "mean = [0.1], deviation = [1.0]",
        {"evsim.training.data.transforms.normalize:Normalize": ["refusal", "draws", "apply"]},
    ),
    "objective": (
        "objective",
        "",
        {"evsim.training.objectives.classification:Classification": ["output_shape", "loss", "guess"]},
    ),
    "metric": (
        "objective.metrics",
        "",
        {"evsim.training.objectives.metrics.counting:Accuracy": ["name", "keep", "of"]},
    ),
    "actor": ("actor", "at = '20min', lasts = '10min'", {"evsim.actors.outage:Outage": ["run", "caveats"]}),
    "network": ("network", "", {"evsim.cost.network:IndependentLinks": ["open", "lasts_ms"]}),
    "join": ("population.join", "", {"evsim.traces.population:Modulo": ["devices"]}),
}
#: Slots whose plug-ins are no dataclasses (tested by themselves).
OTHERS = {"trace_format", "rate_format"}
PRODUCT = [
    (slot, base, name) for slot, (_, _, bases) in SLOTS.items() for base, methods in bases.items() for name in methods
]


@pytest.fixture
def evsim(tmp_path, monkeypatch):
    """Runs a command in a folder with ``s.toml``; an error that is not meant for the user fails the test."""
    monkeypatch.chdir(tmp_path)
    Path("s.toml").write_text(SCENARIO, encoding="utf-8")
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)


def _write(base: str, name: str, body: str) -> None:
    """A class of the user's, derived from one of evsim's with one method of its own."""
    module, _, cls = base.partition(":")
    promised = inspect.getattr_static(getattr(import_module(module), cls), name)
    kind = "" if callable(promised) else "@property"
    imports = f"from {module} import {cls}"
    text = MODULE.format(imports=imports, base=cls, property=kind, name=name, body=body)
    Path("mine.py").write_text(text, encoding="utf-8")


def _with_mine(slot: str, base: str) -> str:
    key, options, _ = SLOTS[slot]
    parts = ['kind = "mine.py:Mine"', options, "mu = 0.1" if "fedprox" in base else ""]
    table = f"{{ {', '.join(filter(None, parts))} }}"
    return f"{key}=[{table}]" if slot in {"upload", "transform", "metric", "actor"} else f"{key}={table}"


def test_every_slot_is_in_the_product():
    assert set(SLOTS) | OTHERS >= set(registry.slots()) - {"listener", "data_format"}


def test_the_scenario_of_these_tests_runs(evsim):
    assert evsim("run", "s.toml").exit_code == 0


@pytest.mark.parametrize(("slot", "base", "name"), PRODUCT, ids=lambda each: str(each).rpartition(":")[2])
def test_a_plug_in_that_raises_is_named(evsim, slot, base, name):
    _write(base, name, 'raise RuntimeError("not today")')
    done = evsim("run", "s.toml", "-o", _with_mine(slot, base), "--out", "r")
    assert done.exit_code == 2, done.output
    assert "RuntimeError: not today" in done.stderr
    assert re.search(rf"\b{slot}\b.*Mine", done.stderr, re.IGNORECASE)  # actors go by their class's name in small
    assert f"mine.py, line 9, in {name}: raise RuntimeError" in done.stderr
    assert "Traceback" not in done.stderr
    if Path("r/tasks.parquet").exists():  # what happened before the error can be read
        end = json.loads(Path("r/manifest.json").read_text(encoding="utf-8"))["end"]["reason"]
        assert end.startswith("error")
        assert evsim("describe", "r").exit_code == 0


def test_a_run_of_a_study_names_a_plug_in_that_raises(evsim, tmp_path):
    _write("evsim.selection.uniform:Uniform", "select", 'raise RuntimeError("not today")')
    text = Scenario.load("s.toml", ["selection.kind=mine.py:Mine"]).to_toml()
    said = run_of_a_study(str(tmp_path / "study/arm/seed-0"), text, str(tmp_path), str(tmp_path))
    assert said.error.startswith("selection Mine: RuntimeError: not today\n  mine.py, line 9, in select")


@pytest.mark.parametrize(("slot", "base", "name"), PRODUCT, ids=lambda each: str(each).rpartition(":")[2])
def test_a_plug_in_that_gives_nothing_is_named_if_something_was_expected(evsim, slot, base, name):
    _write(base, name, "return None")
    done = evsim("run", "s.toml", "-o", _with_mine(slot, base), "--out", "r")
    assert done.exit_code in {0, 2}, done.output
    assert done.exit_code == 0 or re.search(r"mine", done.stderr, re.IGNORECASE), done.stderr
    assert "Traceback" not in done.stderr


FORMAT = """
from evsim.traces.availability import AvailabilityTrace

def read_availability(path):
    {body}
"""


@pytest.mark.parametrize(("kind", "body"), [("mine.py", "raise RuntimeError('no')"), ("mine.py:", "return None")])
def test_a_trace_format_that_fails_is_named(evsim, kind, body):
    Path("mine.py").write_text(FORMAT.format(body=body), encoding="utf-8")
    Path("t.csv").write_text("", encoding="utf-8")
    done = evsim("run", "s.toml", "-o", f"population.availability={{path = 't.csv', format = '{kind}'}}")
    assert done.exit_code == 2
    assert "format" in done.stderr
    assert "mine.py" in done.stderr


def test_a_trace_format_is_a_plain_file(evsim):
    Path("mine.py").write_text(FORMAT.format(body="return AvailabilityTrace.always(3)"), encoding="utf-8")
    Path("t.csv").write_text("", encoding="utf-8")
    assert evsim("run", "s.toml", "-o", "population.availability={path='t.csv', format='mine.py'}").exit_code == 0


# -- what a class lacks is told before it is called --------------------------------------------------------------------

SELECTOR = """
from dataclasses import dataclass
from evsim.selection.base import Selector

@dataclass(frozen=True)
class Mine(Selector):
    {members}
"""


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ("pass", "Mine has no `feedback` and `init` and `select`, which every Selector must have"),
        (
            "def init(self, n): ...\n    def feedback(self, *given): ...\n    def select(self, state, view, n): ...",
            "Mine.select takes (self, state, view, n); expected (self, state, view, n, key)",
        ),
        (
            "init = 3\n    def feedback(self, state, reports): ...\n    def select(self, *given): ...",
            "Mine.init is no method",
        ),
        (
            "init = feedback = select = lambda *given: None\n    def needs_training(self): ...",
            "Mine.needs_training is a method; expected a property or a plain value",
        ),
    ],
)
@pytest.mark.parametrize("command", [["check", "--fast"], ["run"]], ids=lambda each: each[0])
def test_a_class_that_cannot_fill_its_slot(evsim, command, members, said):
    Path("mine.py").write_text(SELECTOR.format(members=members), encoding="utf-8")
    done = evsim(*command, "s.toml", "-o", "selection.kind=mine.py:Mine")
    assert done.exit_code == 2
    assert said in done.stderr


def test_code_that_leaves_the_program_is_an_error_like_any_other(evsim):
    Path("mine.py").write_text("raise SystemExit(0)\n", encoding="utf-8")
    assert evsim("run", "s.toml", "-o", "selection.kind=mine.py:Mine").exit_code == 2
    _write("evsim.selection.uniform:Uniform", "select", "raise SystemExit(0)")
    assert evsim("run", "s.toml", "-o", "selection.kind=mine.py:Mine").exit_code == 2


@pytest.mark.parametrize("left", ["SystemExit", "GeneratorExit", "BaseException", "StopIteration"])
def test_a_listener_that_leaves_by_any_exception_is_named_and_the_run_is_kept(evsim, left):
    Path("mine.py").write_text(f"class Mine:\n    def reported(self, *given): raise {left}\n", encoding="utf-8")
    done = evsim("run", "s.toml", "-o", 'listener=[{ kind = "mine.py:Mine" }]', "--out", "left")
    assert done.exit_code == 2
    assert "listener Mine.reported (at " in done.stderr
    assert (Path("left") / "manifest.json").is_file()


def test_a_plug_in_whose_file_raises_anything_is_an_error_like_any_other(evsim):
    Path("mine.py").write_text("class Odd(BaseException): pass\nraise Odd('no')\n", encoding="utf-8")
    done = evsim("check", "s.toml", "-o", "selection.kind=mine.py:Mine")
    assert done.exit_code == 2
    assert "cannot load 'mine.py:Mine': Odd: no" in done.stderr


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("x = 1", "listener Mine has none of the methods started, reported"),
        ("def dispatchd(self, at): ...", "listener Mine has none of the methods started, reported"),
        ("def reported(self): ...", "expected reported(self, at, tasks, clients)"),
        ("def ended(self, at, reason, more): ...", "expected ended(self, at, reason)"),
        ("def __init__(self): raise ValueError('no')", "ValueError: no"),
    ],
)
def test_a_listener_that_nobody_can_tell_anything_is_refused_by_check_too(evsim, body, said):
    Path("mine.py").write_text(f"class Mine:\n    {body}\n", encoding="utf-8")
    for command in ("check", "run"):
        done = evsim(command, "s.toml", "-o", 'listener=[{ kind = "mine.py:Mine" }]')
        assert done.exit_code == 2
        assert said in done.stderr


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_what_does_not_fit_into_memory_is_a_sentence(evsim, monkeypatch, error):
    def build(*_given, **_named):
        raise error

    monkeypatch.setattr("evsim.training.models.small.Softmax.build", build)
    done = evsim("check", "s.toml")
    assert done.exit_code == 2
    assert done.stderr.startswith("evsim: not enough memory (")


# -- without plug-ins --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        'selection = "mine.py:Mine"',
        'selection = { kind = "mine:Mine" }',
        'upload = [{ kind = "clip", max_norm = 1.0 }, { kind = "mine.py:Mine" }]',
        'data.partition = "mine.py:Mine"',
        'population.availability = { path = "t.csv", format = "mine.py" }',
        'aggregation.pacing = { kind = "mine.py:Mine" }',
        'extends = "below.toml"',
    ],
)
def test_a_file_with_code_is_refused_without_importing_it(evsim, text):
    Path("mine.py").write_text("open('ran', 'w').close()\n", encoding="utf-8")
    Path("below.toml").write_text('extends = "s.toml"\nmodel = "mine.py:make"\n', encoding="utf-8")
    Path("theirs.toml").write_text(text if "extends" in text else f'extends = "s.toml"\n{text}\n', encoding="utf-8")
    done = evsim("check", "--no-plugins", "theirs.toml")
    assert done.exit_code == 2
    assert "mine" in done.stderr
    assert "code runs with all your rights" in done.stderr
    assert not Path("ran").exists()


def test_a_file_without_code_passes(evsim):
    done = evsim("check", "--no-plugins", "s.toml")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "s.toml: fine")


RAISING = """
from dataclasses import dataclass
from evsim.selection.base import Selector

@dataclass(frozen=True, kw_only=True)
class Mine(Selector):
    def init(self, n_clients): return None
    def select(self, state, view, n, key): return {select}
    def feedback(self, state, reports): return {feedback}
"""


@pytest.mark.parametrize(("select", "feedback"), [("1 / 0", "state"), ("(view.idle[:n], state)", "1 / 0")])
def test_check_lets_a_selector_choose_and_hear(tmp_path, monkeypatch, select, feedback):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(RAISING.format(select=select, feedback=feedback), encoding="utf-8")
    done = CliRunner().invoke(app, ["check", "replay", "-o", "selection=mine.py:Mine"])
    assert done.exit_code == 2, done.output
    assert "selection Mine" in done.stderr
    assert "ZeroDivisionError" in done.stderr
