"""What every policy of a federated algorithm must do, as tests to inherit: give `make`, get the rest.

class TestMyMerge(MergeContract):
    def make(self):
        return MyMerge()
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from evsim.algorithms import tree
from evsim.algorithms.base import (
    Broadcast,
    ClientInfo,
    ClientRule,
    KeepsModel,
    Merge,
    OpeningPass,
    PartialWork,
    ReportMeta,
    Reports,
    ServerOptimizer,
    StatefulMerge,
    StepInfo,
    Upload,
    Weighting,
    Wire,
    Wires,
    WorkBySteps,
    opening_of,
    total_bytes,
)
from evsim.algorithms.tree import Payload, Tree
from evsim.algorithms.workload import Promised, Workload, checked_batch_sizes, checked_steps
from evsim.base.errors import TrainingError
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.training.executors.stacking import stack_payloads, unstack

_SHAPES = {"w": (3, 4), "b": (4,)}
_SIZES = np.array([0, 1, 7, 20, 33], np.int64)


def leaves(seed: int, scale: float = 1.0) -> Tree:
    """A small tree of parameters in float64."""
    draw = np.random.default_rng(seed)
    return {name: torch.from_numpy(scale * draw.normal(size=shape)) for name, shape in _SHAPES.items()}


def message(seed: int, entries: frozenset[str] = frozenset()) -> Payload:
    """Model, buffers, and other entries that are shaped as the model."""
    return {"model": leaves(seed), "buffers": {"n": torch.tensor([1.0, float(seed)], dtype=torch.float64)}} | {
        name: leaves(seed + 17) for name in sorted(entries - {"model", "buffers"})
    }


def dense(payload: Payload) -> Wires:
    """How a payload travels as it is."""
    return {
        entry: {name: Wire(leaf.numel(), leaf.numel()) for name, leaf in own.items()} for entry, own in payload.items()
    }


def copied(payload: Payload) -> Payload:
    """The same numbers elsewhere."""
    return {entry: {name: leaf.clone() for name, leaf in own.items()} for entry, own in payload.items()}


def names(payload: Any) -> dict[str, list[str]]:
    """Entries and the names in them."""
    return {entry: sorted(own) for entry, own in payload.items()}


def assert_same(one: Payload, other: Payload, atol: float = 0.0) -> None:
    """The same entries, leaves, shapes and numbers."""
    assert names(one) == names(other)
    for entry, own in one.items():
        for name, leaf in own.items():
            torch.testing.assert_close(leaf, other[entry][name], rtol=0, atol=atol, equal_nan=True)


class BroadcastContract(ABC):
    """What is sent is what was said, and the server's state stays as it is."""

    @abstractmethod
    def make(self) -> Broadcast:
        """A broadcast to test."""

    def test_the_message_has_the_entries_that_it_says(self) -> None:
        policy = self.make()
        found = policy.send(self._server(policy))
        assert set(found) == set(policy.sends) >= {"model", "buffers"}

    def test_what_travels_is_what_is_sent(self) -> None:
        policy = self.make()
        found, server = policy.send(self._server(policy)), message(0)
        wires = policy.wires(dense({"model": server["model"], "buffers": server["buffers"]}))
        assert names(wires) == names(found)
        assert total_bytes(wires) > 0

    def test_the_state_of_the_server_is_not_changed_and_the_same_gives_the_same(self) -> None:
        policy = self.make()
        server = self._server(policy)
        before = copied(server)
        assert_same(policy.send(server), policy.send(server))
        assert_same(server, before)

    def _server(self, policy: Broadcast) -> Payload:
        return message(0, policy.sends)


