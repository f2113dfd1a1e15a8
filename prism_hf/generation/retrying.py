"""Writing a row anew where the model's own quality says that something in it is wrong."""

from collections.abc import Sequence
from typing import Any

import torch

from .configuration_remask import prepare_generation_config
from .denoising import check_quality, forward_parameters
from .remask_generate import RemaskGenerationOutput, remask_generate


@torch.no_grad()
def generate_with_retries(
    model,
    input_ids: torch.LongTensor,
    retries: Sequence[dict[str, Any]],
    retry_below: float = 0.9,
    attention_mask: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    **kwargs,
) -> RemaskGenerationOutput:
    """`remask_generate`, and for rows with a written token of low quality again, from the start, with other settings.

    A finished canvas is often consistent with its first mistake, so that remasking some of its tokens restores them.
    But a trained head knows such a canvas from a right one, which is what it takes to try again.

    Args:
        model: with a quality head.
        input_ids: (B, L), padded on the left where masks are to be appended.
        retries: settings of further attempts, which win over `kwargs`. They should differ: a greedy attempt with the
            same settings gives the same tokens.
        retry_below: a row is written anew if one of its written tokens has a lower quality, in [0, 1].
        attention_mask, generator, kwargs: as for `remask_generate`.

    Returns:
        The last attempt at each row. `num_forwards` counts all calls, the one that reads the quality of each attempt
        but the last included.

    Raises:
        ValueError: on wrong settings, before the first forward.
    """
    if not 0 <= retry_below <= 1:
        raise ValueError(f"retry_below must be a number from 0 to 1, got {retry_below!r}.")
    check_quality(model)
    attempts = [kwargs, *({**kwargs, **settings} for settings in retries)]
    configs = [prepare_generation_config(model, None, **settings) for settings in attempts]
    num_new = configs[0].max_new_tokens
    if num_new and attention_mask is not None and not attention_mask[:, -1].all():
        raise ValueError("Appended masks need input_ids padded on the left: set tokenizer.padding_side = 'left'.")
    written = torch.cat([input_ids == configs[0].mask_token_id, input_ids.new_ones(len(input_ids), num_new) > 0], dim=1)
    seen = None
    if attention_mask is not None:
        seen = torch.cat([attention_mask, attention_mask.new_ones(len(input_ids), num_new)], dim=1)

    wanted = {"return_quality": True}
    if "return_logits" in forward_parameters(model):
        wanted["return_logits"] = False

    rows = torch.arange(len(input_ids), device=input_ids.device)
    sequences, num_forwards = None, 0
    for attempt, settings in enumerate(attempts):
        output = remask_generate(
            model,
            input_ids[rows],
            attention_mask=None if attention_mask is None else attention_mask[rows],
            generator=generator,
            **{**settings, "return_dict_in_generate": True},
        )
        num_forwards += output.num_forwards
        sequences = output.sequences if sequences is None else sequences.index_copy(0, rows, output.sequences)
        if attempt == len(attempts) - 1:
            break
        mask = None if seen is None else seen[rows]
        quality = model(input_ids=output.sequences, attention_mask=mask, **wanted).quality_logits.sigmoid()
        num_forwards += 1
        rows = rows[quality.masked_fill(~written[rows], 1.0).amin(-1) < retry_below]
        if len(rows) == 0:
            break
    return RemaskGenerationOutput(sequences=sequences, num_forwards=num_forwards)
