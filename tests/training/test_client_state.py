"""The store of client states: generations, a budget of memory, pinned snapshots."""

from __future__ import annotations

import pytest
import torch

from evsim.training.learning.client_state import ClientStates


def _states(value: float, size: int = 100):
    return {
        "rule": {"control": {"net.0.weight": torch.full((size,), value), "b": torch.tensor(value)}},
        "upload0": {"since": {"version": torch.tensor(value)}},
    }


def _value(states):
    return float(states["rule"]["control"]["net.0.weight"][0])


def test_a_client_without_an_accepted_task_has_no_state():
    store = ClientStates()
    assert store.get(5) == {}
    assert store.generation(5) == 0
    assert len(store) == 0


def test_what_exceeds_the_budget_lies_on_disk_and_comes_back_equal(tmp_path):
    store = ClientStates(budget=3 * 408, folder=tmp_path)
    for client in range(10):
        store.put(client, _states(float(client)))
    assert store.bytes_in_memory <= 3 * 408
    assert 7 <= len(list(tmp_path.iterdir())) <= 8
    for client in range(10):
        states = store.get(client)
        assert _value(states) == client
        assert float(states["upload0"]["since"]["version"]) == client
        assert states["rule"]["control"]["b"].shape == ()


def test_only_current_and_pinned_generations_are_kept(tmp_path):
    store = ClientStates(budget=0, folder=tmp_path)
    store.put(1, _states(1.0))
    store.put(2, _states(2.0))
    assert store.snapshot() == {1: 1, 2: 1}
    store.put(1, _states(10.0))
    store.put(1, _states(11.0))
    assert store.generation(1) == 3
    assert _value(store.get(1)) == 11.0
    assert _value(store.get(1, 1)) == 1.0  # pinned
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "client-1-1.safetensors",
        "client-1-3.safetensors",
        "client-2-1.safetensors",
    ]
    assert store.snapshot() == {1: 3, 2: 1}
    with pytest.raises(FileNotFoundError):
        store.get(1, 1)


def test_a_generation_pinned_in_memory_stays_readable():
    store = ClientStates()
    store.put(1, _states(1.0))
    store.snapshot()
    store.put(1, _states(2.0))
    assert (_value(store.get(1, 1)), _value(store.get(1))) == (1.0, 2.0)
    store.snapshot()
    assert store.bytes_in_memory == 408


def test_the_temporary_folder_goes_away_with_the_store():
    store = ClientStates(budget=0)
    store.put(1, _states(1.0))
    folder = store.folder
    assert folder is not None
    assert folder.is_dir()
    store.close()
    assert not folder.exists()


@pytest.mark.parametrize("budget", [0, 1 << 30])
def test_what_was_put_since_begin_can_be_undone(budget, tmp_path):
    store = ClientStates(budget=budget, folder=tmp_path)
    store.put(1, _states(1.0))
    store.begin()
    for value in (2.0, 3.0):
        store.put(1, _states(value))
        store.put(2, _states(value))
    assert _value(store.get(1)) == 3.0
    store.undo()
    assert (store.generation(1), _value(store.get(1))) == (1, 1.0)
    assert (len(store), store.get(2)) == (1, {})
    assert store.bytes_in_memory == (408 if budget else 0)
    store.put(2, _states(4.0))
    store.begin()
    store.undo()  # nothing was put since
    assert _value(store.get(2)) == 4.0
    store.put(2, _states(5.0))
    store.begin()
    assert store.bytes_in_memory == (2 * 408 if budget else 0)
    assert len(list(tmp_path.iterdir())) == (0 if budget else 2)
