"""Weights from a file, frozen leaves and low-rank adapters: what trains, what travels, what is refused."""

from __future__ import annotations

import copy
import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy

from evsim.base.errors import EvsimError, ModelError, PolicyError, ScenarioError
from evsim.results import load_run
from evsim.run.assembly import open_all
from evsim.run.simulation import Simulation
from evsim.scenario import Scenario
from evsim.testing.executors import assert_agree, make_job, make_tasks, opened
from evsim.training.executors.batched import Batched
from evsim.training.executors.serial import Serial
from evsim.training.executors.workers import Workers
from evsim.training.models.base import Model, check_model, seeded
from evsim.training.models.leaves import averaged, local, saved, trained, wires
from evsim.training.models.lora import Lora, LoraConv2d, LoraLinear, adapt, adapters, merged
from evsim.training.models.mobilenet import MobileNetV2
from evsim.training.models.patterns import matching, near
from evsim.training.models.resnet import ResNet
from evsim.training.models.small import Cnn, Mlp
from evsim.training.models.transformer import Transformer
from tests.training.test_modules import images, run

HERE = Path()
HIDDEN = Lora(rank=2, targets=("1",), alpha=6.0)


def prepared(model: Model, folder: Path = HERE, seed: int = 0) -> nn.Module:
    return model.prepare(images(), seed, folder)


def refused(model: Model, folder: Path = HERE) -> str:
    with pytest.raises(ModelError) as caught:
        prepared(model, folder)
    return str(caught.value)


