"""Counts of a share are those of the decimals that were written."""

from fractions import Fraction
from math import ceil, floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evsim.base.counts import ceil_count, floor_count, round_count


@given(digits=st.integers(1, 6), numerator=st.integers(0, 10**6), n=st.integers(0, 10**6))
def test_they_equal_exact_arithmetic_on_the_decimals(digits, numerator, n):
    share = Fraction(numerator % 10**digits, 10**digits)
    written = float(share)
    assert floor_count(written, n) == floor(share * n)
    assert ceil_count(written, n) == ceil(share * n)
    assert round_count(written, n) == round(share * n)


def test_plain_products_would_not():
    wrong = [(k, n) for k in range(100) for n in range(1, 300) if int(k / 100 * n) != k * n // 100]
    assert (29, 100) in wrong
    assert all(floor_count(k / 100, n) == k * n // 100 for k, n in wrong)


@pytest.mark.parametrize("n", [1, 10, 10**9])
def test_the_smallest_share_of_something_is_one_and_none_of_it_is_none(n):
    assert ceil_count(1e-17, n) == 1
    assert ceil_count(0.0, n) == 0
    assert floor_count(1.0, n) == ceil_count(1.0, n) == n
