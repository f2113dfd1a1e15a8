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
    bits = np.random.Philox(key=seed)
    generator, state = np.random.Generator(bits), bits.state
    counter = state["state"]["counter"] = np.array([0, 0, step, stream], dtype=np.uint64)
    drawn = np.empty((len(rows), length, draws))
    for draws_of_row, row in zip(drawn, rows, strict=True):
        counter[1] = row  # a state is set in a sixth of the time in which a generator is made
        bits.state = state
        generator.random(out=draws_of_row)
    return torch.from_numpy(drawn).transpose(1, 2)


def step_uniform(seed: int, stream: int, step: int) -> torch.Tensor:
    """One draw in [0, 1) that all rows of a step share: (1,), float64."""
    return row_uniforms(seed, stream, step, range(SHARED_ROW, SHARED_ROW + 1), 1, 1).flatten()
