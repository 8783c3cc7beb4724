"""Transforms of batches: the contract of every kind, what each does, and where each is applied."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from evsim import Scenario, Simulation, load_run
from evsim.base.errors import DataError, EvsimError, PolicyError, TrainingError
from evsim.testing.executors import TRANSFORMS, make_job, make_tasks, mlp, opened
from evsim.testing.transforms import TransformContract
from evsim.training.data.base import Samples, federate
from evsim.training.data.gathered import Gathered
from evsim.training.data.partition import Iid
from evsim.training.data.samples import Inputs, TrainingData, inputs
from evsim.training.data.transforms.base import Draws, Transform, applied, check_transforms
from evsim.training.data.transforms.images import Flip, PadAndCrop
from evsim.training.data.transforms.mask import Mask
from evsim.training.data.transforms.normalize import Normalize
from evsim.training.executors.serial import Serial
from tests.training.data.test_base import Fixed

CPU = torch.device("cpu")
PAIR = (Normalize(mean=(0.1, 0.2), deviation=(0.5, 0.25)), Flip())


class TestNormalize(TransformContract):
    def make(self):
        return Normalize(mean=(0.1, 0.2, 0.3), deviation=(2.0,))


class TestPadAndCrop(TransformContract):
    def make(self):
        return PadAndCrop(pixels=2)


class TestFlip(TransformContract):
    def make(self):
        return Flip()


class TestMask(TransformContract):
    def make(self):
        return Mask(rows=4, columns=8, bands=2)


class TestMaskOfSpectraWithoutChannels(TransformContract):
    shape = (5, 9)

    def make(self):
        return Mask(columns=3)


def draws(n, key=7):
    return Draws(np.full(n, key), np.arange(n), 0, CPU)


def images(n=6, shape=(2, 5, 7)):
    return torch.from_numpy(np.random.default_rng(0).random((n, *shape)))


def test_normalize_does_what_it_says_by_channel_and_on_plain_numbers():
    x = images()
    made = PAIR[0].apply(x, draws(6))
    assert torch.equal(made[:, 0], (x[:, 0] - 0.1) / 0.5)
    assert torch.equal(made[:, 1], (x[:, 1] - 0.2) / 0.25)
    flat = images(6, (4,))
    assert torch.equal(Normalize(mean=(1.0,), deviation=(2.0,)).apply(flat, draws(6)), (flat - 1) / 2)


def test_a_crop_is_a_part_of_the_padded_image_and_each_place_is_as_likely():
    n, pixels = 5_000, 2
    x = images(1).expand(n, -1, -1, -1)
    made = PadAndCrop(pixels=pixels).apply(x, draws(n))
    padded = pad(x[:1], [pixels] * 4)
    cuts = torch.stack([padded[0, :, i : i + 5, j : j + 7] for i in range(5) for j in range(5)])
    same = (made[:, None] == cuts[None]).flatten(2).all(2)
    assert (same.sum(1) == 1).all()  # each sample is one of the 25 cuts
    counts = same.sum(0).numpy()
    assert ((counts - n / 25) ** 2 / (n / 25)).sum() < 62  # chi-squared, 24 degrees: a false alarm in 3e-5


def test_a_flip_is_the_mirror_image_with_its_chance():
    x = images(2_000)
    made = Flip(chance=0.3).apply(x, draws(2_000))
    flipped = (made == x.flip(3)).flatten(1).all(1)
    assert (flipped | (made == x).flatten(1).all(1)).all()
    assert abs(int(flipped.sum()) - 600) < 5 * np.sqrt(2_000 * 0.3 * 0.7)  # five standard errors
    assert torch.equal(Flip(chance=0.0).apply(x, draws(2_000)), x)
    assert torch.equal(Flip(chance=1.0).apply(x, draws(2_000)), x.flip(3))


def test_a_mask_is_one_band_of_rows_and_one_of_columns_of_every_width_that_is_allowed():
    x = torch.ones(3_000, 1, 6, 8)
    made = Mask(rows=2, columns=3).apply(x, draws(3_000))[:, 0]
    rows, columns = (made == 0).all(2), (made == 0).all(1)
    assert torch.equal(made == 0, rows[:, :, None] | columns[:, None, :])
    for hidden, most in ((rows, 2), (columns, 3)):
        edges = torch.diff(hidden.int(), prepend=torch.zeros(len(x), 1), append=torch.zeros(len(x), 1))
        assert ((edges == 1).sum(1) <= 1).all()  # one band, wherever it is
        assert set(hidden.sum(1).tolist()) == set(range(most + 1))
        assert hidden.any(0).all()  # every place is hidden sometimes
    everything = Mask(rows=6).apply(x, draws(3_000))
    assert (everything == 0).flatten(1).all(1).any()


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_draws_depend_on_client_task_step_and_place_and_on_the_transforms_number(transform):
    x, keys = images(1, (1, 8, 8)).expand(40, -1, -1, -1), np.array([11, 12])
    whole = applied((transform,), x.reshape(2, 20, 1, 8, 8), (2, 20), keys)
    again = applied((transform,), x[:20], (20,), keys[1])
    assert torch.equal(whole[1], again)  # a client alone, as in serial
    assert torch.equal(applied((transform,), x[:5], (5,), keys[1]), again[:5])  # a shorter batch is a part
    differ = not torch.equal(whole[0], whole[1])
    assert differ == transform.draws
    twice = applied((transform, transform), x[:20], (20,), keys[1])
    assert torch.equal(twice, transform.apply(again, Draws(np.repeat(keys[1], 20), np.arange(20), 1, CPU)))


def test_without_a_key_only_what_does_not_draw_is_applied():
    x = images()
    assert torch.equal(applied(PAIR, x, (6,), None), PAIR[0].apply(x, draws(6)))


@pytest.mark.parametrize("where", ["float", "bytes", "later"])
def test_inputs_are_normalized_wherever_they_are_used_and_stay_as_they_are_stored(where):
    raw = np.random.default_rng(0).integers(0, 256, (10, 2, 4, 4), np.uint8)
    stored = {"float": (raw / 255).astype(np.float32), "bytes": raw, "later": Gathered(raw)}[where]
    x = inputs(stored, torch.float64, tokens=False, transforms=PAIR)
    assert isinstance(x, Inputs)
    assert x.raw.dtype in ({torch.float64} if where == "float" else {torch.uint8, np.dtype(np.uint8)})
    expected = PAIR[0].apply(torch.from_numpy(raw / 255), draws(10))
    data = TrainingData(x, torch.zeros(10, dtype=torch.int64), np.arange(10), np.array([0, 10]))
    rows = torch.tensor([[3, 1], [0, 9]])
    for found, wanted in (
        (x[2:5], expected[2:5]),
        (x[rows], expected[rows]),
        (data.take(rows)[0], expected[rows]),
    ):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    keys = np.array([5, 6])
    trained = applied(PAIR, torch.from_numpy(raw / 255)[rows], (2, 2), keys)
    torch.testing.assert_close(data.take(rows, keys)[0], trained, atol=1e-6, rtol=0)


def test_a_clients_next_task_and_next_step_draw_anew():
    job = make_job(mlp())
    x = Inputs(job.data.x, torch.float64, (PadAndCrop(pixels=2),))
    job = replace(job, data=replace(job.data, x=x))
    with opened(Serial(), job) as run:
        first, second = (run([replace(make_tasks(job)[4], nth=nth)])[0].update["model"] for nth in (0, 1))
    assert any(not torch.equal(first[name], second[name]) for name in first)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transform", "shape", "tokens", "said"),
    [
        (Normalize(mean=(0.1, 0.2), deviation=(1.0,)), (9, 3, 8, 8), False, "have 3 channels; mean or deviation has 2"),
        (Normalize(mean=(0.1,), deviation=(1.0,)), (9, 80), True, "are token ids; expected numbers"),
        (Flip(), (9, 64), False, r"have the shape \(64,\); expected images"),
        (PadAndCrop(), (9, 80), True, "are token ids; expected images"),
        (Mask(rows=3), (9, 64), False, r"have the shape \(64,\); expected two axes"),
        (Mask(rows=9), (9, 1, 8, 8), False, "have 8 rows and 8 columns; a band may not have more"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_inputs_that_cannot_be_transformed_are_refused(transform, shape, tokens, said):
    with pytest.raises(DataError, match=rf"^data.transform.0: the inputs of mine {said}"):
        check_transforms((transform,), shape, "mine", tokens=tokens)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Normalize(mean=(), deviation=(1.0,)), "mean needs at least one number"),
        (lambda: Normalize(mean=(0.0,), deviation=(0.0,)), "deviation must hold finite numbers > 0"),
        (lambda: Normalize(mean=(0.0, 1.0), deviation=(1.0, 1.0, 1.0)), "as many numbers, or one"),
        (lambda: PadAndCrop(pixels=0), "pixels must be >= 1"),
        (lambda: Flip(chance=1.5), r"chance must lie in \[0, 1\]"),
        (Mask, "rows or columns must be > 0"),
        (lambda: Mask(rows=1, bands=0), "bands must be >= 1"),
    ],
    ids=["no mean", "no deviation", "unequal", "pixels", "chance", "nothing masked", "no band"],
)
def test_options_that_mean_nothing_are_refused(make, said):
    with pytest.raises(PolicyError, match=said):
        make()


@dataclass(frozen=True, kw_only=True)
class Halved(Transform):
    def refusal(self, shape, *, tokens):
        return ""

    def apply(self, x, draws):
        return x[:, :1]


def test_a_transform_that_gives_another_shape_is_named():
    with pytest.raises(TrainingError, match=r"transform Halved gave torch.float64 \(6, 1, 5, 7\); expected"):
        applied((Halved(),), images(), (6,), np.int64(3))


# -- in a run ----------------------------------------------------------------------------------------------------------

SCENARIO = """
extends = "quickstart"
stop = { server_steps = 3 }
[aggregation]
cohort_goal = 4
minimum_cohort = 4
minimum_reports = 2
[[data.transform]]
kind = "normalize"
mean = [0.3]
deviation = [0.4]
[[data.transform]]
kind = "pad_and_crop"
pixels = 1
"""


def scenario(tmp_path, *overrides):
    (tmp_path / "s.toml").write_text(SCENARIO, encoding="utf-8")
    return Scenario.load(tmp_path / "s.toml", overrides)


def test_a_scenario_with_transforms_is_written_and_read_again(tmp_path):
    found = scenario(tmp_path)
    assert [type(each) for each in found.data.transform] == [Normalize, PadAndCrop]
    (tmp_path / "again.toml").write_text(found.to_toml(), encoding="utf-8")
    assert Scenario.load(tmp_path / "again.toml").data == found.data


def test_executors_agree_on_a_run_that_is_not_the_one_without_transforms(tmp_path):
    made = {}
    for name, overrides in {
        "serial": ["executor.kind=serial"],
        "batched": ["executor.kind=batched"],
        "again": ["executor.kind=serial"],
        "plain": ["executor.kind=serial", "data.transform=[]"],
    }.items():
        Simulation(scenario(tmp_path, "precision=float64", *overrides)).run(tmp_path / name)
        found = load_run(tmp_path / name).evaluations
        made[name] = float(found[found["metric"] == "loss"]["value"].iloc[-1])
    assert made["serial"] == made["again"]
    assert made["batched"] == pytest.approx(made["serial"], rel=1e-9)
    assert made["plain"] != pytest.approx(made["serial"], rel=1e-3)


def test_a_transform_that_does_not_fit_the_data_is_said_before_a_run(tmp_path):
    with pytest.raises(EvsimError, match=r"data.transform.0: the inputs of synthetic.* have the shape"):
        Simulation(
            scenario(
                tmp_path,
                "data.dataset={kind='synthetic', alpha=0, beta=0}",
                "data.partition=natural",
                "model=softmax",
                "data.transform=[{kind='flip'}]",
            )
        ).run(tmp_path / "r")


def test_federated_data_carries_its_transforms_to_training_and_to_the_test_set():
    samples = Samples(np.ones((20, 2, 4, 4), np.float32), np.arange(20) % 2, 2, None, "mine")
    data = federate(Fixed(samples), Iid(), test_fraction=0.2, n_clients=3, seed=0, folder=Path())
    made = TrainingData.of(replace(data, transforms=PAIR), torch.float32, CPU)
    torch.testing.assert_close(made.x[:2][0, 0, 0, 0], torch.tensor(1.8))
