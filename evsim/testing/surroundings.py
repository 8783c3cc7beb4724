"""What the policies around the learning must do, as tests to inherit: pacing, joins, partitions, data sets, models.

class TestMyPartition(PartitionContract):
    def make(self):
        return MyPartition()
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from evsim.aggregation.pacing import Pacing
from evsim.aggregation.synchronous import Synchronous
from evsim.base.rng import stream
from evsim.base.units import FOREVER
from evsim.base.vocabulary import IntArray
from evsim.testing.timeline import Log, TinyWorld
from evsim.timeline.audience import FACTS, Audience, RunFacts
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.joins.base import Join, Roster
from evsim.traces.speed import DeviceSpeed
from evsim.training.data.base import DataSet, Partition
from evsim.training.data.skew import Seen, Skew
from evsim.training.models.base import Model


class PacingContract(ABC):
    """Deadlines are whole ms in the future, whatever the last round was like."""

    @abstractmethod
    def make(self) -> Pacing:
        """A policy to test."""

    def test_deadlines_are_whole_ms_in_the_future(self) -> None:
        policy = self.make()
        deadline = policy.first()
        for durations in ([], [1], [5000] * 20, [10, 10**7], list(range(1, 40)), []):
            assert isinstance(deadline, int)
            assert 1 <= deadline < FOREVER
            deadline = policy.next(deadline, np.array(durations, np.int64), max(20, len(durations)))

    def test_the_same_round_gives_the_same_deadline(self) -> None:
        policy, durations = self.make(), np.array([300, 20, 4000])
        assert policy.next(1000, durations, 5) == policy.next(1000, durations.copy(), 5)
        assert durations.tolist() == [300, 20, 4000]

    def test_rounds_go_on_with_it(self) -> None:
        world = TinyWorld(trace=AvailabilityTrace.always(6))
        log = world.run(Synchronous(cohort_goal=3, minimum_cohort=1, pacing=self.make()), server_steps=5)
        assert log.end_reason == "server_steps"


class JoinContract(ABC):
    """Every client gets a device that there is; the same for the same seed."""

    @abstractmethod
    def make(self) -> Join:
        """A join to test; it must do for 30 clients and 12 devices."""

    def test_every_client_gets_devices_that_there_are(self) -> None:
        for clients in (1, 12, 30):
            deal = self.make().deal(self.roster(clients))
            for device in (deal.device, deal.speed_device):
                assert device.shape == (clients,)
                assert ((device >= 0) & (device < 12)).all()
            assert (deal.clone >= 0).all()

    def test_the_same_seed_deals_the_same(self) -> None:
        one, other = (self.make().deal(self.roster(30, seed=4)) for _ in range(2))
        assert one.device.tolist() == other.device.tolist()
        assert one.speed_device.tolist() == other.speed_device.tolist()
        assert one.clone.tolist() == other.clone.tolist()

    def roster(self, clients: int, seed: int = 0) -> Roster:
        """Clients and devices to deal."""
        draw = stream(seed, "contract")
        begin = np.arange(12) * 10
        trace = AvailabilityTrace.from_intervals(np.arange(12), begin, begin + 50, n_devices=12, period=1000)
        speed = DeviceSpeed.uniform(12, compute_ms_per_sample=1.0, download_kbps=100.0, upload_kbps=100.0)
        return Roster(draw.integers(1, 50, clients), trace, speed, seed)


class PartitionContract(ABC):
    """Offsets and sample numbers that exist; the same for the same stream, whatever was drawn elsewhere."""

    n_clients: ClassVar[int | None] = 9

    @abstractmethod
    def make(self) -> Partition:
        """A partition to test; it must do for 200 samples of 5 classes in 9 groups."""

    def test_clients_have_samples_that_there_are(self) -> None:
        index, offsets = self._split(0)
        assert offsets[0] == 0
        assert offsets[-1] == len(index)
        assert (np.diff(offsets) >= 0).all()
        assert ((index >= 0) & (index < 200)).all()
        if self.n_clients is not None and not self.make().by_groups:
            assert len(offsets) == self.n_clients + 1

    def test_no_client_has_a_sample_that_nobody_could_tell_from_a_hole(self) -> None:
        index, _ = self._split(0)
        assert index.dtype.kind == "i"
        assert len(index) > 0

    def test_the_same_stream_deals_the_same_and_another_one_may_not(self) -> None:
        one, other = self._split(3), self._split(3)
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])

    def test_labels_and_groups_are_not_changed(self) -> None:
        y, groups = self._labels()
        before = y.copy(), groups.copy()
        self.make().split(y, groups, 5, self.n_clients, stream(0, "partition"))
        np.testing.assert_array_equal(y, before[0])
        np.testing.assert_array_equal(groups, before[1])

    def _split(self, seed: int) -> tuple[IntArray, IntArray]:
        return self.make().split(*self._labels(), 5, self.n_clients, stream(seed, "partition"))

    def _labels(self) -> tuple[IntArray, IntArray]:
        draw = stream(1, "labels")
        return draw.integers(0, 5, 200), np.sort(np.arange(200) % 9)


class DataSetContract(ABC):
    """As many labels as inputs, in range; loaded twice it is the same."""

    n_clients: ClassVar[int | None] = 20

    @abstractmethod
    def make(self) -> DataSet:
        """A data set to test."""

    def test_inputs_and_labels_belong_together(self) -> None:
        found = self._loaded()
        assert len(found.x) == len(found.y) > 0
        if found.groups is not None:
            assert len(found.groups) == len(found.y)
        if found.y.dtype.kind in "iu" and found.y.ndim == 1:
            assert 0 <= int(found.y.min()) <= int(found.y.max()) < max(found.n_classes, 2)

    def test_loaded_twice_it_is_the_same(self) -> None:
        one, other = self._loaded(), self._loaded()
        rows = np.arange(0, len(one.y), max(len(one.y) // 50, 1))
        np.testing.assert_array_equal(np.asarray(one.x[rows]), np.asarray(other.x[rows]))
        np.testing.assert_array_equal(one.y[rows], other.y[rows])

    def _loaded(self) -> Any:
        return self.make().load(n_clients=self.n_clients, seed=3, folder=Path())


class SkewContract(ABC):
    """The same shape; a row depends on its client, its sample and the key alone."""

    @abstractmethod
    def make(self) -> Skew:
        """A skew to test; it must take images of 1x6x6."""

    def test_inputs_keep_their_shape_and_promised_type(self) -> None:
        x, seen = self._rows(np.arange(12))
        found = self.make().apply(x, seen)
        assert found.shape == x.shape
        assert np.isfinite(found).all()
        assert not self.make().refusal(x.shape, tokens=False)

    def test_a_row_does_not_depend_on_the_rows_beside_it(self) -> None:
        order = np.array([7, 2, 11, 0])
        whole = self.make().apply(*self._rows(np.arange(12)))
        np.testing.assert_array_equal(self.make().apply(*self._rows(order)), whole[order])

    def test_inputs_are_not_changed(self) -> None:
        x, seen = self._rows(np.arange(12))
        before = x.copy()
        self.make().apply(x, seen)
        np.testing.assert_array_equal(x, before)

    def _rows(self, rows: IntArray) -> tuple[Any, Seen]:
        x = stream(2, "images").normal(size=(12, 1, 6, 6)).astype(np.float32)
        return x[rows], Seen(client=rows % 4, sample=rows, n_clients=4, key=77)


class ModelContract(ABC):
    """A function of the seed, which touches no global generator; it takes the data's shape."""

    shape: ClassVar[tuple[int, ...]] = (1, 28, 28)
    n_classes: ClassVar[int] = 10
    n_tokens: ClassVar[int | None] = None

    @abstractmethod
    def make(self) -> Model:
        """A model to test."""

    def test_the_same_seed_gives_the_same_and_leaves_the_global_generator_alone(self) -> None:
        before = torch.get_rng_state()
        one, other, third = (self._built(seed).state_dict() for seed in (1, 1, 2))
        assert torch.equal(before, torch.get_rng_state())
        assert all(torch.equal(leaf, other[name]) for name, leaf in one.items())
        assert any(not torch.equal(leaf, third[name]) for name, leaf in one.items())

    def test_it_gives_an_output_for_each_sample(self) -> None:
        model = self._built(0).eval()
        x = torch.zeros(3, *self.shape, dtype=torch.float32 if self.n_tokens is None else torch.int64)
        with torch.no_grad():
            found = model(x)
        assert found.shape[0] == 3
        assert found.shape[-1] == self.n_classes
        assert any(leaf.requires_grad for leaf in model.parameters())

    def _built(self, seed: int) -> torch.nn.Module:
        return self.make().build(shape=self.shape, n_classes=self.n_classes, n_tokens=self.n_tokens, seed=seed)


