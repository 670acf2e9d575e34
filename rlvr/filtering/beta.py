"""Quantiles of the Beta distribution for whole columns of parameters, without SciPy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_TERMS = 500
_HALVINGS = 52


def beta_cdf(x: Floats, a: Floats, b: Floats) -> Floats:
    """The regularised incomplete beta function I_x(a, b), for x in [0, 1] and a, b > 0, all of one length [n].

    Source: the continued fraction DLMF 8.17.22, evaluated from the front (Lentz 1976); I_x(a, b) = 1 - I_{1-x}(b, a)
    where it converges faster.
    """
    is_turned = x > (a + 1.0) / (a + b + 2.0)
    x, a, b = np.where(is_turned, 1.0 - x, x), np.where(is_turned, b, a), np.where(is_turned, a, b)
    with np.errstate(divide="ignore"):
        front = np.exp(a * np.log(x) + b * np.log1p(-x) - _log_beta(a, b)) / a
    value = front * _fraction(x, a, b)
    return np.clip(np.where(is_turned, 1.0 - value, value), 0.0, 1.0)


def beta_quantile(share: float, a: Floats, b: Floats) -> Floats:
    """The x at which I_x(a, b) = share, to about 1e-15, by bisection."""
    low, high = np.zeros_like(a), np.ones_like(a)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        is_below = beta_cdf(middle, a, b) < share
        low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
    return (low + high) / 2.0


def _fraction(x: Floats, a: Floats, b: Floats) -> Floats:
    tiny = 1e-300
    denominator = _away_from_zero(1.0 - (a + b) * x / (a + 1.0), tiny)
    d, c = 1.0 / denominator, np.ones_like(x)
    value = d.copy()
    for m in range(1, _TERMS):
        change = np.ones_like(x)
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / _away_from_zero(1.0 + term * d, tiny)
            c = _away_from_zero(1.0 + term / c, tiny)
            value, change = value * d * c, d * c
        if np.all(np.abs(change - 1.0) < 1e-15):
            break
    return value


def _away_from_zero(value: Floats, tiny: float) -> Floats:
    return np.where(np.abs(value) < tiny, tiny, value)


def _log_beta(a: Floats, b: Floats) -> Floats:
    pairs = zip(a.tolist(), b.tolist(), strict=True)
    return np.array([math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y) for x, y in pairs], dtype=np.float64)
