"""A model of your own, and models of libraries: what they are given, and what is said when they fail."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from evsim.base import registry
from evsim.base.errors import EvsimError, ModelError, ScenarioError
from evsim.run.assembly import open_all
from evsim.run.simulation import Simulation
from evsim.scenario import Scenario
from evsim.training.models.factory import Factory
from evsim.training.models.leaves import trained
from evsim.training.models.lora import Lora

NETS = '''
from torch import nn


class Net(nn.Module):
    """Takes what the data is like by name, and options of its own."""

    def __init__(self, shape, num_classes, width=4, *, depth: int = 1, names=("a",), scale=None):
        super().__init__()
        self.given = (shape, num_classes, width, depth, names, scale)
        sizes = [shape[0] * shape[1] * shape[2], *[width] * depth]
        self.body = nn.Sequential(*(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])))
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.body(x.flatten(1)))


def by_other_names(in_channels, in_chans, n_classes, num_labels, n_tokens, vocab_size):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, n_classes))
    net.given = (in_channels, in_chans, n_classes, num_labels, n_tokens, vocab_size)
    return net


def broken(n_classes, width=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, n_classes // (width - 3)))


def frosty(n_classes, freeze=True):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, n_classes))


def anything(**options):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, options["n"]))
'''
WORLD: dict[str, Any] = {
    "name": "nets",
    "data": {"dataset": {"kind": "digits"}, "partition": {"kind": "iid"}},
    "population": {"clients": 8, "availability": "always", "speed": {}},
    "aggregation": {"kind": "synchronous", "cohort_goal": 4},
    "client_rule": {"kind": "sgd", "learning_rate": 0.1},
    "executor": {"kind": "serial"},
    "stop": {"server_steps": 1},
}


@pytest.fixture
def scenario(tmp_path):
    """A scenario beside ``nets.py``, with a model."""
    (tmp_path / "nets.py").write_text(NETS, encoding="utf-8")
    return lambda **model: Scenario.from_dict({**WORLD, "model": model}, folder=tmp_path)


def model_of(scenario: Scenario) -> nn.Module:
    model = open_all(scenario, "cpu").model
    assert model is not None
    return model


def test_a_class_of_a_file_gets_its_options_and_what_the_data_is_like(scenario):
    found = scenario(kind="nets.py:Net", width=6, depth=2, names=["b", "c"])
    assert model_of(found).given == ((1, 8, 8), 10, 6, 2, ["b", "c"], None)
    assert model_of(scenario(kind="nets.py:Net", scale={"a": 1.5})).given[1::4] == (10, {"a": 1.5})
    assert Scenario.from_dict(tomllib.loads(found.to_toml()), folder=found.folder) == found


def test_the_data_is_told_under_every_documented_name(scenario):
    assert model_of(scenario(kind="nets.py:by_other_names")).given == (1, 1, 10, 10, None, None)
    texts = Factory(target="torch.nn:Embedding", options={"num_embeddings": 3, "embedding_dim": 2})
    assert texts.build(shape=(5,), n_classes=4, n_tokens=9, seed=0).weight.shape == (3, 2)


def test_its_weights_are_drawn_from_the_seed(scenario):
    one, two = (model_of(scenario(kind="nets.py:Net")).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_keys_of_every_model_go_with_one_of_your_own(scenario, tmp_path):
    first = scenario(kind="nets.py:Net", width=6, freeze=["body.*"])
    assert set(trained(model_of(first))) == {"head.weight", "head.bias"}
    out = Simulation(first, device="cpu").run(tmp_path / "run")
    second = scenario(kind="nets.py:Net", width=6, weights="run", lora={"rank": 2, "targets": ["body.0"]})
    assert second.model == Factory(
        target=str(tmp_path / "nets.py:Net"),
        options={"width": 6},
        weights="run",
        lora=Lora(rank=2, targets=("body.0",)),
    )
    assert set(trained(model_of(second))) == {"body.0.lora_a", "body.0.lora_b"}
    written = (out / "scenario.toml").read_text(encoding="utf-8")
    assert Scenario.from_dict(tomllib.loads(written), folder=tmp_path) == first
    assert Scenario.from_dict(tomllib.loads(second.to_toml()), folder=tmp_path) == second


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"kind": "nets.py:Net", "witdh": 3}, "model.witdh: unknown key, given 3; did you mean 'width'"),
        ({"kind": "nets.py:Nett"}, "did you mean 'Net'?"),
        (
            {"kind": "nets.py:frosty", "freeze": ["*"]},
            "model.freeze: a parameter of nets.py:frosty, and a key",
        ),
        ({"kind": "net.py:Net"}, "no such file: net.py"),
    ],
)
def test_a_scenario_says_what_is_wrong_with_a_module_of_yours(scenario, model, said):
    with pytest.raises(ScenarioError) as caught:
        scenario(**model)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            {"kind": "nets.py:broken"},
            "in broken: return nn.Sequential(",
        ),
        ({"kind": "nets.py:anything", "m": 3}, "KeyError: 'n'\n  nets.py, line "),
        ({"kind": "nets.py:Net", "num_classes": 3}, "the model's output does not fit the labels of 'digits'"),
        ({"kind": "nets.py:Net", "width": "wide"}, "nets.py, line "),
    ],
)
def test_what_it_raises_is_shown_with_its_own_lines(scenario, model, said):
    with pytest.raises(EvsimError) as caught:
        model_of(scenario(**model))
    assert said in str(caught.value)


# -- libraries ---------------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """What the libraries of these tests make."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self.given = given
        self.fc = nn.Linear(64, given.get("num_classes") or given["num_labels"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1))