class ClientRuleContract(ABC):
    """Leafwise: a client alone and clients stacked are the same; costs fit the steps; nothing is changed in place."""

    @abstractmethod
    def make(self) -> ClientRule:
        """A rule to test."""

    @pytest.mark.parametrize("steps", [0, 1, 3])
    def test_clients_stacked_are_what_each_is_alone(self, steps: int) -> None:
        rule = self.make()
        received = [message(seed, rule.receives) for seed in (1, 2, 3)]
        states = [_known(rule, rule.init_client(each), place) for place, each in enumerate(received)]
        versions = torch.tensor([0, 4, 11])
        alone = [self._task(rule, *each, steps) for each in zip(received, states, versions, strict=True)]
        together = self._task(rule, stack_payloads(received), stack_payloads(states), versions, steps, stacked=3)
        for part in (0, 1):
            for one, other in zip(alone, unstack(together[part], 3), strict=True):
                assert_same(one[part], other, atol=1e-12)

    def test_an_update_has_the_entries_that_it_says_and_travels_so(self) -> None:
        rule, received = self.make(), message(1, self.make().receives)
        update, state = self._task(rule, received, _known(rule, rule.init_client(received), 0), torch.tensor(0), 2)
        assert set(update) == set(rule.sends) - {"buffers"}
        wires = rule.wires(dense({"model": received["model"], "buffers": received["buffers"]}))
        assert {entry: own for entry, own in names(wires).items() if entry != "buffers"} == names(update)
        kept = {entry: own for entry, own in state.items() if entry != "client"}
        assert names(kept) == names(rule.init_client(received)), "the next state must be shaped as the first one"
        assert tree.is_finite(update)

    def test_without_a_step_the_model_has_gained_nothing(self) -> None:
        rule, received = self.make(), message(1, self.make().receives)
        update, _ = self._task(rule, received, _known(rule, rule.init_client(received), 0), torch.tensor(0), 0)
        assert all(bool((leaf == 0).all()) for leaf in update["model"].values())

    def test_what_is_received_and_kept_is_not_changed_in_place(self) -> None:
        rule, received = self.make(), message(1, self.make().receives)
        state = _known(rule, rule.init_client(received), 0)
        before = copied(received), copied(state)
        self._task(rule, received, state, torch.tensor(3), 2)
        assert_same(received, before[0])
        assert_same(state, before[1])

    def test_costs_are_those_of_the_steps(self) -> None:
        rule = self.make()
        work, steps = rule.work(_SIZES), rule.schedule.n_steps(_SIZES)
        assert work.samples.shape == work.forward_samples.shape == _SIZES.shape
        assert (work.samples >= 0).all()
        assert work.samples[0] == work.forward_samples[0] == steps[0] == 0
        assert (steps[1:] >= 1).all()
        if isinstance(rule, WorkBySteps) and not rule.schedule.is_drawn:
            whole = rule.work_of(_SIZES, steps)
            assert whole.samples.tolist() == work.samples.tolist()
            fewer = rule.work_of(_SIZES, np.minimum(steps, 1))
            assert (fewer.samples <= work.samples).all()

    def test_steps_that_fit_cost_no_more_than_there_is(self) -> None:
        rule = self.make()
        if not isinstance(rule, PartialWork):
            return
        steps = rule.schedule.n_steps(_SIZES)
        for processed in (0, 1, 13, 10_000):
            fit = rule.n_steps_within(_SIZES, np.full(len(_SIZES), processed))
            assert ((fit >= 0) & (fit <= steps)).all()
            cost = rule.work_of(_SIZES, fit).samples
            assert (cost[fit > 0] <= processed).all()

    def test_a_model_that_is_kept_has_the_leaves_of_the_model(self) -> None:
        rule, received = self.make(), message(1, self.make().receives)
        if isinstance(rule, KeepsModel):
            own = rule.own_model(received, rule.init_client(received))
            assert {entry: names(own)[entry] for entry in ("model", "buffers")} == names(message(1))

    def _task(
        self, rule: ClientRule, received: Payload, state: Payload, version: torch.Tensor, steps: int, stacked: int = 0
    ) -> tuple[Payload, Payload]:
        """The update and the next state after some steps along gradients that are a function of the parameters."""
        carry = rule.begin(received, state, version)
        if isinstance(rule, OpeningPass) and opening_of(rule) != "none":
            parts = [
                leaf.reshape(*leaf.shape[: bool(stacked)], -1).square().mean(-1) for leaf in carry["train"].values()
            ]
            loss = torch.stack(parts).sum(0)
            carry = rule.opened(carry, loss, _gradient(carry["train"]) if opening_of(rule) == "gradient" else {})
        for _ in range(steps):
            carry = rule.step(carry, _gradient(carry["train"]), received, state)
        update = rule.finish(carry, received, state, torch.full((stacked,), steps) if stacked else torch.tensor(steps))
        return update.payload, update.state