def moved(module: nn.Module) -> nn.Module:
    """The same with other numbers in every leaf that trains."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for leaf in trained(module).values():
            leaf.add_(torch.rand(leaf.shape, generator=draw))
    return module


# -- patterns ----------------------------------------------------------------------------------------------------------


def test_a_star_stands_for_anything_and_case_counts():
    names = ["body.0.weight", "body.0.bias", "Body.weight", "head.weight"]
    assert matching(["body.*"], names) == names[:2]
    assert matching(["*.weight"], names) == [names[0], *names[2:]]
    assert matching(["head.weight", "*.bias"], names) == [names[1], names[3]]
    assert matching(["bod?.0.bias", "body"], names) == [names[1]]


def test_what_was_meant_is_a_name_or_all_below_one():
    names = ["features.0.weight", "features.0.bias", "head.weight"]
    assert near("feature.*", names) == "did you mean 'features.*' or 'features.0.*'?"
    assert near("head.wieght", names).startswith("did you mean 'head.weight'")
    assert near("zzz", names) == "names: 'features.0.weight', 'features.0.bias', 'head.weight'"


# -- weights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [Mlp(), ResNet(depth=8, width=4, norm="batch"), MobileNetV2(width=0.1)])
def test_a_module_comes_back_from_its_own_state_dict(model, tmp_path):
    other = prepared(model, seed=1)
    save_file(
        {name: leaf + (1 if leaf.is_floating_point() else 3) for name, leaf in other.state_dict().items()},
        tmp_path / "w.safetensors",
    )
    found = prepared(type(model)(**{**vars(model), "weights": "w.safetensors"}), tmp_path).state_dict()
    for name, leaf in other.state_dict().items():
        assert torch.equal(found[name], leaf + (1 if leaf.is_floating_point() else 3))


def test_numbers_of_64_bits_stay_such_and_half_ones_become_those_of_the_model(tmp_path):
    for dtype, expected in ((torch.float64, torch.float64), (torch.float16, torch.float32)):
        state = {name: leaf.to(dtype) for name, leaf in prepared(Mlp(), seed=1).state_dict().items()}
        save_file(state, tmp_path / "w.safetensors")
        module = prepared(Mlp(weights="w.safetensors"), tmp_path)
        assert {leaf.dtype for leaf in module.parameters()} == {expected}
        assert all(torch.equal(leaf, state[name].to(expected)) for name, leaf in module.named_parameters())
        check_model(module, images())


def test_everything_that_does_not_fit_is_named_at_once(tmp_path):
    state = prepared(Mlp(hidden=(8, 4))).state_dict()
    state["extra.weight"] = torch.zeros(3)
    del state["3.bias"]
    state["1.weight"] = torch.zeros(8, 5)
    state["5.bias"] = torch.zeros(5, dtype=torch.int64)
    save_file(state, tmp_path / "other.safetensors")
    text = refused(Mlp(hidden=(8, 4), weights="other.safetensors"), tmp_path)
    assert text.splitlines()[0] == "4 problems"
    hint = "model.fresh names leaves that shall not be taken from the file"
    assert f"model.weights: 'other.safetensors' lacks '3.bias'; expected every leaf of the model; {hint}" in text
    assert "'other.safetensors' also holds 'extra.weight'; expected leaves of the model only" in text
    assert "'other.safetensors': '1.weight' has shape (8, 5); expected (8, 64)" in text
    assert "'other.safetensors': '5.bias' holds int64; expected float32" in text


def test_leaves_of_another_model_are_named(tmp_path):
    save_file(prepared(ResNet(depth=8, width=4)).state_dict(), tmp_path / "resnet.safetensors")
    text = refused(Cnn(channels=(2, 3), hidden=4, weights="resnet.safetensors"), tmp_path)
    assert "lacks '0.weight', '0.bias'" in text
    assert "also holds 'features.0.0.conv1.weight'" in text
    assert "more; expected leaves of the model only" in text


def test_fresh_leaves_are_drawn_from_the_seed_whatever_the_file_holds(tmp_path):
    save_file(
        {"1.weight": torch.ones(64, 64), "1.bias": torch.ones(64), "3.weight": torch.ones(99, 1)},
        tmp_path / "w.safetensors",
    )
    module = prepared(Mlp(weights="w.safetensors", fresh=("3.*",)), tmp_path)
    drawn = prepared(Mlp())
    assert bool((module[1].weight == 1).all())
    assert torch.equal(module[3].weight, drawn[3].weight)
    assert torch.equal(module[3].bias, drawn[3].bias)
    text = refused(Mlp(weights="w.safetensors", fresh=("head.*",)), tmp_path)
    assert "model.fresh: 'head.*' matches nothing" in text


def test_a_tied_leaf_goes_by_any_of_its_names(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

    @dataclass(frozen=True, kw_only=True)
    class Tying(Model):
        def build(self, *, shape, n_classes, n_tokens, seed):
            return seeded(seed, Tied)

    ones = {"b.weight": torch.ones(3, 3), "a.bias": torch.ones(3)}
    for state in (ones, {**ones, "a.weight": torch.ones(3, 3)}):
        save_file(state, tmp_path / "w.safetensors")
        assert bool((prepared(Tying(weights="w.safetensors"), tmp_path).a.weight == 1).all())
    frozen = prepared(Tying(freeze=("b.*",)))
    assert set(trained(frozen)) == {"a.bias"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "nothing.safetensors",
            "'nothing.safetensors': no such file; expected a .safetensors file or the folder of a run; looked for",
        ),
        ("text.safetensors", "'text.safetensors' cannot be read"),
        ("empty", "'empty': no model.safetensors in it"),
        ("diverged", "'diverged': its run diverged"),
    ],
)
def test_what_is_no_file_of_weights_is_refused(name, said, tmp_path):
    (tmp_path / "text.safetensors").write_text("a checkpoint, surely")
    (tmp_path / "empty").mkdir()
    (tmp_path / "diverged").mkdir()
    (tmp_path / "diverged" / "model.diverged.safetensors").touch()
    assert f"model.weights: {said}" in refused(Mlp(weights=name), tmp_path)


# -- freezing ----------------------------------------------------------------------------------------------------------


def test_frozen_leaves_are_nowhere_but_in_the_saved_model():
    server = run(prepared(Cnn(channels=(2, 3), hidden=4, norm="batch", freeze=("0.*", "1.*", "*.bias"))))
    before = server.tensors()
    server.apply(server.dispatched(np.arange(2), np.array([0, 1]), np.zeros(2, int)) or np.arange(2))
    after = server.tensors()
    stays = {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"}
    stays |= {"4.bias", "5.bias", "9.bias", "11.bias"}
    assert {name for name in after if np.array_equal(after[name], before[name])} == stays
    sent = server._message()
    assert set(sent["model"]) == {"4.weight", "5.weight", "9.weight", "11.weight"}
    assert set(sent["buffers"]) == {"5.running_mean", "5.running_var", "5.num_batches_tracked"}


def test_a_norm_whose_statistics_are_frozen_goes_by_them():
    model = prepared(ResNet(depth=8, width=4, norm="batch", freeze=("stem.*", "features.0.*")))
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert {name for name, module in norms.items() if not module.training} == {
        "stem.1",
        "features.0.0.norm1",
        "features.0.0.norm2",
    }
    assert set(averaged(model)) | set(local(model)) == {name for name, _ in model.named_buffers()}
    assert not set(averaged(model)) & set(local(model))
    weights_only = prepared(ResNet(depth=8, width=4, norm="batch", freeze=("stem.*.weight",)))
    assert all(module.training for module in weights_only.modules())  # its statistics still follow the clients


def test_patterns_that_match_nothing_are_refused_with_near_names():
    text = refused(Cnn(freeze=("0.*", "feature.*", "1l.weight")))
    assert text.splitlines()[0] == "2 problems"
    assert "model.freeze: 'feature.*' matches nothing; expected a pattern over the names of the model's leaves" in text
    assert (
        "model.freeze: '1l.weight' matches nothing; expected a pattern over the names of the model's leaves; did"
        in text
    )


def test_a_model_with_everything_frozen_is_refused():
    with pytest.raises(ModelError, match="every parameter has requires_grad = False; expected at least one to train"):
        check_model(prepared(Mlp(freeze=("*",))), images())


# -- adapters ----------------------------------------------------------------------------------------------------------

ADAPTED = {
    "linear": Mlp(hidden=(8,), lora=HIDDEN),
    "linear and head": Mlp(hidden=(8,), lora=Lora(rank=3, targets=("1",), train=("3.*",))),
    "convolutions": Cnn(channels=(3, 4), hidden=6, norm="group", lora=Lora(rank=2, targets=("*",), alpha=1.0)),
    "strides": ResNet(depth=10, width=4, norm="batch", lora=Lora(rank=2, targets=("features.*", "stem.0"))),
    "frozen": ResNet(depth=8, width=4, norm="batch", freeze=("stem.*", "features.0.*")),
    "frozen bias": Mlp(hidden=(8,), dropout=0.2, freeze=("*.bias",)),
}


@pytest.mark.parametrize("name", [name for name, model in ADAPTED.items() if model.lora])
def test_an_adapted_model_starts_as_its_base(name):
    model = ADAPTED[name]
    base = prepared(type(model)(**{**vars(model), "lora": None}))
    found = prepared(model)
    x = torch.rand(3, 1, 8, 8)
    base.eval(), found.eval()
    assert torch.equal(found(x), base(x))
    state, whole = base.state_dict(), found.state_dict()
    assert set(whole) - set(state) == set(adapters(whole))
    assert all(torch.equal(whole[name], leaf) for name, leaf in state.items())
    again = prepared(model)
    assert all(torch.equal(leaf, whole[name]) for name, leaf in again.state_dict().items())
    assert any(not torch.equal(leaf, whole[name]) for name, leaf in prepared(model, seed=1).state_dict().items())


@pytest.mark.parametrize("name", [name for name, model in ADAPTED.items() if model.lora])
def test_an_adapted_layer_is_the_layer_of_the_weight_it_amounts_to(name):
    model = ADAPTED[name]
    module = moved(prepared(model).double()).eval()
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    plain = prepared(type(model)(**{**vars(model), "lora": None})).double().eval()
    plain.load_state_dict(merged(saved(module), model.lora.scale))
    torch.testing.assert_close(module(x), plain(x), rtol=1e-11, atol=1e-11)
    for path, layer in module.named_modules():
        if isinstance(layer, LoraLinear | LoraConv2d):
            torch.testing.assert_close(layer.weight, plain.get_submodule(path).weight, rtol=1e-12, atol=1e-12)
            assert not torch.equal(layer.weight, dict(module.named_parameters())[f"{path}.weight"])


def test_adapters_train_as_the_equation_says():
    """Equation 3 of the paper, differentiated by hand: dA = s B' G x, dB = s G x A'."""
    torch.manual_seed(0)
    layer = LoraLinear(nn.Linear(5, 4).double(), Lora(rank=2, targets=("x",), alpha=3.0))
    with torch.no_grad():
        layer.lora_a.copy_(torch.rand(2, 5))
        layer.lora_b.copy_(torch.rand(4, 2))
    x, g = torch.rand(7, 5, dtype=torch.float64), torch.rand(7, 4, dtype=torch.float64)
    (layer(x) * g).sum().backward()
    torch.testing.assert_close(layer.lora_b.grad, 1.5 * g.T @ x @ layer.lora_a.detach().T)
    torch.testing.assert_close(layer.lora_a.grad, 1.5 * layer.lora_b.detach().T @ g.T @ x)


@pytest.mark.parametrize("executor", [Batched(chunk=3), Workers(workers=2)], ids=["batched", "workers"])
@pytest.mark.parametrize("name", ADAPTED)
def test_all_executors_train_what_is_not_frozen_alike(name, executor):
    job = make_job(prepared(ADAPTED[name]), sizes=(6, 0, 3, 5))
    tasks = make_tasks(job, versions=2)
    with opened(Serial(threads=1), job) as runner:
        expected = runner(tasks)
    assert set(expected[0].update["model"]) == set(trained(job.model))
    assert any(bool(leaf.any()) for leaf in expected[0].update["model"].values())
    with opened(executor, job) as runner:
        assert_agree(job, expected, runner(tasks))


def test_a_layer_used_twice_has_one_adapter_and_a_module_that_reads_weights_gets_the_adapted_ones():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.again = self.first
            self.fast = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)

        def forward(self, x):
            return self.fast(self.again(torch.tanh(self.first(x))))

    torch.manual_seed(0)
    module = Reader()
    adapt(module, Lora(rank=2, targets=("first", "fast.linear*", "fast.self_attn.out_proj")), 0)
    assert module.first is module.again
    assert isinstance(module.first, LoraLinear)
    x = torch.rand(3, 5, 4)
    before = module(x)
    with torch.no_grad():
        module.fast.linear1.lora_b.fill_(1.0)
        module.fast.self_attn.out_proj.lora_b.fill_(1.0)
    trains = module(x)
    assert not torch.allclose(trains, before)
    with torch.no_grad():
        torch.testing.assert_close(module.eval()(x), trains)  # by torch's fast path, which reads the weights itself


def test_targets_that_cannot_be_adapted_are_named_all_at_once():
    lora = Lora(rank=9, targets=("features.0.0", "features.0.0.norm1", "head", "stem.0", "feature.*"))
    text = refused(ResNet(depth=8, width=4, lora=lora))
    assert text.splitlines()[0] == "5 problems"
    layer = "expected a pattern that matches a Linear or a Conv2d"
    assert f"model.lora.targets: 'features.0.0' matches only 'features.0.0', a _Block; {layer}; did you mean" in text
    assert f"model.lora.targets: 'features.0.0.norm1' matches only 'features.0.0.norm1', a GroupNorm; {layer}" in text
    assert f"model.lora.targets: 'feature.*' matches nothing; {layer}; did you mean" in text
    assert "model.lora.rank: 9 for 'head', whose weight is 5 by 16; expected at most 5" in text
    assert "model.lora.rank: 9 for 'stem.0', whose weight is 4 by 9; expected at most 4" in text
    grouped = refused(MobileNetV2(width=0.1, lora=Lora(rank=1, targets=("0.1.layers.0.0",))))
    assert "'0.1.layers.0.0' is a convolution of 8 groups; expected convolutions of one group" in grouped
    assert "model.lora.train: 'heads.*' matches nothing" in refused(
        ResNet(depth=8, width=4, lora=Lora(rank=1, targets=("stem.*",), train=("heads.*",)))
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 0, "targets": ("a",)}, "rank must be >= 1"),
        ({"rank": 1, "targets": ()}, "targets must name something"),
        ({"rank": 1, "targets": ("a",), "alpha": 0.0}, "alpha must be > 0"),
        ({"rank": 1, "targets": ("a",), "alpha": float("nan")}, "alpha must be > 0"),
    ],
)
def test_impossible_adapters_are_refused(options, said):
    with pytest.raises(PolicyError, match=said):
        Lora(**options)


# -- whole runs --------------------------------------------------------------------------------------------------------

WORLD: dict[str, Any] = {
    "name": "leaves",
    "seed": 2,
    "precision": "float64",
    "data": {"dataset": {"kind": "digits"}, "partition": {"kind": "iid"}},
    "population": {"clients": 12, "availability": "always", "speed": {}},
    "aggregation": {"kind": "synchronous", "cohort_goal": 6},
    "client_rule": {"kind": "sgd", "learning_rate": 0.1, "batch_size": 10},
    "executor": {"kind": "serial"},
    "stop": {"server_steps": 3},
    "evaluation": {"every": 1},
}
LORA = {"rank": 4, "targets": ["1"], "alpha": 8.0}


def scenario_of(folder: Path, model: dict[str, Any], **more: Any) -> Scenario:
    return Scenario.from_dict({**WORLD, **more, "model": {"kind": "mlp", "hidden": [32], **model}}, folder=folder)


def losses(folder: Path) -> list[float]:
    rows = load_run(folder).evaluations
    return rows[rows["metric"] == "loss"]["value"].tolist()


def test_only_what_trains_is_paid_for_and_what_is_saved_can_be_loaded_again(tmp_path):
    first = Simulation(scenario_of(tmp_path, {"lora": LORA}), device="cpu").run(tmp_path / "first")
    numbers = 4 * 64 + 32 * 4
    tasks = load_run(first).tasks
    assert set(tasks["bytes_down"]) == set(tasks["bytes_up"]) == {8 * numbers}
    assert json.loads((first / "manifest.json").read_text())["cost"]["true_model_bytes"] == 8 * numbers
    state = load_file(first / "model.safetensors")
    assert set(state) == {"1.weight", "1.bias", "1.lora_a", "1.lora_b", "3.weight", "3.bias"}
    expected = losses(first)[-1]
    assert expected < losses(first)[0]

    again = scenario_of(tmp_path, {"lora": LORA, "weights": "first"})
    assert losses(Simulation(again, device="cpu").run(tmp_path / "again"))[0] == expected
    whole = scenario_of(tmp_path, {"weights": "first"})  # adapters merged into their weights
    assert losses(Simulation(whole, device="cpu").run(tmp_path / "whole"))[0] == pytest.approx(expected, rel=1e-12)
    on_top = scenario_of(tmp_path, {"weights": "whole", "lora": {"rank": 2, "targets": ["3"]}})
    assert losses(Simulation(on_top, device="cpu").run(tmp_path / "top"))[0] == losses(tmp_path / "whole")[-1]

    with pytest.raises(EvsimError, match=r"model.weights: 'first': '1.lora_a' has shape \(4, 64\); expected \(3, 64\)"):
        open_all(scenario_of(tmp_path, {"lora": {**LORA, "rank": 3}, "weights": "first"}), "cpu")
    (tmp_path / "alone.safetensors").write_bytes((first / "model.safetensors").read_bytes())
    with pytest.raises(EvsimError, match=r"alone.safetensors has LoRA adapters, and no scenario.toml beside it"):
        open_all(scenario_of(tmp_path / "first" / "..", {"weights": "alone.safetensors"}), "cpu")


def test_a_frozen_body_keeps_its_loaded_weights_and_only_the_head_is_paid_for(tmp_path):
    first = Simulation(scenario_of(tmp_path, {}), device="cpu").run(tmp_path / "first")
    head = scenario_of(tmp_path, {"weights": "first/model.safetensors", "freeze": ["1.*"], "fresh": ["3.*"]})
    second = Simulation(head, device="cpu").run(tmp_path / "second")
    one, two = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert {name for name in one if torch.equal(one[name], two[name])} == {"1.weight", "1.bias"}
    assert set(load_run(second).tasks["bytes_up"]) == {8 * (32 * 10 + 10)}


def test_a_scenario_with_adapters_reads_back_what_it_wrote(tmp_path):
    model = {"lora": {**LORA, "train": ["3.*"]}, "weights": "w.safetensors", "fresh": ["3.*"]}
    scenario = scenario_of(tmp_path, model)
    assert Scenario.from_dict(tomllib.loads(scenario.to_toml()), folder=tmp_path) == scenario
    assert scenario.model == Mlp(
        hidden=(32,),
        weights="w.safetensors",
        fresh=("3.*",),
        lora=Lora(rank=4, targets=("1",), alpha=8.0, train=("3.*",)),
    )


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"fresh": ["3.*"]}, "model.fresh: leaves that are not taken from a file; expected model.weights, the file"),
        (
            {"freeze": ["3.*"], "lora": LORA},
            "model.freeze: beside model.lora, which freezes all but its adapters; expected",
        ),
        ({"lora": {"rank": 1.5, "targets": ["1"]}}, "model.lora.rank: 1.5; expected an integer"),
        ({"lora": {"rank": 2}}, "model.lora.targets: missing; expected a list of texts"),
        (
            {"lora": {"rank": 2, "target": ["1"]}},
            "model.lora.target: unknown key, given ['1']; did you mean 'targets'?",
        ),
        ({"lora": {"rank": 0, "targets": ["1"]}}, "model.lora.rank: rank must be >= 1, but got rank=0"),
        ({"lora": 4}, "model.lora: 4; expected a table"),
        ({"freeze": "3.*"}, "model.freeze: '3.*'; expected a list of texts"),
    ],
)
def test_a_scenario_says_where_its_leaves_are_wrong(model, said, tmp_path):
    with pytest.raises(ScenarioError) as caught:
        scenario_of(tmp_path, model)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"freeze": ["head.*"]}, "model.freeze: 'head.*' matches nothing"),
        ({"freeze": ["*"]}, "every parameter has requires_grad = False"),
        ({"lora": {"rank": 2, "targets": ["fc"]}}, "model.lora.targets: 'fc' matches nothing"),
        ({"lora": {"rank": 2, "targets": ["2"]}}, "model.lora.targets: '2' matches only '2', a ReLU"),
        (
            {"lora": {"rank": 40, "targets": ["1"]}},
            "model.lora.rank: 40 for '1', whose weight is 32 by 64; expected at most 32",
        ),
        ({"weights": "nothing"}, "model.weights: 'nothing': no such file"),
    ],
)
def test_check_refuses_leaves_that_do_not_fit(model, said, tmp_path):
    with pytest.raises(EvsimError) as caught:
        open_all(scenario_of(tmp_path, model), "cpu")
    assert said in str(caught.value)


def test_lora_of_a_transformer_trains_the_attention_alone():
    model = Transformer(heads=2, width=8, predicts="last", lora=Lora(rank=2, targets=("*.attn.q", "*.attn.v")))
    module = model.build(shape=(6,), n_classes=5, n_tokens=11, seed=0)
    adapt(module, model.lora, 0)
    names = [f"blocks.{block}.attn.{layer}.lora_{kind}" for block in (0, 1) for layer in "qv" for kind in "ab"]
    assert sorted(adapters(module.state_dict())) == sorted(names)
    x, y = torch.randint(0, 11, (4, 6)), torch.randint(0, 5, (4,))
    twin = copy.deepcopy(module)
    cross_entropy(module(x), y).backward()
    assert bool(module.blocks[0].attn.q.lora_b.grad.any())
    assert torch.equal(twin(x), module(x))


@dataclass(frozen=True, kw_only=True)
class Own(Model):
    """A model of somebody's own, with fields of its own."""

    width: int = 3
    names: tuple[str, ...] = field(default=("a",))

    def build(self, *, shape, n_classes, n_tokens, seed):
        return seeded(seed, lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, n_classes)))


def test_a_model_class_of_your_own_has_these_keys_too():
    assert set(wires(prepared(Own(freeze=("1.bias",))), 32)["model"]) == {"1.weight"}
