"""A client is one that has data and so can be drawn: clients without data change nothing, whatever reads N."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from evsim.algorithms.attacks import SignFlip
from evsim.algorithms.compositions import COMPOSITIONS
from evsim.algorithms.dp import DpMean
from evsim.algorithms.privacy import Sampling, account
from evsim.algorithms.scaffold import Scaffold, ScaffoldSgd, WithControl
from evsim.algorithms.sgd import Sgd
from evsim.algorithms.weighting import EqualWeights
from evsim.results import load_run
from evsim.run.simulation import Simulation
from evsim.scenario import Scenario
from evsim.training.data.base import Partition
from evsim.training.data.label_flip import LabelFlip
from tests.algorithms.oracle import ROUNDS, SIZES, Drive, learning, parameters, problem

BASE = """
name = "short"
precision = "float64"
model = "softmax"
executor = "serial"
stop = { server_steps = 4 }
client_rule = { kind = "sgd", learning_rate = 0.1, batch_size = 10 }
cost = { model_bytes = 1_000_000, sample_scale = 60 }
population = { clients = 12, availability = "always", speed = { compute_ms_per_sample = 20, download_kbps = 5000, \
upload_kbps = 2000 } }
aggregation = { kind = "synchronous", cohort_goal = 6 }
selection = { kind = "by_samples", power = 0 }
"""  # uniform: by keys of clients; kind = "uniform" draws numbers below the size of the population
REAL = 12


@dataclass(frozen=True, kw_only=True)
class FirstTwelve(Partition):
    """Twelve clients share the samples, unequally; all others have none."""

    def split(self, y, groups, n_classes, n_clients, rng):
        sizes = np.zeros(n_clients, np.int64)
        sizes[:REAL] = 5 + np.arange(REAL)
        return np.arange(sizes.sum()), np.concatenate([[0], np.cumsum(sizes)])


def _run(tmp_path, clients, *overrides):
    (tmp_path / "short.toml").write_text(
        f'{BASE}data = {{ dataset = "digits", partition = {{ kind = "{__name__}:FirstTwelve" }} }}\n'
    )
    scenario = Scenario.load(tmp_path / "short.toml", [f"population.clients={clients}", *overrides])
    folder = Simulation(scenario).run(tmp_path / f"run{len(list(tmp_path.iterdir()))}", None)
    manifest = json.loads((folder / "manifest.json").read_text())
    return load_run(folder).tasks, load_file(folder / "model.safetensors"), manifest


WAYS = {
    **{name: [f'algorithm="{name}"'] for name in COMPOSITIONS if name != "fedasync"},
    "fedasync in buffers": ['algorithm="fedasync"', 'aggregation={ kind="buffered", concurrency=5, buffer_size=1 }'],
    "fedbuff in buffers": ['algorithm="fedbuff"', 'aggregation={ kind="buffered", concurrency=8, buffer_size=4 }'],
    "sign flips": ['upload=[{ kind="sign_flip", share=0.4 }]'],
    "label flips": ["data.label_flip={ share = 0.4 }"],
    **{
        kind: [f'selection={{ kind="{kind}" }}']
        for kind in ("oort", "by_samples", "power_of_choice", "power_of_choice_stale")
    },
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # methods of buffers run in rounds here: said, and tested elsewhere
@pytest.mark.parametrize("way", WAYS)
def test_clients_without_data_change_nothing(way, tmp_path):
    extra = ["selection.d=8"] if way.startswith("power") else []
    tasks, model, manifest = _run(tmp_path, REAL, *WAYS[way], *extra)
    more, same, other = _run(tmp_path, REAL + 19, *WAYS[way], *extra)
    pd.testing.assert_frame_equal(tasks, more)
    assert model.keys() == same.keys()
    assert all(np.array_equal(model[name], same[name]) for name in model)
    assert (manifest["privacy"], manifest["timeline_hash"]) == (other["privacy"], other["timeline_hash"])


def test_they_give_no_privacy(tmp_path):
    few, many = (
        _run(tmp_path, clients, 'algorithm="dp_fedavg"', "merge.noise_multiplier=0", "selection.kind=uniform")[2][
            "privacy"
        ]
        for clients in (REAL, REAL + 19)
    )
    assert few == many
    assert few["sampling_rate"] == 6 / REAL


# -- and what N is, against loops of the test's own --------------------------------------------------------------------


def test_scaffold_divides_by_the_clients_with_data():
    """With all of them in every round the server's control is the mean of theirs: only N = 6 gives that."""
    rule = ScaffoldSgd(learning_rate=0.1, batch_size=4, epochs=1)
    slots = {"broadcast": WithControl(), "client_rule": rule, "weighting": EqualWeights()}
    server = learning(problem((*SIZES, 0, 0, 0)), **slots, server_optimizer=Scaffold())
    drive = Drive(server)
    for clients in ROUNDS:
        drive.round(clients)
    mean = dict.fromkeys(("weight", "bias"), 0.0)
    for client in range(len(SIZES)):
        kept = server.client_states.get(client).get("rule", {}).get("control", {})
        mean = {name: total + kept.get(name, 0.0) / len(SIZES) for name, total in mean.items()}
    found = server._server["control"]
    for name, leaf in found.items():
        np.testing.assert_allclose(leaf.numpy(), mean[name].numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("empty", [(), (0, 1), (3, 8), (9, 10)])
def test_a_share_of_the_clients_with_data_is_malicious_wherever_the_others_stand(empty):
    sizes = [4] * 11
    for client in empty:
        sizes[client] = 0
    data = problem(tuple(sizes))
    with_data = [client for client in range(11) if client not in empty]
    start, bad = parameters(_fresh(data)), []
    for client in with_data:
        own = [Drive(server).round((client,)) for server in (_fresh(data), _fresh(data, _FLIP))]
        bad += [client] if np.allclose(own[0] - start, start - own[1]) else []
    assert len(bad) == round(0.3 * len(with_data))
    labels = LabelFlip(share=0.3).transform(data, 11)
    assert [client for client in with_data if _rows(labels, client).min() >= len(data.y)] == bad
    for client in bad:
        np.testing.assert_array_equal(labels.y[_rows(labels, client)], 2 - data.y[_rows(data, client)])


_FLIP = SignFlip(share=0.3)


def _fresh(data, *upload):
    return learning(data, client_rule=Sgd(learning_rate=0.1), upload=upload)


def _rows(data, client):
    return data.index[data.offsets[client] : data.offsets[client + 1]]


def test_the_sampling_rate_is_the_share_of_the_clients_that_can_be_drawn_and_never_above_one():
    ideal = {"always_available": True, "uniform": True, "synchronous": True}
    assert Sampling(n_clients=876, cohort=20, **ideal).rate == 20 / 876
    assert Sampling(n_clients=3, cohort=20, **ideal).rate == 1.0
    assert Sampling(n_clients=0, cohort=20, **ideal).rate == 1.0
    silent = account(DpMean(max_norm=0.5, noise_multiplier=0.0), Sampling(n_clients=3, cohort=20, **ideal), 30)
    assert (silent.sampling_rate, silent.epsilon_if_poisson) == (1.0, None)


def test_epsilon_of_a_cohort_of_20_of_876():
    merge = DpMean(max_norm=0.5, noise_multiplier=1.0)
    found = account(
        merge, Sampling(n_clients=876, cohort=20, always_available=True, uniform=True, synchronous=True), 30
    )
    assert found.epsilon_if_poisson == pytest.approx(1.122, abs=5e-4)
