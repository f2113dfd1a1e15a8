"""Numbers of answers to problems of programming."""

from itertools import combinations

import pytest

from prism_hf.evaluation import pass_at_k


def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer():
    for n in range(1, 8):
        for c in range(n + 1):
            for k in range(1, n + 1):
                subsets = list(combinations([True] * c + [False] * (n - c), k))
                assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)
    for wrong, message in (
        ((3, 4, 1), "0 <= c <= n and 1 <= k <= n, got n=3"),
        ((3, 1, 4), "got n=3, c=1, k=4"),
        ((3, -1, 1), "c=-1 must be"),
        ((3, 1, 0), "k=0 must be"),
        ((3, 1, 1.5), "k=1.5 must be"),
        (("3", 1, 1), "n='3' must be"),
    ):
        with pytest.raises(ValueError, match=message):
            pass_at_k(*wrong)
