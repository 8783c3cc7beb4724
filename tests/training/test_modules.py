"""What a module may hold, and what becomes of it in a run: frozen leaves, buffers, modes, draws; what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from evsim.algorithms.base import Method
from evsim.algorithms.compositions import COMPOSITIONS
from evsim.algorithms.schedule import Schedule, last_batches_of_one
from evsim.algorithms.server_sgd import ServerSgd
from evsim.algorithms.top_k import TopK
from evsim.base import registry
from evsim.base.errors import ModelError, TrainingError
from evsim.scenario.assembling import DEFAULTS
from evsim.testing.executors import make_job
from evsim.testing.zoo import FAILING, N_CLASSES, REFUSED, SIDE, STOCHASTIC, ZOO, Frozen, StillNorm, made
from evsim.training.data.base import FederatedData
from evsim.training.executors.base import Executor
from evsim.training.executors.probe import batch_of_one
from evsim.training.executors.serial import Serial
from evsim.training.executors.workers import Workers
from evsim.training.learning.learning import Learning, Setting
from evsim.training.models.base import check_model
from evsim.training.models.factory import Factory
from evsim.training.models.leaves import averaged, local, saved, trained, wires
from tests.algorithms.oracle import Drive

SLOTS = ("broadcast", "client_rule", "weighting", "merge", "server_optimizer")
SIZES = (6, 8, 7, 12)


def images(sizes: tuple[int, ...] = SIZES) -> FederatedData:
    total = sum(sizes)
    draw = np.random.default_rng(3)
    x = draw.normal(size=(total, 1, SIDE, SIDE))
    y = draw.integers(0, N_CLASSES, total)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return FederatedData(
        x=x,
        y=y,
        index=np.arange(total),
        offsets=offsets,
        x_test=x[:9],
        y_test=y[:9],
        n_classes=N_CLASSES,
        n_tokens=None,
        name="images",
    )


def policy(slot: str, table: Mapping[str, Any]) -> Any:
    """A policy of a slot; 0.1 for what it requires beside the table."""
    cls = registry.load(slot, table["kind"])
    given = {"batch_size": 4, "momentum": 0.5, "weight_decay": 0.1} if slot == "client_rule" else {}
    missing = {each.name: 0.1 for each in fields(cls) if each.default is MISSING and each.default_factory is MISSING}
    known = {each.name for each in fields(cls)}
    return cls(**{k: v for k, v in {**missing, **given, **table}.items() if k in known})


def run(
    model: nn.Module,
    algorithm: str = "fedavg",
    executor: Executor | None = None,
    sizes: tuple[int, ...] = SIZES,
    **slots: Any,
) -> Learning:
    tables = {**DEFAULTS, **COMPOSITIONS[algorithm].tables}
    made_slots = {slot: policy(slot, tables[slot]) for slot in SLOTS}
    method = Method(**{"upload": (), **made_slots, **slots})
    setting = Setting(seed=5, precision="float64", cohort_goal=2)
    return Learning(method, model, images(sizes), executor or Serial(threads=1), setting)


# -- frozen leaves -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", sorted(COMPOSITIONS))
def test_frozen_leaves_stay_bit_for_bit_and_are_nowhere_but_in_the_saved_model(algorithm):
    server = run(made(Frozen), algorithm)
    before = server.tensors()
    drive = Drive(server)
    for cohort in ((0, 1), (2, 3)):
        server.apply(drive.dispatch(cohort))
    after = server.tensors()
    assert list(after) == ["a.weight", "a.bias", "b.weight", "b.bias"]
    moved = {name for name in after if not np.array_equal(after[name], before[name])}
    assert moved == {"b.weight"}
    frozen = {"a.weight", "a.bias", "b.bias"}
    everywhere = [server._server, server._message()]
    assert not frozen & {name for payload in everywhere for tree in payload.values() for name in tree}


def test_only_trained_leaves_and_averaged_buffers_are_paid_for():
    assert {name: set(leaves) for name, leaves in wires(made(Frozen), 32).items()} == {
        "model": {"b.weight"},
        "buffers": set(),
    }
    masked = made(ZOO["masked"])
    assert set(averaged(masked)) == {"order"}
    assert set(local(masked)) == {"mask", "shift"}
    assert set(saved(masked)) == set(masked.state_dict())
    tied = made(ZOO["tied"])
    assert set(trained(tied)) == {"a.weight", "a.bias", "out.weight", "out.bias"}


@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_module_of_the_zoo_lives_through_a_run_and_keeps_the_kinds_of_its_leaves(name):
    server = run(made(ZOO[name]))
    before = server.tensors()
    server.apply(Drive(server).dispatch((0, 1, 3)))
    after = server.tensors()
    assert {k: (v.dtype, v.shape) for k, v in after.items()} == {k: (v.dtype, v.shape) for k, v in before.items()}
    assert np.isfinite(server.evaluate(3)["loss"])
    assert not server.diverged
    for k, v in after.items():
        if v.dtype == np.bool_:
            np.testing.assert_array_equal(v, before[k])


def test_narrow_counters_are_averaged_as_whole_numbers():
    server = run(made(ZOO["narrow"]))
    server.apply(Drive(server).dispatch((0, 3)))  # 2 and 3 steps, weights 6 and 12
    found = server.tensors()
    assert found["left"].tolist() == [200 - round((2 * 6 + 3 * 12) / 18)] * 3
    assert found["steps"] == round((2 * 6 + 3 * 12) / 18)


@pytest.mark.parametrize("name", ["still_norm", "still_by_train", "all_still", "cumulative_norm"])
def test_evaluation_puts_every_module_back_into_its_own_mode(name):
    model = made(ZOO[name])
    server = run(model)
    before = [module.training for module in model.modules()]
    server.evaluate(4)
    server.losses(np.array([0, 1]))
    assert [module.training for module in model.modules()] == before


def test_a_norm_in_evaluation_mode_keeps_its_statistics():
    server = run(made(StillNorm))
    before = server.tensors()
    server.apply(Drive(server).dispatch((0, 1)))
    for name in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"):
        np.testing.assert_array_equal(server.tensors()[name], before[name])


# -- draws -------------------------------------------------------------------------------------------------------------


def outcome(name: str, executor: Executor, disturbed: int) -> list[Any]:
    """Everything a run tells, with the global generators somewhere else each time."""
    torch.manual_seed(disturbed)
    server = run(made(STOCHASTIC[name]), executor=executor)
    drive, told = Drive(server), list[Any]()
    for cohort in ((0, 1), (2, 3)):
        torch.rand(disturbed)
        feedback = server.apply(drive.dispatch(cohort))
        told += [feedback.utility, server.losses(np.array([0, 3])), server.evaluate_clients(5)["loss"]]
        told += [np.array([*server.evaluate(4).values()])]
    told += server.tensors().values()
    server.close()
    return told


@pytest.mark.parametrize("name", sorted(STOCHASTIC))
def test_two_runs_of_a_stochastic_model_agree_in_everything_they_tell(name):
    with torch.random.fork_rng(devices=[]):
        one, two = outcome(name, Serial(threads=1), 1), outcome(name, Serial(threads=1), 2)
        three = outcome(name, Workers(workers=2), 3)
    for a, b, c in zip(one, two, three, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c, rtol=1e-9, atol=1e-12)


def test_versions_and_seeds_draw_differently_and_the_global_generator_is_put_back():
    server = run(made(STOCHASTIC["functional_dropout"]))
    before = torch.get_rng_state()
    first = server.evaluate(4)
    assert server.evaluate(4) == first
    server.version += 1
    assert server.evaluate(4) != first
    assert torch.equal(before, torch.get_rng_state())


# -- divergence --------------------------------------------------------------------------------------------------------


def test_a_server_step_that_leaves_the_numbers_is_seen():
    server = run(made(Frozen), server_optimizer=ServerSgd(learning_rate=1e308))
    drive = Drive(server)
    assert not server.diverged
    feedback = server.apply(drive.dispatch((0, 1)))
    for _ in range(60):
        if server.diverged:
            break
        feedback = server.apply(drive.dispatch((0, 1)))
        assert server.diverged or feedback.valid.any()
    assert server.diverged


def test_a_model_that_begins_with_a_number_that_is_not_finite_has_diverged():
    model = made(Frozen)
    model.b.weight.data[0, 0] = torch.nan
    server = run(model)
    assert server.diverged
    assert not server.apply(Drive(server).dispatch((0, 1))).valid.any()


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_module_that_is_no_function_of_its_leaves_is_refused_before_any_training(name):
    make, said = REFUSED[name]
    with pytest.raises(ModelError) as caught:
        run(made(make))
    assert said in str(caught.value)


@pytest.mark.parametrize("name", sorted(ZOO | STOCHASTIC))
def test_nothing_of_the_zoo_is_refused(name):
    model = made((ZOO | STOCHASTIC)[name])
    check_model(model, images())
    run(model)


def test_an_error_in_evaluation_is_a_sentence_too():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(SIDE * SIDE, N_CLASSES)

        def forward(self, x):
            if not self.training:
                raise LookupError("only here")
            return self.inner(x.flatten(1))

    server = run(Net())
    with pytest.raises(TrainingError, match=r"model Net \(while it is evaluated\): LookupError: only here\n  test_mod"):
        server.evaluate(4)


def fail(*given):
    raise LookupError("no such thing")


@pytest.mark.parametrize("slot", ["broadcast", "weighting", "merge", "server_optimizer", "upload"])
def test_an_error_in_any_policy_of_the_method_names_its_slot_and_shows_its_lines(slot):
    usual = {**{each: policy(each, DEFAULTS[each]) for each in SLOTS if each != "client_rule"}, "upload": TopK(share=1)}
    methods = dict.fromkeys(("send", "weights", "finish", "apply", "encode"), fail)
    broken = object.__new__(type("Broken", (type(usual[slot]),), methods))
    broken.__dict__.update(vars(usual[slot]))
    server = run(made(Frozen), **{slot: (broken,) if slot == "upload" else broken})
    with pytest.raises(TrainingError, match=rf"^{slot} Broken \(.*\): LookupError: no such thing\n  test_modules.py, "):
        server.apply(Drive(server).dispatch((0, 1)))


# -- lazy layers -------------------------------------------------------------------------------------------------------


def lazy(n_classes):
    return nn.Sequential(
        nn.Flatten(), nn.LazyLinear(7), nn.LazyBatchNorm1d(), nn.Dropout(0.5), nn.ReLU(), nn.LazyLinear(n_classes)
    )


def test_lazy_layers_are_initialised_from_the_seed():
    def build(seed):
        return Factory(target=f"{__name__}:lazy").build(shape=(1, 8, 8), n_classes=3, n_tokens=None, seed=seed)

    one, two, other = build(0), build(0), build(1)
    check_model(one, images_of(3))
    assert {name: tuple(leaf.shape) for name, leaf in one.named_parameters()}["1.weight"] == (7, 64)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one[1].weight, other[1].weight)
    assert all(module.training for module in one.modules())
    assert int(one[2].num_batches_tracked) == 0


def images_of(n_classes: int) -> FederatedData:
    data = images()
    return FederatedData(
        x=data.x.astype(np.float32),
        y=data.y % n_classes,
        index=data.index,
        offsets=data.offsets,
        x_test=data.x_test.astype(np.float32),
        y_test=data.y_test % n_classes,
        n_classes=n_classes,
        n_tokens=None,
        name="images",
    )


# -- the last batch ----------------------------------------------------------------------------------------------------


SCHEDULES = [
    Schedule(size, epochs, steps, drop)
    for size in (1, 3, 4)
    for epochs, steps in ((1, None), (3, None), (None, 1), (None, 5), (None, 6))
    for drop in (False, True)
]


def sizes_by_hand(schedule: Schedule, n: int) -> list[int]:
    """The sizes of a client's mini-batches, as a DataLoader gives them."""
    one = [min(schedule.batch_size, n - start) for start in range(0, n, schedule.batch_size)]
    if schedule.drop_last and len(one) > 1 and one[-1] < schedule.batch_size:
        one = one[:-1]
    if schedule.epochs is not None:
        return one * schedule.epochs
    return (one * (schedule.steps or 0))[: schedule.steps] if n else []


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_a_schedule_counts_what_a_loader_would_give(schedule):
    n = np.arange(12)
    by_hand = [sizes_by_hand(schedule, size) for size in n.tolist()]
    assert schedule.n_steps(n).tolist() == [len(sizes) for sizes in by_hand]
    assert schedule.n_processed(n).tolist() == [sum(sizes) for sizes in by_hand]
    assert last_batches_of_one(schedule, n).tolist() == [1 in sizes for sizes in by_hand]
    for done in range(8):
        steps = np.minimum(done, schedule.n_steps(n))
        assert schedule.n_processed_in(n, steps).tolist() == [sum(sizes[:done]) for sizes in by_hand]
        budget = np.full_like(n, done)
        within = schedule.n_steps_within(n, budget)
        for size, sizes, count in zip(n.tolist(), by_hand, within.tolist(), strict=True):
            assert sum(sizes[:count]) <= done, size
            full = count == len(sizes) or sum(sizes[: count + 1]) > done
            assert full or sizes[count] < schedule.batch_size, (
                size
            )  # a short last batch is never begun for its own sake


