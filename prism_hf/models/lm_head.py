"""The map to the vocabulary: at which positions `logits_to_keep` asks for it, and how it is fast at only a few."""

from typing import Any

import torch
from torch import nn

from prism_hf._compat import attention_of, setting
from prism_hf.diffusion.drafting import take_positions

# Where a CPU's float32 product of few rows with a large matrix gains from being transposed; found by measuring.
MOST_ROWS, LEAST_WEIGHTS = 64, 2**21


def keep_positions(states: torch.Tensor, logits_to_keep: torch.Tensor | None) -> torch.Tensor:
    """The states (B, L, D) of the positions that are asked for, or all where nothing is asked.

    A boolean mask (B, L) of N positions gives (N, D), in row-major order. Columns (B, W) int64 give (B, W, D); unlike a
    mask, they tell their number without asking the device. Raises ValueError for anything else.
    """
    if logits_to_keep is None:
        return states
    if isinstance(logits_to_keep, torch.Tensor):
        if logits_to_keep.dtype == torch.bool and logits_to_keep.shape == states.shape[:2]:
            return states[logits_to_keep]
        if logits_to_keep.dtype == torch.int64 and logits_to_keep.ndim == 2 and len(logits_to_keep) == len(states):
            return take_positions(states, logits_to_keep)
        given = f"{logits_to_keep.dtype} of shape {tuple(logits_to_keep.shape)}"
    else:
        given = repr(logits_to_keep)
    raise ValueError(
        f"logits_to_keep is {given}: give a boolean mask of shape {tuple(states.shape[:2])}, or int64 columns of shape "
        f"({len(states)}, number of positions)."
    )


def columns_alone(
    body: nn.Module,
    logits_to_keep: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    recorded: dict[str, Any],
) -> torch.Tensor | None:
    """The columns (B, W) of `logits_to_keep` if the last layer of `body` need compute no other queries, else None.

    It must compute all where its outputs are `recorded` (`output_hidden_states`, `output_attentions`, of the call or
    else of the config), and under an attention that takes no mask of single queries. A body says that it takes such
    columns, as `states_to_keep`, by `_supports_states_to_keep = True`.
    """
    if not isinstance(logits_to_keep, torch.Tensor) or logits_to_keep.dtype != torch.int64 or logits_to_keep.ndim != 2:
        return None
    attention = attention_of(body.config) or "eager"
    takes_columns = attention in ("eager", "sdpa") or ("flash" in attention and attention_mask is None)
    records = any(
        recorded.get(name, setting(body.config, name)) for name in ("output_hidden_states", "output_attentions")
    )
    can = setting(body, "_supports_states_to_keep", False) and takes_columns and not records
    return logits_to_keep if can and logits_to_keep.numel() else None


class LmHead(nn.Linear):
    """A linear map to the vocabulary, `nn.Linear` in all but speed.

    On a CPU, a product of a few rows with a matrix of the vocabulary's size reads the matrix at a fraction of the speed
    that memory has, and the product of the matrix with a few columns does not. In float32 and without gradients, up to
    64 rows are therefore computed the other way round, padded to a number that the library is fast at: one row to 2,
    two to 4 rows as they are, more to a multiple of 8. It is one product and one copy: in parts, which keep to the
    processor's cache, threads wait for one another so often that a busy machine takes ten times as long. The results
    differ by rounding.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., V)."""
        rows = hidden_states.numel() // self.in_features
        if not (0 < rows <= MOST_ROWS and self.is_slow_in_rows(hidden_states)):
            return super().forward(hidden_states)
        padded = 2 if rows == 1 else rows if rows <= 4 else -(-rows // 8) * 8
        columns = nn.functional.pad(hidden_states.reshape(rows, -1), (0, 0, 0, padded - rows)).t()
        logits = (self.weight @ columns).t()[:rows].contiguous()
        if self.bias is not None:
            logits += self.bias
        return logits.view(*hidden_states.shape[:-1], -1)

    def is_slow_in_rows(self, hidden_states: torch.Tensor) -> bool:
        """Whether a few rows of these are computed faster as columns."""
        return (
            hidden_states.device.type == "cpu"
            and hidden_states.dtype == self.weight.dtype == torch.float32
            and self.weight.numel() >= LEAST_WEIGHTS
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        )
