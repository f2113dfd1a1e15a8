"""The bound on a text's likelihood that an evaluation estimates, as perplexity with an interval.

The negative log-likelihood of a row is at most the mean, over times in (0, 1), of its cross-entropies at masked
positions times `-alpha'(t) / (1 - alpha(t))` (MDLM, arXiv 2406.07524), whatever the schedule and whatever the training
loss divides by. One draw of a row estimates it. Rows are of unequal length and count by their tokens, so the perplexity
is exp of a ratio of two sums over rows, and its interval is that of the delta method on the log, which needs six sums
and no row. It holds what chance does in the choice of rows and of masks. As the times of rows are spread evenly, it is
rather too wide than too narrow.
"""

from statistics import NormalDist

import torch
from accelerate import Accelerator

from .masking import Noised

LEVEL = 0.95


class Bound:
    """Sums over the rows of an evaluation, on the device.

    Example:
        ```python
        bound = Bound()
        bound.add_draw(noised, losses)  # for each of the draws of a batch
        bound.end_batch(noised.row_tokens)
        bound.pop(trainer.accelerator)  # {"perplexity": 21.3, "perplexity_low": 20.1, "perplexity_high": 22.6}
        ```
    """

    def __init__(self) -> None:
        self.draws: list[torch.Tensor] = []  # of the batch so far, the nats of each row
        self.sums: torch.Tensor | int = 0  # (6,)

    def add_draw(self, noised: Noised, losses: torch.Tensor) -> None:
        """Add a draw of a batch, with the cross-entropies (N,) of its masked tokens."""
        everywhere = torch.zeros_like(noised.masked, dtype=torch.float64)
        everywhere.masked_scatter_(noised.masked, losses.detach().double())
        self.draws.append(everywhere.sum(-1) * noised.row_weights)

    def end_batch(self, tokens: torch.Tensor) -> None:
        """Add the mean of a batch's draws, of rows of so many `tokens` (B,); none are of a row that counts nowhere."""
        if self.draws:
            nats, tokens = torch.stack(self.draws).mean(0), tokens.double()
            terms = (tokens > 0).double(), nats, tokens, nats * nats, nats * tokens, tokens * tokens
            self.sums = self.sums + torch.stack(terms).sum(-1)
        self.draws = []

    def pop(self, accelerator: Accelerator) -> dict[str, float]:
        """The perplexity since the last call, over all processes, or nothing where no row was added."""
        metrics = {}
        if isinstance(self.sums, torch.Tensor):
            metrics = perplexity(accelerator.reduce(self.sums, "sum"))
        self.clear()
        return metrics

    def clear(self) -> None:
        self.draws, self.sums = [], 0


def perplexity(sums: torch.Tensor) -> dict[str, float]:
    """The perplexity of rows, and its interval where there are two at least.

    Args:
        sums (`torch.Tensor` of shape `(6,)`): Over rows of x nats and m tokens, those of 1, x, m, x^2, x m and m^2.
    """
    number, nats, tokens, nats2, both, tokens2 = sums
    mean = nats / tokens
    if number < 2:
        return {"perplexity": mean.exp().item()} if number else {}
    squares = (nats2 - 2 * mean * both + mean * mean * tokens2).clamp(min=0)  # of x - mean * m
    error = (squares * number / (number - 1)).sqrt() / tokens
    width = NormalDist().inv_cdf((1 + LEVEL) / 2) * error
    ends = {"": mean, "_low": mean - width, "_high": mean + width}
    return {f"perplexity{name}": value.exp().item() for name, value in ends.items()}
