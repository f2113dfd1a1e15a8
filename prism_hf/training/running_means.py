"""What a trainer logs, as means over steps, batches and processes."""

from collections import defaultdict

import torch
from accelerate import Accelerator


class RunningMeans:
    """Sums and counts by name, on the device; nothing leaves it before it is logged.

    Example:
        ```python
        means = RunningMeans()
        means.add("unmasking_loss", total=loss * count, count=count)
        means.pop(trainer.accelerator)  # {"unmasking_loss": 2.31}
        ```
    """

    def __init__(self) -> None:
        self.totals: dict[str, torch.Tensor | int] = defaultdict(int)

    def add(self, name: str, total: torch.Tensor, count: torch.Tensor) -> None:
        """Add `total`, the sum of `count` terms, to the mean of that name."""
        self.totals[name] += torch.stack([total.detach().double(), count.double()])

    def pop(self, accelerator: Accelerator) -> dict[str, float]:
        """The means since the last call, over all processes; a name without terms is left out."""
        means = {name: accelerator.reduce(value, "sum").tolist() for name, value in sorted(self.totals.items())}
        self.clear()
        return {name: total / count for name, (total, count) in means.items() if count}

    def clear(self) -> None:
        self.totals.clear()
