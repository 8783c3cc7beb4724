"""Seconds are counted once, for the innermost part."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from evsim.base import profiling
from evsim.base.profiling import PARTS, part, parts_of, profile


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(profiling, "perf_counter", lambda: now[0])
    return now


def test_a_nested_part_takes_its_time_from_the_one_around_it(clock: list[float]) -> None:
    with profile() as told:
        clock[0] += 1
        with part("timeline"):
            clock[0] += 2
            with part("merge"):
                clock[0] += 4
            clock[0] += 8
        with part("merge"):
            clock[0] += 16
        clock[0] += 32
    assert told.seconds == {"other": 33, "timeline": 10, "merge": 20}
    assert told.total == 63


def test_a_lazy_iterator_counts_only_what_making_its_values_takes(clock: list[float]) -> None:
    def slow() -> Iterator[int]:
        for k in range(3):
            clock[0] += 1
            yield k

    with profile() as told:
        for _ in parts_of("forward/backward", slow()):
            clock[0] += 10
    assert told.seconds == {"forward/backward": 3, "other": 30}


def test_an_error_closes_its_part(clock: list[float]) -> None:
    def fails() -> None:
        with part("evaluation"):
            clock[0] += 1
            raise ValueError("no")

    with profile() as told:
        with pytest.raises(ValueError, match="no"):
            fails()
        clock[0] += 5
    assert told.seconds == {"other": 5, "evaluation": 1}


def test_without_a_profile_parts_do_nothing() -> None:
    with part("data"):
        pass
    assert list(parts_of("data", [1, 2])) == [1, 2]


def test_the_table_starts_with_the_largest_part(clock: list[float]) -> None:
    with profile() as told:
        clock[0] += 1
        with part("recording"):
            clock[0] += 3
    assert [line.split()[0] for line in told.lines()] == ["recording", "other"]
    assert told.lines()[0].endswith("75.0 %")
    assert set(told.seconds) <= set(PARTS)
