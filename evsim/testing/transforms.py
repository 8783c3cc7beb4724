"""What every transform of inputs must do, as tests to inherit: give `make`, get the rest.

class TestMyTransform(TransformContract):
    def make(self):
        return MyTransform()
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import pytest
import torch

from evsim.base import rng
from evsim.training.data.transforms.base import Draws, Transform

_N, _CPU = 24, torch.device("cpu")


class TransformContract(ABC):
    """A transform makes new inputs of the same shape and type, each a function of its own input and draws."""

    shape: tuple[int, ...] = (3, 8, 8)  # of one input that the transform takes

    @abstractmethod
    def make(self) -> Transform:
        """The transform."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
    def test_shape_and_type_stay_and_the_inputs_are_not_changed(self, dtype: torch.dtype) -> None:
        x = self._inputs().to(dtype)
        before = x.clone()
        made = self.make().apply(x, _draws())
        assert (made.shape, made.dtype) == (x.shape, dtype)
        assert torch.equal(x, before)
        assert made.data_ptr() != x.data_ptr()

    def test_a_row_depends_on_its_own_input_and_draws_alone(self) -> None:
        x, transform = self._inputs(), self.make()
        whole = transform.apply(x, _draws())
        for rows in (np.array([5]), np.arange(_N)[::-1].copy(), np.array([3, 3, 0])):
            assert torch.equal(transform.apply(x[torch.from_numpy(rows)], _draws(rows)), whole[torch.from_numpy(rows)])

    def test_it_draws_if_and_only_if_it_says_so(self) -> None:
        x, transform = self._inputs(), self.make()
        same = torch.equal(transform.apply(x, _draws()), transform.apply(x, _draws(step=1)))
        assert same != transform.draws
        assert torch.equal(transform.apply(x, _draws()), transform.apply(x, _draws()))

    def test_no_sample_at_all_is_taken(self) -> None:
        x = self._inputs()[:0]
        assert self.make().apply(x, _draws(np.arange(0))).shape == x.shape

    def test_these_inputs_are_taken_and_token_ids_are_refused_or_taken_with_a_reason(self) -> None:
        assert self.make().refusal((_N, *self.shape), tokens=False) == ""
        assert isinstance(self.make().refusal((_N, 5), tokens=True), str)

    def _inputs(self) -> torch.Tensor:
        drawn = rng.uniform(rng.key(0, "transform contract"), np.arange(_N * int(np.prod(self.shape))))
        return torch.from_numpy(drawn).reshape(_N, *self.shape)


def _draws(rows: np.ndarray | None = None, step: int = 0) -> Draws:
    """Draws of some rows of a batch of four clients."""
    rows = np.arange(_N) if rows is None else rows
    keys = rng.hash64(rng.key(0, "step"), rows % 4, step).view(np.int64)
    return Draws(keys, rows // 4, 0, _CPU)
