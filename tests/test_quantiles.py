"""Quantiles without SciPy: they are SciPy's."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from sa_lib.quantiles import normal_radius, root, student, student_quantile

FREEDOM = np.concatenate([np.linspace(1, 10, 91), np.geomspace(10, 1e5, 50)])


@pytest.mark.parametrize("level", [0.01, 0.5, 0.9, 0.95, 0.999])
def test_quantiles_of_students_t(level):
    np.testing.assert_allclose(student_quantile(level, FREEDOM), special.stdtrit(FREEDOM, (1 + level) / 2), rtol=1e-8)


@pytest.mark.parametrize("t", [0.0, 0.01, 1.0, 3.0, 30.0, 1e6])
def test_students_t(t):
    np.testing.assert_allclose(student(t, FREEDOM), 1 - 2 * special.stdtr(FREEDOM, -t), atol=1e-6)
    small = FREEDOM[FREEDOM < 200]
    np.testing.assert_allclose(student(t, small), 1 - 2 * special.stdtr(small, -t), atol=1e-12)


@given(st.floats(0.001, 0.999), st.floats(1, 1000))
def test_the_quantile_is_the_inverse(level, freedom):
    assert float(student(student_quantile(level, freedom), freedom)) == pytest.approx(level, abs=1e-10)


@pytest.mark.parametrize("dimensions", [1, 2, 8, 64, 512])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_the_radius_that_holds_a_share_of_a_normal_vector(dimensions, share):
    expected = math.sqrt(2 * special.gammaincinv(dimensions / 2, share))
    assert normal_radius(dimensions, share) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("function, low, high, answer", [
    (lambda x: math.exp(x) - 1000, 0, 50, math.log(1000)), (lambda x: x**3 - 2, 0, 2, 2 ** (1 / 3)),
    (lambda x: math.atan(x - 1), 30, -5, 1), (lambda x: x - 0.3, 0, 1, 0.3), (lambda x: x, 0, 1, 0)])
def test_a_root_is_found(function, low, high, answer):
    assert root(function, low, high) == pytest.approx(answer, abs=1e-14)