def _gradient(train: Tree) -> Tree:
    return {name: torch.sin(3 * leaf) for name, leaf in train.items()}


def _known(rule: ClientRule, state: Payload, place: int) -> Payload:
    """A state with what the rule wants to know of its client."""
    if not rule.knows:
        return state
    info = ClientInfo.unknown(np.array([5 + place]))
    info = replace(
        info, compute_ms=np.array([1.0 + place]), download_kbps=np.array([10.0]), upload_kbps=np.array([9.0])
    )
    return {**state, "client": {name: torch.tensor(getattr(info, name)[0]) for name in rule.knows}}


class UploadContract(ABC):
    """The server sees the same leaves, finite, the same for the same key; what is sent is no more than it was."""

    @abstractmethod
    def make(self) -> Upload:
        """A transform to test."""

    def test_leaves_keep_names_shapes_and_precision(self) -> None:
        update = message(3)
        found, state = self._encoded(update)
        assert names(found) == names(update)
        for entry, own in found.items():
            for name, leaf in own.items():
                assert (leaf.shape, leaf.dtype) == (update[entry][name].shape, torch.float64)
        assert names(state) == names(self.make().init_client(update))
        assert tree.is_finite(found)

    def test_the_same_key_gives_the_same_and_nothing_is_changed_in_place(self) -> None:
        update = message(3)
        before = copied(update)
        assert_same(self._encoded(update)[0], self._encoded(update)[0])
        assert_same(update, before)

    def test_an_update_of_zeros_stays_finite(self) -> None:
        update = {entry: tree.zeros(own) for entry, own in message(3).items()}
        found, state = self._encoded(update)
        assert tree.is_finite(found)
        assert tree.is_finite(state)

    def test_the_state_goes_on_over_tasks(self) -> None:
        policy, state = self.make(), self.make().init_client(message(3))
        for key in range(4):
            found, state = policy.encode(message(key), state, _meta(key), key)
            assert tree.is_finite(found)

    def test_no_more_travels_than_the_numbers_and_a_header(self) -> None:
        wires = dense(message(3))
        found = self.make().wires(wires)
        assert names(found) == names(wires)
        for entry, own in found.items():
            for name, wire in own.items():
                assert 0 <= wire.sent <= wire.size == wires[entry][name].size
                assert wire.n_bytes >= 0

    def _encoded(self, update: Payload) -> tuple[Payload, Payload]:
        policy = self.make()
        return policy.encode(update, policy.init_client(update), _meta(0), 99)


def _meta(place: int, n_clients: int = 40, base: Payload | None = None) -> ReportMeta:
    return ReportMeta(place, place, 10 + place, 3, 0, 0, 0, n_clients, message(0) if base is None else base, place)