class TextModel(Small):
    """As transformers has them: made of a configuration, and its output is an object."""

    config_class = SimpleNamespace

    def __init__(self, config: Any) -> None:
        super().__init__(**vars(config))

    def forward(self, x: torch.Tensor) -> Any:
        return SimpleNamespace(logits=super().forward(x))


@pytest.fixture
def libraries(monkeypatch):
    """Modules that stand for torchvision, timm and transformers, which bring another torch."""
    vision, models, timm, transformers = (
        ModuleType(name) for name in ("torchvision", "torchvision.models", "timm", "transformers")
    )
    vision.models = models
    models.list_models = timm.list_models = lambda: ["resnet18", "mobilenet_v2"]
    models.get_model = lambda name, **given: Small(name=name, **given)
    timm.create_model = lambda name, **given: Small(name=name, **given)
    transformers.TinyForSequenceClassification = TextModel
    for module in (vision, models, timm, transformers):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("torchvision:resnet18", {"name": "resnet18", "weights": None, "num_classes": 10}),
        ("timm:mobilenet_v2", {"name": "mobilenet_v2", "pretrained": False, "num_classes": 10, "in_chans": 1}),
        ("transformers:TinyForSequenceClassification", {"num_labels": 10, "use_cache": False}),
    ],
)
def test_a_name_of_a_library_is_a_kind(scenario, libraries, kind, given, tmp_path):
    found = scenario(kind=kind, depth=3, freeze=["fc.bias"])
    module = model_of(found)
    assert module.given == {**given, "depth": 3}
    assert set(trained(module)) == {"fc.weight"}
    assert set(module.state_dict()) == {"fc.weight", "fc.bias"}
    assert Scenario.from_dict(tomllib.loads(found.to_toml()), folder=tmp_path) == found
    assert registry.plug_ins().get(type(module)) is None
    Simulation(found, device="cpu").run(tmp_path / "run")


def test_options_of_yours_stand_over_what_the_data_says(scenario, libraries):
    module = Factory(target="timm:resnet18", options={"in_chans": 3}).build(
        shape=(1, 8, 8), n_classes=4, n_tokens=None, seed=0
    )
    assert (module.given["in_chans"], module.given["num_classes"]) == (3, 4)
    text = Factory(target="transformers:TinyForSequenceClassification").build(
        shape=(5,), n_classes=4, n_tokens=9, seed=0
    )
    assert text.given == {"num_labels": 4, "use_cache": False, "vocab_size": 9}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("torchvision:resnet81", "torchvision has no model 'resnet81'; did you mean 'resnet18'?"),
        ("timm:zzz", "timm has no model 'zzz'"),
        ("transformers:Tiny", "transformers has no model class 'Tiny'"),
        ("transformers:TinyForSequenceClassificatoin", "did you mean 'TinyForSequenceClassification'?"),
    ],
)
def test_a_name_that_a_library_does_not_have_is_refused(scenario, libraries, kind, said):
    with pytest.raises(ScenarioError) as caught:
        scenario(kind=kind)
    assert f"model.kind: {said}" in str(caught.value) or said in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "package", "extra"),
    [
        ("torchvision:resnet18", "torchvision", "vision"),
        ("timm:resnet18", "timm", "vision"),
        ("transformers:GPT2LMHeadModel", "transformers", "language"),
    ],
)
def test_a_library_that_is_not_installed_is_named_with_the_line_that_installs_it(
    scenario, monkeypatch, kind, package, extra
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ScenarioError) as caught:
        scenario(kind=kind)
    line = f"a model of {package} needs the package '{package}'; install it with: pip install 'evsim[{extra}]'"
    assert f"model.kind: {line}" in str(caught.value)


def test_a_library_that_is_broken_says_so(scenario, monkeypatch, tmp_path):
    (tmp_path / "timm.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(
        ScenarioError, match="timm cannot be imported: RuntimeError: operator torchvision::nms does not exist"
    ):
        scenario(kind="timm:resnet18")


def test_the_name_of_a_library_is_no_code_that_a_scenario_brings(libraries, tmp_path):
    from evsim.scenario.layers import Layer
    from evsim.scenario.paths import code_in, from_working_directory

    (tmp_path / "timm").mkdir()
    tables = {"model": {"kind": "timm:resnet18", "weights": "w.safetensors"}}
    assert code_in([Layer("s.toml", tables)]) == []
    assert len(code_in([Layer("s.toml", {"model": {"kind": "nets:Net"}})])) == 1
    (tmp_path / "w.safetensors").touch()
    moved = from_working_directory(Layer("-o", tables), tmp_path).tables["model"]
    assert moved == {"kind": "timm:resnet18", "weights": str(tmp_path / "w.safetensors")}


def test_a_function_that_gives_no_module_is_refused():
    with pytest.raises(ModelError, match=r"gave dict; expected a torch.nn.Module"):
        Factory(target="builtins:dict").build(shape=(4,), n_classes=2, n_tokens=None, seed=0)


def test_the_folder_of_these_tests_is_clean():
    assert not Path("nets.py").exists()
