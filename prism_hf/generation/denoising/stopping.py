"""Where rows end: after an end-of-sequence token, or where a stopping criterion says so.

`eos_token_id` ends appended tokens only. A mask in place is unmasked whatever comes before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import StoppingCriteriaList

from prism_hf._compat import config_of, setting

from .canvas import vocabulary_size

if TYPE_CHECKING:
    from ..configuration_remask import RemaskGenerationConfig
    from .canvas import Canvas, Changes, Generation
    from .schedule import Step


def as_ids(value: int | list[int] | None) -> list[int]:
    """Token ids from a setting that is one, several or none."""
    return [value] if isinstance(value, int) else list(value or [])


def padding_of(model: Any, mask_token_id: int) -> int | None:
    """The pad token of the model's config, or of its backbone's; None if it is no token of the model, or its mask."""
    own, size = config_of(model), vocabulary_size(model)
    for config in (own, setting(own, "backbone_config")):
        token = setting(config, "pad_token_id")
        if token is not None and 0 <= token != mask_token_id and (size is None or token < size):
            return token
    return None


def check_endings(
    model: Any, config: RemaskGenerationConfig, criteria: StoppingCriteriaList | None, canvas: Canvas
) -> int | None:
    """The token that fills a row after its end. Raises ValueError if rows may end and there is none."""
    if criteria and not canvas.num_new:
        raise ValueError(
            "stopping_criteria end rows within their new tokens: set max_new_tokens, or leave the criteria out when "
            "there are only the masks of input_ids to fill."
        )
    if config.pad_token_id == config.mask_token_id and (criteria or config.eos_token_id is not None):
        raise ValueError(
            f"pad_token_id={config.pad_token_id} is the mask, so that what follows a row's end would look unfilled: "
            "set another."
        )
    for pad_token_id in (config.pad_token_id, padding_of(model, config.mask_token_id), *as_ids(config.eos_token_id)):
        if pad_token_id is not None:
            return pad_token_id
    if criteria:
        raise ValueError("stopping_criteria need pad_token_id: what a row holds after its end.")
    if canvas.back is not None and canvas.back.shape[1] > canvas.tokens.shape[1]:
        raise ValueError("max_length with prompts of unequal length needs pad_token_id: what follows a row.")
    return None


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


class Endings:
    """Ends rows when a block of them is complete, and the generation when all rows have ended. Called once a step.

    Args:
        generation (`Generation`): The one whose rows end.
        criteria (`StoppingCriteriaList`, *optional*): Asked as if the tokens of a block had come one by one.
    """

    def __init__(self, generation: Generation, criteria: StoppingCriteriaList | None):
        eos_token_ids = as_ids(generation.config.eos_token_id)
        self.criteria = StoppingCriteriaList(criteria or [])
        self.can_end = bool(criteria) or (bool(eos_token_ids) and generation.canvas.num_new > 0)
        self.eos_token_ids = torch.tensor(eos_token_ids, dtype=torch.long, device=generation.tokens.device)

    def __call__(self, generation: Generation, step: Step, changes: Changes) -> None:
        if not generation.ends_block:
            return
        if self.can_end:
            generation.end(*self._ended(generation, step))
        generation.finished = generation.finished | (generation.is_complete & (step.rows.end == generation.num_masks))
        if self.can_end and not step.is_last:
            generation.is_over = bool(generation.finished.all())

    def _ended(self, generation: Generation, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows that end in the block they have completed, (B,) bool, and what follows their end, (B, L) bool."""
        canvas = generation.canvas
        sequences = canvas.restore(generation.tokens)
        kept = last_kept(
            sequences,
            sequences.shape[1] - canvas.num_new,
            step.first_appended,
            (step.rows.end - generation.num_masks + canvas.num_appended).clamp(min=0),
            step.stop_appended,
            self.eos_token_ids,
            self.criteria,
        )
        ended = generation.is_complete & ~generation.finished & (kept >= 0)
        return ended, ended[:, None] & (canvas.appended > kept[:, None])
