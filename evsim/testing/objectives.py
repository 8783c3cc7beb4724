"""What every objective must do, as tests to inherit: give `make`, get the rest.

class TestMyObjective(ObjectiveContract):
    def make(self):
        return MyObjective()
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import grad, vmap
from typing_extensions import override

from evsim.base import rng
from evsim.testing.zoo import made
from evsim.training.objectives.base import Groups, Objective, criterion

WIDTH = 3  # classes, tokens, flags or numbers; of a binary objective 2
TIME = 4
_COUNT = 60


class ObjectiveContract(ABC):
    """Losses are of single samples, metrics are exact: over batches of any size, and over any groups of samples."""

    @abstractmethod
    def make(self) -> Objective:
        """The objective."""

    def test_a_loss_is_that_of_its_sample(self) -> None:
        objective, (outputs, y) = self.make(), self.judged()
        losses = objective.loss(outputs, y)
        assert losses.shape == (_COUNT,)
        assert bool((losses >= 0).all())
        alone = torch.cat([objective.loss(outputs[k : k + 1], y[k : k + 1]) for k in range(_COUNT)])
        torch.testing.assert_close(alone, losses, rtol=1e-12, atol=1e-12)

    def test_losses_and_gradients_of_stacked_clients_are_those_of_each(self) -> None:
        objective, (outputs, y) = self.make(), self.judged()

        def mean_loss(some: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return criterion(objective)(some, labels).mean()

        parts = outputs.reshape(5, -1, *outputs.shape[1:]), y.reshape(5, -1, *y.shape[1:])
        stacked = vmap(grad(mean_loss))(*parts)
        alone = torch.stack([grad(mean_loss)(*each) for each in zip(*parts, strict=True)])
        assert bool(stacked.any())
        torch.testing.assert_close(stacked, alone, rtol=1e-12, atol=1e-14)

    def test_half_precision_outputs_are_widened_before_the_loss(self) -> None:
        objective, (outputs, y) = self.make(), self.judged()
        half = outputs.bfloat16()
        torch.testing.assert_close(criterion(objective)(half, y), objective.loss(half.float(), y), rtol=0.0, atol=0.0)

    @pytest.mark.parametrize("size", [1, 7, _COUNT])
    def test_metrics_are_exact_over_batches(self, size: int) -> None:
        objective, (outputs, y) = self.make(), self.judged()
        whole = objective.measure(objective.keep(outputs, y), Groups.whole(_COUNT))
        parts = [objective.keep(outputs[k : k + size], y[k : k + size]) for k in range(0, _COUNT, size)]
        kept = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        found = objective.measure(kept, Groups.whole(_COUNT))
        assert tuple(found) == objective.names
        for name, value in found.items():
            np.testing.assert_allclose(value, whole[name], rtol=1e-12, err_msg=name)
            assert np.isfinite(value).all(), name

    def test_metrics_of_groups_are_those_of_each_group_alone(self) -> None:
        objective, (outputs, y) = self.make(), self.judged()
        index = np.concatenate([np.arange(_COUNT)[::-1], [4, 4, 9]])
        groups = Groups(index, np.array([0, 1, 1, 30, _COUNT, _COUNT + 3]))
        found = objective.measure(objective.keep(outputs, y), groups)
        for place in range(len(groups)):
            rows = index[groups.offsets[place] : groups.offsets[place + 1]]
            kept = objective.keep(outputs[rows], y[rows])
            alone = objective.measure(kept, Groups(np.arange(len(rows)), np.array([0, len(rows)])))
            for name, value in alone.items():
                np.testing.assert_allclose(found[name][place], value[0], rtol=1e-12, err_msg=name)
        assert all(np.isnan(value[1]) for value in found.values())  # nobody's: nothing to judge

    def test_what_is_not_finite_stays_in_its_group(self) -> None:
        objective, (outputs, y) = self.make(), self.judged()
        outputs[:2] = torch.nan
        found = objective.measure(objective.keep(outputs, y), Groups(np.arange(_COUNT), np.array([0, 2, _COUNT])))
        kept = objective.keep(outputs[2:], y[2:])
        alone = objective.measure(kept, Groups(np.arange(_COUNT - 2), np.array([0, _COUNT - 2])))
        assert np.isnan(found["loss"][0])
        for name, value in found.items():
            np.testing.assert_allclose(value[1], alone[name][0], rtol=1e-12, err_msg=name)

    def test_every_metric_has_a_name_of_its_own_and_judges_what_the_objective_decides(self) -> None:
        objective = self.make()
        assert len(set(objective.names)) == len(objective.names)
        assert all(objective.form in metric.forms for metric in objective.metrics)
        assert objective.headline in objective.names

    def judged(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs of a model in float64, and labels, of 60 samples."""
        objective = self.make()
        y = labels_of(objective, _COUNT)
        shape = objective.output_shape(y.shape[1:], width_of(objective))
        count = int(np.prod(shape))
        draws = rng.normal(rng.key(0, "objective contract", "outputs"), np.arange(_COUNT * count))
        return torch.from_numpy(draws).reshape(_COUNT, *shape), y


def width_of(objective: Objective) -> int:
    """How many classes, tokens, flags or numbers there are in trials."""
    return 2 if objective.form == "binary" else WIDTH


def labels_of(objective: Objective, count: int) -> torch.Tensor:
    """Labels at random as an objective wants them; of time steps some are none, never all of a sample."""
    key, width = rng.key(0, "objective contract", "labels"), width_of(objective)
    shape = {"classes": (count,), "steps": (count, TIME), "flags": (count, width), "numbers": (count, width)}
    size = int(np.prod(shape[objective.labels]))
    if objective.labels == "numbers":
        return torch.from_numpy(rng.normal(key, np.arange(size))).reshape(count, width)
    draws = rng.hash64(key, np.arange(size)) % np.uint64(2 if objective.labels == "flags" else width)
    y = torch.from_numpy(draws.astype(np.int64)).reshape(shape[objective.labels])
    if objective.labels == "flags":
        return y.to(torch.uint8)
    if objective.labels == "steps":
        lengths = torch.arange(count) % TIME + 1
        y[torch.arange(TIME) >= lengths[:, None]] = -1
    return y


def model_of(objective: Objective, n_inputs: int) -> nn.Module:
    """A small model whose outputs fit an objective."""
    shape = objective.output_shape(tuple(labels_of(objective, 1).shape[1:]), width_of(objective))
    return made(lambda: _Shaped(n_inputs, shape))


class _Shaped(nn.Module):
    """One hidden layer, outputs of any shape."""

    def __init__(self, n_inputs: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.hidden, self.out = nn.Linear(n_inputs, 6), nn.Linear(6, int(np.prod(shape)))

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.out(torch.tanh(self.hidden(x.flatten(1))))
        return found.reshape(len(x), *self.shape)
