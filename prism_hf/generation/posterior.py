"""The model's logits at some positions, read a few positions at a time so that they are never copied as a whole."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

ELEMENTS_AT_ONCE = 2**20


@dataclass(frozen=True)
class Posterior:
    """What the model says of W positions of each row, and which tokens it cannot have said.

    logits (N, V): as the model gave them, which may keep them too, so they are never written into. index (B, W) int64:
    the row of `logits` for each position. excluded (E,) int64: tokens of probability 0, the mask token first.
    """

    logits: torch.Tensor
    index: torch.Tensor
    excluded: torch.Tensor

    def take(self, columns: torch.Tensor) -> "Posterior":
        """The posterior at some of the W positions (B, K)."""
        return replace(self, index=self.index.gather(1, columns))

    def allowed(self, index: torch.Tensor | None = None) -> torch.Tensor:
        """New float32 logits (B, W, V), minus infinity at excluded tokens; or (n, V) of the rows `index` (n,)."""
        index = self.index if index is None else index
        logits = self.logits.index_select(0, index.flatten()).float()
        return logits.index_fill_(-1, self.excluded, -torch.inf).unflatten(0, index.shape)

    def map(self, function: Callable[..., torch.Tensor], *values: torch.Tensor) -> torch.Tensor:
        """`function` (n, V), (n,)... -> (n,) of the allowed logits and of `values` (B, W) at all positions: (B, W)."""
        at_once = max(1, ELEMENTS_AT_ONCE // self.logits.shape[-1])
        parts = zip(*(each.flatten().split(at_once) for each in (self.index, *values)), strict=True)
        results = [function(self.allowed(index), *others) for index, *others in parts]
        return torch.cat(results).view(self.index.shape)


def posterior_of(logits: torch.Tensor, excluded: torch.Tensor) -> Posterior:
    """The posterior of logits (B, W, V)."""
    batch, width, vocabulary = logits.shape
    index = torch.arange(batch * width, device=logits.device).view(batch, width)
    return Posterior(logits.reshape(batch * width, vocabulary), index, excluded)
