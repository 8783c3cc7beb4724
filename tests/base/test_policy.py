"""Policies speak for themselves, wherever they stand in a scenario."""

from dataclasses import dataclass, field

from evsim.algorithms.weighting import EqualWeights
from evsim.base.caveat import Caveat
from evsim.base.errors import Problem
from evsim.base.policy import Policy, policies


@dataclass(frozen=True)
class _Talker(Policy):
    name: str
    inner: Policy | None = None

    def problems(self, scenario):
        yield Problem(self.name, str(scenario), "something else")

    def caveats(self, scenario):
        yield Caveat(self.name, f"seen with {scenario}")


@dataclass(frozen=True)
class _Table:
    first: _Talker
    chain: tuple[_Talker, ...]
    other: dict = field(default_factory=dict)


def test_policies_are_found_in_tables_chains_and_other_policies_in_order():
    table = _Table(_Talker("a", _Talker("b")), (_Talker("c"), _Talker("d")), {"no": "policy"})
    assert [each.name for each in policies([table, 3, None])] == ["a", "b", "c", "d"]


def test_a_policy_says_nothing_unless_it_has_something_to_say():
    assert list(EqualWeights().problems(None)) == [] == list(EqualWeights().caveats(None))


def test_what_a_policy_says_is_about_the_scenario_it_is_shown():
    found = [str(each) for talker in policies(_Talker("a")) for each in (*talker.problems(7), *talker.caveats(7))]
    assert found == ["a: 7; expected something else", "seen with 7"]