def test_clients_whose_last_batch_holds_one_sample_are_counted_where_the_model_minds():
    sizes = (8, 5, 1, 0, 9)
    norm, plain = made(FAILING["norm"]), made(Frozen)
    samples = np.array(sizes)
    rule = make_job(plain).rule
    assert batch_of_one(make_job(plain, rule, sizes=sizes), samples) is None
    caveat = batch_of_one(make_job(norm, rule, sizes=sizes), samples)
    assert caveat is not None
    assert caveat.measure == "3 of 4 clients with data"
    assert "two samples" in caveat.remedy
    assert "drop_last" in batch_of_one(make_job(norm, rule, sizes=(8, 5)), np.array([8, 5])).remedy
    still = make_job(made(ZOO["still_norm"]), rule, sizes=sizes)
    assert batch_of_one(still, samples) is None


@pytest.mark.parametrize(("sizes", "client"), [((8, 5, 4, 12), 1), ((8, 1, 4, 12), 1), ((8, 4, 4, 12), None)])
def test_a_rehearsal_trains_the_clients_that_differ_most_and_leaves_no_trace(sizes, client):
    server = run(made(FAILING["norm"]), sizes=sizes)
    before, state = server.tensors(), torch.get_rng_state()
    if client is None:
        server.rehearse()
        assert server.caveats() == []
    else:
        with pytest.raises(TrainingError, match=rf"client {client}, .*\n.*drop_last"):
            server.rehearse()
        assert [caveat.key for caveat in server.caveats()] == ["batch_of_one"]
    assert server.version == 0
    assert torch.equal(state, torch.get_rng_state())
    for name, value in server.tensors().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_module_is_refused():
    with pytest.raises(ModelError, match="a scripted module"):
        run(torch.jit.trace(made(Frozen), torch.zeros(2, 1, SIDE, SIDE)))
