"""Every selector passes the contract, and the contract catches selectors that do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from evsim.base.errors import PolicyError, ScenarioError
from evsim.base.vocabulary import IntArray
from evsim.scenario import Scenario
from evsim.selection.base import ClientView, Outcomes, Selector
from evsim.selection.by_samples import BySamples
from evsim.selection.oort import Oort
from evsim.selection.per_client import ClientRecord, PerClient
from evsim.selection.power_of_choice import PowerOfChoice, PowerOfChoiceStale
from evsim.selection.uniform import Uniform
from evsim.testing.selectors import SelectorContract, make_manager
from evsim.timeline.manager import ClientManager


class TestUniform(SelectorContract):
    def make(self) -> Selector[Any]:
        return Uniform()


class TestBySamples(SelectorContract):
    def make(self) -> Selector[Any]:
        return BySamples()


class TestOortPaper(SelectorContract):
    def make(self) -> Selector[Any]:
        return Oort(pacer_window=2)


class TestOortPaperWithEverything(SelectorContract):
    def make(self) -> Selector[Any]:
        return Oort(pacer_delta=700, pacer_window=1, participation_cap=2, fairness=0.3, noise=0.2)


class TestOortFedscale(SelectorContract):
    def make(self) -> Selector[Any]:
        return Oort(preset="fedscale", pacer_window=2, pacer_every=1)


class TestOortFedscaleWithBlacklist(SelectorContract):
    def make(self) -> Selector[Any]:
        return Oort(preset="fedscale", participation_cap=1, sample_cap=10)


class TestPowerOfChoice(SelectorContract):
    def make(self) -> Selector[Any]:
        return PowerOfChoice(d=15)


class TestPowerOfChoiceStale(SelectorContract):
    def make(self) -> Selector[Any]:
        return PowerOfChoiceStale(d=15)


class LeastUsed(PerClient):
    def score(self, client: ClientRecord, view: ClientView) -> float:
        return -client.selected


class TestPerClient(SelectorContract):
    def make(self) -> Selector[Any]:
        return LeastUsed()


@dataclass(frozen=True)
class Fixed(Selector[None]):
    """Returns what it is told to."""

    answer: Any

    def init(self, n_clients: int) -> None:
        return None

    def select(self, state: None, view: ClientView, n: int, key: int) -> tuple[IntArray, None]:
        return self.answer, None

    def feedback(self, state: None, reports: Outcomes) -> None:
        return None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (np.array([1, 2]), "returned 2 clients"),
        (np.array([1, 1, 2]), "twice"),
        (np.array([0, 1, 2]), "client 0, which is not idle"),
        (np.array([1, 2, 60]), "does not exist"),
        (np.array([1, 2, -1]), "does not exist"),
        (np.array([1.0, 2.0, 4.0]), "float64"),
        ([1, 2, 4], "list"),
    ],
)
def test_the_manager_names_the_selector_that_breaks_the_contract(answer: Any, words: str) -> None:
    manager = make_manager(Fixed(answer))
    with pytest.raises(PolicyError, match=words) as caught:
        manager.select_clients(3, 0)
    assert "Fixed.select" in str(caught.value)
    assert "expected 3 distinct idle clients" in str(caught.value)


def test_a_score_that_is_nan_is_refused_with_the_client_named() -> None:
    class ByDuration(PerClient):
        def score(self, client: ClientRecord, view: ClientView) -> float:
            return client.last_duration_ms

    with pytest.raises(PolicyError, match=r"ByDuration.score: NaN for client 1"):
        make_manager(ByDuration()).select_clients(3, 0)


def test_a_manager_without_clients_selects_nobody() -> None:
    assert ClientManager(Uniform(), 0, 0).select_clients(3, 0).tolist() == []


@pytest.mark.parametrize(
    ("selection", "learns"),
    [
        ({"kind": "uniform"}, False),
        ({"kind": "by_samples"}, False),
        ({"kind": "oort"}, True),
        ({"kind": "power_of_choice", "d": 9}, True),
        ({"kind": "power_of_choice_stale", "d": 9}, True),
    ],
)
def test_a_dry_run_refuses_selectors_that_learn_from_losses(selection: dict[str, Any], learns: bool) -> None:
    overrides = [f"selection.{name}={value}" for name, value in selection.items()]
    if not learns:
        assert not Scenario.load("replay", overrides).selection.needs_training
        return
    with pytest.raises(ScenarioError, match=r"selection: .* learns from losses; expected a selector that does not"):
        Scenario.load("replay", overrides)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (np.array([0]), "client 0, which is not idle"),
        (np.array([60]), "does not exist"),
        (np.array([-1]), "does not exist"),
        (np.array([[1]]), "ndarray int64"),
        (np.array([1.0]), "ndarray float64"),
        (np.array([1, 2]), "returned 2 clients"),
        ([1], "returned list"),
    ],
)
def test_a_wrong_choice_of_one_client_is_refused_too(answer: Any, words: str) -> None:
    manager = make_manager(Fixed(answer))
    with pytest.raises(PolicyError, match=words):
        manager.select_clients(1, 0)
