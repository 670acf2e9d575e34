from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.filtering.beta import beta_cdf, beta_quantile

PARAMETERS = st.floats(0.5, 500)


@settings(deadline=None, max_examples=60)
@given(st.floats(0.0, 1.0), PARAMETERS, PARAMETERS)
def test_the_distribution_function_is_that_of_mpmath(x: float, a: float, b: float) -> None:
    found = beta_cdf(np.array([x]), np.array([a]), np.array([b]))[0]
    assert found == pytest.approx(float(mpmath.betainc(a, b, 0, x, regularized=True)), abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([0.025, 0.5, 0.975]), PARAMETERS, PARAMETERS)
def test_a_quantile_is_where_the_distribution_function_has_its_share(share: float, a: float, b: float) -> None:
    [x] = beta_quantile(share, np.array([a]), np.array([b]))
    assert float(mpmath.betainc(a, b, 0, x, regularized=True)) == pytest.approx(share, abs=1e-9)


def test_columns_are_computed_row_by_row() -> None:
    a, b = np.array([0.5, 8.5, 100.0]), np.array([16.5, 8.5, 0.5])
    together = beta_quantile(0.975, a, b)
    assert [beta_quantile(0.975, a[[i]], b[[i]])[0] for i in range(3)] == pytest.approx(together.tolist())
    assert together[0] == pytest.approx(0.143, abs=1e-3)  # 0 of 16 under Jeffreys' prior
    assert beta_quantile(0.5, np.array([]), np.array([])).tolist() == []
