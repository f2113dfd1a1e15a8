"""Random numbers that depend on seed, step and row only: not on the process, the batch or what was drawn before.

That is why a resumed run continues bit for bit, why two processes give the curve of one, and why accumulation does not
change it. `masking` says which row of the global batch is which.
"""

import numpy as np
import torch

TRAIN, EVALUATION = 0, 1
SHARED_ROW = 2**63


def row_uniforms(seed: int, stream: int, step: int, rows: range, draws: int, length: int) -> torch.Tensor:
    """Uniform draws in [0, 1) for rows of the global batch of a step: (len(rows), draws, length), float64.

    Each row has a counter-based stream of its own (Philox), position by position, so a row padded to another length
    starts with the same numbers.
    """
    streams = (np.random.Generator(np.random.Philox(key=seed, counter=[0, row, step, stream])) for row in rows)
    draws_of_rows = [generator.random((length, draws)) for generator in streams]
    return torch.from_numpy(np.stack(draws_of_rows)).transpose(1, 2)


def step_uniform(seed: int, stream: int, step: int) -> torch.Tensor:
    """One draw in [0, 1) that all rows of a step share: (1,), float64."""
    return row_uniforms(seed, stream, step, range(SHARED_ROW, SHARED_ROW + 1), 1, 1).flatten()
