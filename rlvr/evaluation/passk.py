"""pass@k, the unbiased estimator."""

from __future__ import annotations


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability that at least one of k samples, drawn without replacement from n of which `correct` are right, is right.

    Equal to 1 - C(n - correct, k) / C(n, k), computed as a product so that no binomial overflows.

    Source: Chen et al. 2021, arXiv:2107.03374, eq. 1 and its figure 3.

    Raises:
        ValueError: k is not in 1..n, or `correct` is not in 0..n.

    >>> pass_at_k(n=4, correct=1, k=2)
    0.5
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} of n = {n} samples: k must be between 1 and n; draw more samples or lower k")
    if not 0 <= correct <= n:
        raise ValueError(f"correct = {correct} of n = {n} samples: it must be between 0 and n")
    if n - correct < k:
        return 1.0  # fewer than k wrong samples: every draw holds a right one
    all_wrong = 1.0
    for size in range(n - correct + 1, n + 1):
        all_wrong *= 1.0 - k / size
    return 1.0 - all_wrong


def all_pass_at_k(n: int, correct: int, k: int) -> float:
    """pass^k: probability that all of k samples, drawn without replacement from n of which `correct` are right, are right.

    Equal to C(correct, k) / C(n, k): unbiased for p^k. What a user needs who asks k times and wants every answer right.

    Source: Yao et al. 2024 (tau-bench), arXiv:2406.12045, section 2.

    Raises:
        ValueError: as `pass_at_k`.

    >>> all_pass_at_k(n=4, correct=3, k=2)
    0.5
    """
    return 1.0 - pass_at_k(n, n - correct, k)