class WeightingContract(ABC):
    """Weights are finite, not negative, and of each report by itself."""

    @abstractmethod
    def make(self) -> Weighting:
        """A weighting to test."""

    def test_weights_are_finite_and_not_negative(self) -> None:
        for found in self.make().weights(self._reports()).values():
            assert found.shape == (6,)
            assert (np.isfinite(found) & (found >= 0)).all()

    def test_there_is_a_weight_for_payloads_not_named(self) -> None:
        found = self.make().weights(self._reports())
        assert "" in found
        assert found[""].sum() > 0

    def test_the_order_of_reports_turns_their_weights_alone(self) -> None:
        turn = np.array([5, 2, 0, 1, 4, 3])
        one, other = self.make().weights(self._reports()), self.make().weights(self._reports(turn))
        for name, weights in one.items():
            np.testing.assert_allclose(other[name], weights[turn], rtol=1e-12)

    def test_what_is_known_of_clients_is_there(self) -> None:
        info = self._reports().info
        assert len(info) == 6

    def _reports(self, turn: IntArray | None = None) -> Reports:
        order = np.arange(6) if turn is None else turn
        return Reports(order, np.array([3, 1, 40, 7, 7, 12])[order], np.array([0, 0, 3, 1, 0, 9])[order])


class MergeContract(ABC):
    """Payloads in, one payload out: finite, deterministic; too few updates are refused in a sentence."""

    #: Whether updates that are all the same merge to that update, with weights of one.
    of_equals_is_equal: ClassVar[bool] = True
    #: Whether it takes models with buffers.
    takes_buffers: ClassVar[bool] = True

    @abstractmethod
    def make(self) -> Merge[Any]:
        """A merge to test; at most 8 updates must suffice."""

    def test_the_merged_update_has_the_leaves_of_the_updates(self) -> None:
        found = self._merged([self._update(seed) for seed in range(8)])
        assert names(found) == names(self._update(0))
        assert tree.is_finite(found)

    def test_equal_updates_merge_to_the_same(self) -> None:
        found = self._merged([self._update(4)] * 8)
        if self.of_equals_is_equal:
            assert_same(found, self._update(4), atol=1e-9)

    def test_the_same_updates_give_the_same_and_are_not_changed_in_place(self) -> None:
        updates = [self._update(seed) for seed in range(8)]
        before = [copied(update) for update in updates]
        one = copied(self._merged(updates))
        assert_same(one, self._merged(updates))
        for update, old in zip(updates, before, strict=True):
            assert_same(update, old)

    def test_too_few_updates_are_refused(self) -> None:
        least = self.make().minimum_updates
        assert 1 <= least <= 8
        assert names(self._merged([self._update(seed) for seed in range(least)])) == names(self._update(0))
        if least > 1:
            with pytest.raises(TrainingError, match=str(least)):
                self._merged([self._update(seed) for seed in range(least - 1)])

    def test_entries_of_the_server_state_go_on(self) -> None:
        policy = self.make()
        if isinstance(policy, StatefulMerge):
            first = policy.init_state(leaves(0))
            server, info = {**self._update(0), **first}, _info(8)
            acc = policy.init(server, info)
            for place in range(8):
                acc = policy.add(acc, self._update(place), {"": 1.0}, _meta(place))
            policy.finish(acc, server, info)
            assert set(policy.next_state(acc, server, info)) <= set(first)

    def _merged(self, updates: list[Payload]) -> Payload:
        policy, info = self.make(), _info(len(updates))
        server = self._update(0)
        if isinstance(policy, StatefulMerge):
            server = {**server, **policy.init_state(server["model"])}
        acc = policy.init(server, info)
        for place, update in enumerate(updates):
            acc = policy.add(acc, copied(update), {"": 1.0}, _meta(place, base=server))
        return policy.finish(acc, server, info)

    def _update(self, seed: int) -> Payload:
        found = message(seed)
        return found if self.takes_buffers else {**found, "buffers": {}}


def _info(n_reports: int, version: int = 0) -> StepInfo:
    return StepInfo(version, 40, n_reports, n_reports, 5)