class ListenerContract(ABC):
    """Hears something, can be called with it, and changes nothing of what happens."""

    @abstractmethod
    def make(self) -> object:
        """A fresh listener."""

    def test_it_hears_facts_that_there_are(self) -> None:
        audience = Audience([self.make()])
        assert any(audience.hears(fact) for fact in FACTS)

    @pytest.mark.parametrize("by_events", [False, True])
    def test_it_changes_nothing(self, tmp_path: Path, *, by_events: bool) -> None:
        quiet, told = (
            self._run(tmp_path / str(k), listener, by_events) for k, listener in enumerate((None, self.make()))
        )
        assert told.timeline_hash == quiet.timeline_hash

    def _run(self, folder: Path, listener: object | None, by_events: bool) -> Log:  # noqa: FBT001
        folder.mkdir()
        begin = np.arange(6) * 40
        trace = AvailabilityTrace.from_intervals(np.arange(6), begin, begin + 500, n_devices=6, period=1000)
        heard = [] if listener is None else [listener]
        if listener is not None and hasattr(listener, "started"):
            listener.started(RunFacts("tiny", 0, 6, 0, 4000, folder, lambda _: None))
        log = TinyWorld(trace=trace, by_events=by_events, listeners=heard).run(
            Synchronous(cohort_goal=2, reporting_deadline=200), until=4000
        )
        if listener is not None and hasattr(listener, "ended"):
            listener.ended(4000, "virtual_time")
        return log
