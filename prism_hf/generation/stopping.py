"""Where rows end: after an end-of-sequence token, or where a stopping criterion says so."""

import torch
from transformers import StoppingCriteriaList

from .canvas import Canvas
from .plans import PlannedStep


def as_ids(value: int | list[int] | None) -> list[int]:
    """Token ids from a setting that is one, several or none."""
    return [value] if isinstance(value, int) else list(value or [])


def until_end(tokens: list[int], eos_token_ids: list[int]) -> list[int]:
    """A row's appended tokens up to the first that ends it, without what fills the row after that."""
    for index, token in enumerate(tokens):
        if token in eos_token_ids:
            return tokens[: index + 1]
    return tokens


def last_kept(
    sequences: torch.Tensor,
    prompt_length: int,
    first: int,
    confirmed: torch.Tensor,
    stop: int,
    eos_token_ids: torch.Tensor,
    criteria: StoppingCriteriaList,
) -> torch.Tensor:
    """The last appended token that each row keeps, as (B,) int64; -1 in rows that go on.

    A row ends with the first token that is in `eos_token_ids`, or after which a criterion holds, read token by token as
    in left-to-right generation. A criterion that held before the block, or would have (time is up), cuts nothing.

    Args:
        sequences: (B, prompt_length + K), rows ending in the K appended tokens.
        first, stop: appended tokens `first` to `stop - 1` are new since the last call.
        confirmed: (B,) the number of appended tokens that are final in each row; the others are not looked at.
        eos_token_ids: (E,), maybe none.
    """
    new = sequences[:, prompt_length + first : prompt_length + stop]
    hits = (new[..., None] == eos_token_ids).any(-1)
    held = torch.zeros_like(confirmed, dtype=torch.bool)
    if criteria and stop > first:
        held = criteria(sequences[:, : prompt_length + first], None) & (confirmed > first)
        ends = range(prompt_length + first + 1, prompt_length + stop + 1)
        hits |= torch.stack([criteria(sequences[:, :end], None) for end in ends], dim=1) & ~held[:, None]
    index = torch.arange(first, stop, device=sequences.device)
    hits &= index < confirmed[:, None]
    # A row that no token ends, but a criterion did: all that it has.
    kept = torch.where(held, confirmed - 1, -1)
    if stop == first:
        return kept
    return torch.where(hits.any(-1), torch.where(hits, index, stop).amin(-1), kept)


def end_rows(
    canvas: Canvas,
    tokens: torch.Tensor,
    planned: PlannedStep,
    closed: torch.Tensor,
    eos_token_ids: torch.Tensor,
    criteria: StoppingCriteriaList,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of the rows that have `closed` (B,) their block end in it, (B,) bool, and what follows, (B, L) bool."""
    confirmed = (planned.rows.end - canvas.fillable.sum(-1) + canvas.num_new).clamp(min=0)
    kept = last_kept(
        canvas.restore(tokens),
        tokens.shape[1] - canvas.num_new,
        planned.first,
        confirmed,
        planned.stop,
        eos_token_ids,
        criteria,
    )
    ended = closed & (kept >= 0)
    return ended, ended[:, None] & (canvas.appended > kept[:, None])
