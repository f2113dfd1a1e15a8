"""Writing anew what the model's own quality says is wrong."""

from collections.abc import Sequence
from typing import Any

import torch

from .configuration_remask import prepare_generation_config
from .denoising import check_quality, forward_parameters
from .remask_generate import RemaskGenerationOutput, remask_generate
from .sampling import uniform


@torch.no_grad()
def generate_with_retries(
    model,
    input_ids: torch.LongTensor,
    retries: Sequence[dict[str, Any]],
    retry_below: float = 0.9,
    hide: float = 0.0,
    keep: float = 0.0,
    keep_above: float = 0.9,
    attention_mask: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    **kwargs,
) -> RemaskGenerationOutput:
    """`remask_generate`, then again, with other settings, for rows with a written token of low quality.

    A finished canvas is often consistent with its first mistake, so that remasking some of its tokens restores them.
    But a trained head knows such a canvas from a right one, which is what it takes to try again. It knows best with
    part of the canvas hidden: it was trained on canvases that hold masks, and what is consistent in full no longer is.

    Args:
        model: with a quality head.
        input_ids: (B, L), padded on the left where masks are to be appended.
        retries: settings of further attempts, which win over `kwargs`. They should differ or sample, unless something
            is hidden or kept: a greedy attempt with the same settings gives the same tokens.
        retry_below: a row is written anew if a written token that is not hidden has a lower quality, in [0, 1].
        hide: share of the written tokens that are masked while the others are judged, drawn anew each time, in [0, 1).
            All rows are judged before each retry, so that one that was trusted may still be found wrong.
        keep: share of the written tokens, in [0, 1 - hide], that a retry starts from: drawn at random, and of these
            the ones that were judged to be of quality `keep_above` or more. 0 starts from nothing.
        attention_mask, generator, kwargs: as for `remask_generate`.

    Returns:
        The last attempt at each row. `num_forwards` counts all calls, one judgement before each retry included. The
        attempts end when a judgement finds nothing to write anew.

    Raises:
        ValueError: on wrong settings, before the first forward.
    """
    check_shares(retry_below, hide, keep, keep_above)
    check_quality(model)
    attempts = [kwargs, *({**kwargs, **settings} for settings in retries)]
    configs = [prepare_generation_config(model, None, **settings) for settings in attempts]
    num_new = configs[0].max_new_tokens
    if num_new and attention_mask is not None and not attention_mask[:, -1].all():
        raise ValueError("Appended masks need input_ids padded on the left: set tokenizer.padding_side = 'left'.")
    mask_token_id = configs[0].mask_token_id
    written = torch.cat([input_ids == mask_token_id, input_ids.new_ones(len(input_ids), num_new) > 0], dim=1)
    seen = None
    if attention_mask is not None:
        seen = torch.cat([attention_mask, attention_mask.new_ones(len(input_ids), num_new)], dim=1)
    wanted = {"return_quality": True}
    if "return_logits" in forward_parameters(model):
        wanted["return_logits"] = False

    output = remask_generate(
        model, input_ids, attention_mask=attention_mask, generator=generator,
        **{**kwargs, "return_dict_in_generate": True},
    )  # fmt: skip
    sequences, num_forwards = output.sequences, output.num_forwards
    for settings in attempts[1:]:
        drawn = uniform(written.shape, written.device, generator)
        judged = written & (drawn >= hide)
        visible = sequences.masked_fill(written & ~judged, mask_token_id)
        quality = model(input_ids=visible, attention_mask=seen, **wanted).quality_logits.sigmoid()
        num_forwards += 1
        rows = (quality.masked_fill(~judged, 1.0).amin(-1) < retry_below).nonzero()[:, 0]
        if len(rows) == 0:
            break
        kept = ~written | (judged & (drawn < hide + keep) & (quality >= keep_above))
        output = remask_generate(
            model,
            sequences.masked_fill(~kept, mask_token_id)[rows],
            attention_mask=None if seen is None else seen[rows],
            generator=generator,
            **{**settings, "max_new_tokens": 0, "max_length": None, "return_dict_in_generate": True},
        )
        num_forwards += output.num_forwards
        sequences = sequences.index_copy(0, rows, output.sequences)
    return RemaskGenerationOutput(sequences=sequences, num_forwards=num_forwards)


def check_shares(retry_below: float, hide: float, keep: float, keep_above: float) -> None:
    """Raise ValueError for the first argument that is out of range."""
    for name, value in (("retry_below", retry_below), ("hide", hide), ("keep", keep), ("keep_above", keep_above)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}.")
    if hide == 1:
        raise ValueError("hide must be less than 1, or nothing is left to judge.")
    if hide + keep > 1:
        raise ValueError(f"hide={hide} and keep={keep} are more than all tokens: what is hidden is not kept.")