class ServerOptimizerContract(ABC):
    """State in, state out: the same entries, finite, nothing changed in place."""

    @abstractmethod
    def make(self) -> ServerOptimizer:
        """An optimizer to test."""

    def test_it_keeps_the_entries_that_it_says(self) -> None:
        policy = self.make()
        assert set(policy.init(leaves(0))) <= set(policy.keeps)
        after = policy.apply(self._server(policy), self._update(policy, 1), _info(3))
        assert names(after) == names(self._server(policy))
        assert tree.is_finite(after)

    def test_nothing_is_changed_in_place_and_the_same_gives_the_same(self) -> None:
        policy = self.make()
        server, update = self._server(policy), self._update(policy, 1)
        before = copied(server), copied(update)
        assert_same(policy.apply(server, update, _info(3)), policy.apply(server, update, _info(3)))
        assert_same(server, before[0])
        assert_same(update, before[1])

    def test_buffers_are_the_callers(self) -> None:
        policy = self.make()
        after = policy.apply(self._server(policy), self._update(policy, 1), _info(3))
        assert_same({"": after["buffers"]}, {"": message(0)["buffers"]})

    def test_many_steps_stay_finite(self) -> None:
        policy = self.make()
        server = self._server(policy)
        for version in range(12):
            server = policy.apply(server, self._update(policy, version), _info(3, version))
        assert tree.is_finite(server)

    def _server(self, policy: ServerOptimizer) -> Payload:
        return {**message(0), **policy.init(leaves(0))}

    def _update(self, policy: ServerOptimizer, seed: int) -> Payload:
        """What the optimizer needs; entries beside the model are shaped as it, or a positive number."""
        scalars = {"scalars": {"": torch.tensor(1.5, dtype=torch.float64)}}
        found = {"model": leaves(seed, 0.1), "buffers": message(seed)["buffers"]}
        for name in sorted(policy.needs - {"model", "buffers"}):
            found[name] = self.needed(name, seed) or scalars["scalars"]
        return found

    def needed(self, name: str, seed: int) -> Tree:
        """An entry of the merged update beside model and buffers; by default shaped as the model."""
        return leaves(seed + 5, 0.1)


class WorkloadContract(ABC):
    """Whole steps, at least one for who has data, the same for the same device whoever stands beside it."""

    @abstractmethod
    def make(self) -> Workload:
        """A policy to test."""

    def test_everybody_with_data_has_something_to_do_and_nobody_more_than_is_scheduled(self) -> None:
        found = checked_steps(self.make(), *self._clients(np.arange(40)))
        assert found.dtype == np.int64
        assert (found[1:] >= 1).all()
        assert (found <= 30).all()

    def test_a_mini_batch_holds_a_sample_or_more_and_none_more_than_the_rule_says(self) -> None:
        turn, (info, *_) = np.random.default_rng(3).permutation(40), self._clients(np.arange(40))
        found = checked_batch_sizes(self.make(), info, 20)
        assert ((found >= 1) & (found <= 20)).all()
        turned = checked_batch_sizes(self.make(), self._clients(turn)[0], 20)
        np.testing.assert_array_equal(turned, found[turn])

    def test_the_order_of_clients_turns_their_steps_alone(self) -> None:
        turn = np.random.default_rng(3).permutation(40)
        one, other = (checked_steps(self.make(), *self._clients(order)) for order in (np.arange(40), turn))
        np.testing.assert_array_equal(other, one[turn])

    def test_the_same_clients_have_the_same_steps(self) -> None:
        policy, given = self.make(), self._clients(np.arange(40))
        np.testing.assert_array_equal(policy.steps(*given), policy.steps(*given))

    def _clients(self, order: IntArray) -> tuple[ClientInfo, IntArray, Promised]:
        speed: FloatArray = (1.0 + np.arange(40) * 7 % 40)[order].astype(np.float64)
        samples = np.where(np.arange(40) == 0, 0, 20 + np.arange(40))[order]
        more = {"steps": np.asarray(1.0 + order % 45), "share": np.asarray((1.0 + order % 8) / 8)}
        more["size"] = np.asarray(1.0 + order % 20)
        info = replace(ClientInfo.unknown(samples), compute_ms=speed, client=order, more=more)
        scheduled = np.where(samples > 0, 30, 0)
        return info, scheduled, Promised(np.asarray(50 * speed), np.asarray(900 * speed), np.zeros(40))
