"""Every kind of every slot keeps its slot's contract, and every slot has one."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch

import evsim.testing
from evsim.base import registry
from evsim.testing.methods import (
    BroadcastContract,
    ClientRuleContract,
    MergeContract,
    ServerOptimizerContract,
    UploadContract,
    WeightingContract,
    WorkloadContract,
)
from evsim.testing.surroundings import (
    DataSetContract,
    JoinContract,
    ListenerContract,
    ModelContract,
    PacingContract,
    PartitionContract,
    SkewContract,
)

WIDTHS: dict[str, Any] = {"first": "0", "last": "2", "rates": (1.0, 0.5, 0.2)}
LOCAL: dict[str, Any] = {"learning_rate": 0.1, "batch_size": 4, "epochs": 2}
#: Options of kinds that cannot be made without, or of several ways to be made.
OPTIONS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "broadcast": {"heterofl": [WIDTHS]},
    "client_rule": {
        "ditto": [{**LOCAL, "lam": 0.7, "momentum": 0.5, "clip_norm": 0.3, "partial_work": True}],
        "fedrep": [
            {**LOCAL, "head": ("*",), "head_epochs": 1},
            {**LOCAL, "head": ("b*",), "head_epochs": 1, "momentum": 0.5},
        ],
        "sgd": [LOCAL, {**LOCAL, "momentum": 0.9, "weight_decay": 0.1}, {**LOCAL, "epochs": None, "steps": 3}],
        "fedprox": [{**LOCAL, "mu": 0.3, "momentum": 0.5, "partial_work": True}],
        "qfedavg": [{**LOCAL, "q": 1.0}],
        "feddyn": [{**LOCAL, "alpha": 0.1}],
        "scaffold": [{**LOCAL, "option": 1}, {**LOCAL, "option": 2}],
        "": [LOCAL],
    },
    "upload": {
        "top_k": [{"share": 0.3}, {"share": 0.3, "error_feedback": False}],
        "rand_k": [{"share": 0.3}],
        "clip": [{"max_norm": 0.5}],
        "local_dp_noise": [{"max_norm": 0.5, "noise_multiplier": 0.4}],
        "sign_flip": [{"share": 0.2}],
        "qsgd": [{"levels": 4}, {"levels": 4, "bucket": 5}],
    },
    "merge": {
        "trimmed_mean": [{"share": 0.2}],
        "krum": [{"attackers": 2}],
        "multi_krum": [{"attackers": 2}, {"attackers": 1, "keep": 3}],
        "bulyan": [{"attackers": 1}],
        "norm_clip": [{"max_norm": 0.5}],
        "dp": [
            {"max_norm": 0.5, "noise_multiplier": 0.4},
            {"max_norm": 0.5, "noise_multiplier": 0.4, "adaptive": True, "count_noise": 1.0},
        ],
        "dp_ftrl": [{"max_norm": 0.5, "noise_multiplier": 0.4, "restart_every": 4}],
    },
    "server_optimizer": {"feddyn": [{"alpha": 0.1}], "qfedavg": [{"learning_rate": 0.1}]},
    "work": {
        "by_deadline": [{"deadline": 9000}],
        "by_class": [{"shares": (1.0, 0.5, 0.2)}, {"batch_sizes_of": (20, 7, 1)}],
        "by_column": [{"steps_in": "steps"}, {"share_in": "share"}, {"batch_size_in": "size", "steps_in": "steps"}],
    },
    "partition": {
        "dirichlet": [{"alpha": 0.5}, {"alpha": 0.5, "samples_per_client": 12}],
        "shards": [{"shards_per_client": 2}],
        "classes": [{"classes_per_client": 2}],
        "similarity": [{"iid_share": 0.3}],
        "quantity": [{"sigma": 1.0}],
    },
    "skew": {"noise": [{"level": 0.3}], "rotation": [{}, {"angles": (0.0, 30.0)}]},
    "join": {"rank": [{"correlation": 0.5}]},
    "dataset": {"synthetic": [{"alpha": 0.5, "beta": 0.5}]},
}
#: Kinds that need files, or more than a tiny world; each with tests of its own.
ELSEWHERE = {
    "dataset": {"fashion_mnist", "arrays", "store"},
    "partition": {"listed"},
    "join": {"listed", "paired"},
    "listener": set[str](),
}


def cases(slot: str) -> list[Any]:
    """Every kind of a slot, in every way that is to be tested."""
    found = []
    for kind in sorted(set(registry.built_in(slot)) - ELSEWHERE.get(slot, set())):
        ways = OPTIONS.get(slot, {})
        for place, options in enumerate(ways.get(kind, ways.get("", [{}]))):
            found.append(pytest.param((kind, options), id=f"{kind}-{place}"))
    return found


class Cases:
    """The contract of a slot over its kinds."""

    slot: str

    def __init_subclass__(cls) -> None:
        @pytest.fixture(autouse=True, params=cases(cls.slot))
        def case(self: Any, request: pytest.FixtureRequest) -> None:
            self.kind, self.options = request.param

        cls.case = case  # type: ignore[attr-defined]

    def make(self) -> Any:
        return registry.load(self.slot, self.kind)(**self.options)  # type: ignore[attr-defined]


class TestBroadcasts(Cases, BroadcastContract):
    slot = "broadcast"


class TestClientRules(Cases, ClientRuleContract):
    slot = "client_rule"


class TestUploads(Cases, UploadContract):
    slot = "upload"


class TestWeightings(Cases, WeightingContract):
    slot = "weighting"


class TestMerges(Cases, MergeContract):
    slot = "merge"

    @property
    def of_equals_is_equal(self) -> bool:  # type: ignore[override]
        return self.kind not in {"dp", "dp_ftrl", "norm_clip", "mixing", "majority"}  # type: ignore[attr-defined]

    @property
    def takes_buffers(self) -> bool:  # type: ignore[override]
        return self.kind not in {"dp", "dp_ftrl"}  # type: ignore[attr-defined]


class TestServerOptimizers(Cases, ServerOptimizerContract):
    slot = "server_optimizer"

    def needed(self, name: str, seed: int) -> Any:
        if name in {"fair", "nova"}:
            return {"h" if name == "fair" else "norm1": torch.tensor(1.5, dtype=torch.float64)}
        return super().needed(name, seed)


class TestWorkloads(Cases, WorkloadContract):
    slot = "work"


class TestPacings(Cases, PacingContract):
    slot = "pacing"


class TestJoins(Cases, JoinContract):
    slot = "join"


class TestPartitions(Cases, PartitionContract):
    slot = "partition"


class TestDataSets(Cases, DataSetContract):
    slot = "dataset"


class TestSkews(Cases, SkewContract):
    slot = "skew"


class TestListeners(Cases, ListenerContract):
    slot = "listener"


class TestModels(Cases, ModelContract):
    slot = "model"

    @property
    def _text(self) -> bool:
        return self.kind in {"gru", "char_lstm", "transformer"}  # type: ignore[attr-defined]

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (12,) if self._text else (1, 28, 28)

    @property
    def n_tokens(self) -> int | None:  # type: ignore[override]
        return 10 if self._text else None


#: Slots whose contract lies in a module of its own, and what tests it over all kinds.
OTHERS = {
    "aggregation": "aggregators:AggregatorContract",
    "selection": "selectors:SelectorContract",
    "predictor": "predictors:PredictorContract",
    "epochs": "epochs:EpochsContract",
    "network": "networks:NetworkContract",
    "actor": "actors:ActorContract",
    "executor": "executors:ExecutorContract",
    "objective": "objectives:ObjectiveContract",
    "transform": "transforms:TransformContract",
    "trace_format": "traces:TraceContract",
}
#: Readers of files and metrics: functions and parts of objectives, tested with files and with objectives.
NO_CONTRACT = {"data_format", "rate_format", "metric"}


def test_every_slot_has_a_contract() -> None:
    here = {cls.slot for cls in Cases.__subclasses__()}
    assert here | set(OTHERS) | NO_CONTRACT == set(registry.slots())
    for target in OTHERS.values():
        module, name = target.split(":")
        assert inspect.isclass(getattr(import_module(f"evsim.testing.{module}"), name))


def test_every_contract_can_be_imported_without_the_tests_of_this_project() -> None:
    for each in pkgutil.iter_modules(evsim.testing.__path__):
        text = inspect.getsource(import_module(f"evsim.testing.{each.name}"))
        assert "import tests" not in text
        assert "from tests" not in text


# -- contracts catch what breaks them ----------------------------------------------------------------------------------


def broken(contract: type, policy: Any) -> list[str]:
    """The tests of a contract that a policy fails."""
    cls = type("Mine", (contract,), {"make": lambda self: policy})
    failed = []
    for name, test in inspect.getmembers(cls, inspect.isfunction):
        if name.startswith("test_") and len(inspect.signature(test).parameters) == 1:
            try:
                test(cls())
            except (AssertionError, RuntimeError, KeyError):
                failed.append(name)
    return failed


def test_contracts_catch_policies_that_break_them() -> None:
    from evsim.algorithms.int8 import Int8
    from evsim.algorithms.mean import Mean
    from evsim.algorithms.server_sgd import ServerSgd
    from evsim.algorithms.weighting import EqualWeights
    from evsim.training.data.partition import Iid

    class InPlace(type(Int8())):  # type: ignore[misc]
        def encode(self, update: Any, state: Any, meta: Any, key: int) -> Any:
            update["model"]["w"].mul_(2)
            return update, state

    class Forgetful(type(ServerSgd())):  # type: ignore[misc]
        def apply(self, server: Any, merged: Any, info: Any) -> Any:
            return {"model": merged["model"]}

    class Negative(type(EqualWeights())):  # type: ignore[misc]
        def weights(self, reports: Any) -> Any:
            return {"": -np.ones(len(reports))}

    class Doubling(type(Mean())):  # type: ignore[misc]
        def finish(self, acc: Any, server: Any, info: Any) -> Any:
            found = super().finish(acc, server, info)
            return {**found, "model": {k: 2 * leaf for k, leaf in found["model"].items()}}

    class Outside(type(Iid())):  # type: ignore[misc]
        def split(self, *given: Any) -> Any:
            index, offsets = super().split(*given)
            return index + 1, offsets

    assert broken(UploadContract, Int8()) == []
    assert "test_the_same_key_gives_the_same_and_nothing_is_changed_in_place" in broken(UploadContract, InPlace())
    assert "test_it_keeps_the_entries_that_it_says" in broken(ServerOptimizerContract, Forgetful())
    assert broken(WeightingContract, Negative()) == [
        "test_there_is_a_weight_for_payloads_not_named",
        "test_weights_are_finite_and_not_negative",
    ]
    assert broken(MergeContract, Doubling()) == ["test_equal_updates_merge_to_the_same"]
    assert broken(PartitionContract, Outside()) == ["test_clients_have_samples_that_there_are"]
