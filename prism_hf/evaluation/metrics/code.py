"""What is told of answers to problems of programming, of which there are several to each."""

import math

from prism_hf.fields import Count, Positive, check_arguments


def pass_at_k(n: Count, c: Count, k: Positive) -> float:
    """The unbiased estimate, from n answers of which c are right, that one of k answers is.

    It is the share of the subsets of k answers that hold a right one, 1 - C(n-c, k) / C(n, k) (arXiv 2107.03374,
    equation 1).

    Args:
        n (`int`): How many answers there are.
        c (`int`): How many of them are right.
        k (`int`): Of pass@k.

    Returns:
        `float`: The estimate, in [0, 1].

    Raises:
        ValueError: if c or k is more than n.

    Example:
        ```python
        >>> pass_at_k(n=4, c=1, k=2)
        0.5
        ```
    """
    check_arguments(pass_at_k, locals())
    if not (c <= n and k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, got n={n}, c={c}, k={k}.")
    return 1 - math.comb(n - c, k) / math.comb(n, k)
