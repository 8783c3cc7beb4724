"""The page on models of one's own: every block runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from evsim import Scenario, Simulation, load_run
from evsim.base import registry
from evsim.run.assembly import open_all
from evsim.training.models.leaves import trained

PAGE = (Path(__file__).parents[2] / "docs" / "your_model.md").read_text(encoding="utf-8")
NETS, WRITES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
MINE, *TABLES = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
FEW = ["executor.kind=serial", "stop.server_steps=2", "stop.virtual_time="]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files of the page."""
    home = tmp_path_factory.mktemp("page")
    (home / "nets.py").write_text(NETS, encoding="utf-8")
    (home / "mine.toml").write_text(MINE, encoding="utf-8")
    (home / "write.py").write_text(WRITES, encoding="utf-8")
    subprocess.run([sys.executable, "write.py"], cwd=home, check=True)
    return home


def scenario_of(folder: Path, text: str, few: list[str]) -> Scenario:
    path = folder / "block.toml"
    path.write_text(text, encoding="utf-8")
    return Scenario.load(path, few)


def test_the_first_table_runs(folder):
    run = load_run(Simulation(Scenario.load(folder / "mine.toml", FEW), device="cpu").run(folder / "run"))
    assert len(run.server_steps) == 2


@pytest.mark.parametrize("place", range(len(TABLES)))
def test_a_table_runs_as_it_stands(folder, tmp_path, place):
    texts = [
        "data.dataset.most_test_samples=20",
        "evaluation.client_sample=5",
        "evaluation.every=10",
        "client_rule.steps=1",
    ]
    few = FEW if "mine.toml" in TABLES[place] else [*FEW, *texts, "client_rule.epochs="]
    scenario = scenario_of(folder, TABLES[place], few)
    assert len(load_run(Simulation(scenario, device="cpu").run(tmp_path / "run")).server_steps) == 2


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("freeze =", {"head.weight", "head.bias"}),
        ("lora =", {"body.1.lora_a", "body.1.lora_b", "head.weight", "head.bias"}),
        ("fresh =", {"body.1.weight", "body.1.bias", "head.weight", "head.bias"}),
    ],
)
def test_what_trains_is_what_the_page_says(folder, word, expected):
    (text,) = [table for table in TABLES if word in table]
    model = open_all(scenario_of(folder, text, []), "cpu").model
    assert set(trained(model)) == expected


def count(kind: str, shape: tuple[int, ...], classes: int, *, texts: bool = False, **options: object) -> int:
    model = registry.load("model", kind)(**options)
    module = model.build(shape=shape, n_classes=classes, n_tokens=classes if texts else None, seed=0)
    return sum(leaf.numel() for leaf in module.parameters())


def test_the_sizes_of_the_page_are_those_of_the_models():
    digits = {
        "softmax": [count("softmax", (1, 28, 28), 10)],
        "cnn": [count("cnn", (1, 28, 28), 10)],
        "lenet": [count("lenet", (1, 28, 28), 10), count("lenet", (3, 32, 32), 10)],
        "femnist_cnn": [count("femnist_cnn", (1, 28, 28), 62)],
        "resnet": [count("resnet", (3, 32, 32), 10), count("resnet", (3, 32, 32), 10, depth=20)],
        "mobilenet_v2": [count("mobilenet_v2", (3, 32, 32), 10), count("mobilenet_v2", (3, 32, 32), 1000)],
        "gru": [count("gru", (80,), 80, texts=True)],
        "char_lstm": [count("char_lstm", (80,), 80, texts=True)],
        "transformer": [count("transformer", (80,), 80, texts=True)],
    }
    rows = {re.findall(r"`(\w+)`", row)[0]: row for row in re.findall(r"^\| `\w+`.*", PAGE, flags=re.MULTILINE)}
    for kind, sizes in digits.items():
        for size in sizes:
            assert f"{size:,}" in rows[kind], (kind, size)
    assert set(registry.built_in("model")) == set(digits) | {"mlp"}


def test_every_objective_is_in_the_table():
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE))
    assert set(registry.built_in("objective")) <= rows
