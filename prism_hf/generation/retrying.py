"""Writing a row anew where the model's own quality says that something in it is wrong."""

from collections.abc import Sequence
from typing import Any

import torch

from prism_hf.backbones import forward_parameters
from prism_hf.fields import Fraction, Share, check_arguments

from .configuration_remask import prepare_generation_config
from .denoising.orders import uniform
from .denoising.reading import NAN_QUALITY, check_quality
from .generation_remask import (
    Generation,
    RemaskGenerationOutput,
    prepare_generation,
    remask_generate,
    without_descriptions,
)


@torch.no_grad()
def generate_with_retries(
    model,
    input_ids: torch.LongTensor,
    retries: Sequence[dict[str, Any]],
    retry_below: Fraction = 0.9,
    hide: Share = 0.0,
    attention_mask: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    token_type_ids: torch.Tensor | None = None,
    **kwargs,
) -> RemaskGenerationOutput:
    """`remask_generate`, then again, with other settings, for rows with a written token of low quality.

    A finished canvas is often consistent with its first mistake, so that remasking some of its tokens restores them.
    But a trained head knows such a canvas from a right one, which is what it takes to try again. It knows best with
    part of the canvas hidden: it was trained on canvases that hold masks, and what is consistent in full no longer is.

    Args:
        model: with a quality head.
        input_ids: (B, L), padded on the left where masks are to be appended.
        retries: settings of further attempts, which win over `kwargs`. They should differ: a greedy attempt with the
            same settings gives the same tokens.
        retry_below: a row is written anew if a written token that is not hidden has a lower quality, in [0, 1].
        hide: share of the written tokens that are masked while the others are judged, drawn anew each time, in [0, 1).
            All rows are judged before each retry, so that one that was trusted may still be found wrong.
        attention_mask, generator, token_type_ids, kwargs: as for `remask_generate`.

    Returns:
        The last attempt at each row. `num_forwards` counts all calls, one judgement before each retry included. The
        attempts end when a judgement finds nothing to write anew.

    Raises:
        ValueError: on wrong settings of any attempt, before the first forward; where a mask cannot be filled, or the
            quality is NaN.
    """
    check_arguments(generate_with_retries, {"retries": retries, "retry_below": retry_below, "hide": hide})
    check_quality(model)
    kwargs = without_descriptions(kwargs)
    attempts = [kwargs, *({**kwargs, **settings} for settings in retries)]
    configs = [prepare_generation_config(model, None, **settings) for settings in attempts]
    plans = [prepare_generation(model, config, input_ids, attention_mask, token_type_ids) for config in configs]
    check_attempts(plans, attention_mask)
    num_new = plans[0].canvas.num_new
    mask_token_id = configs[0].mask_token_id
    written = torch.cat([input_ids == mask_token_id, input_ids.new_ones(len(input_ids), num_new) > 0], dim=1)
    seen = None
    if attention_mask is not None:
        seen = torch.cat([attention_mask, attention_mask.new_ones(len(input_ids), num_new)], dim=1)
    wanted = {"return_quality": True}
    if "return_logits" in forward_parameters(model):
        wanted["return_logits"] = False

    def write(rows: slice | torch.Tensor, settings: dict[str, Any]) -> RemaskGenerationOutput:
        return remask_generate(
            model,
            input_ids[rows],
            attention_mask=None if attention_mask is None else attention_mask[rows],
            token_type_ids=None if token_type_ids is None else token_type_ids[rows],
            generator=generator,
            **{**settings, "return_dict_in_generate": True},
        )

    output = write(slice(None), kwargs)
    sequences, num_forwards = output.sequences, output.num_forwards
    for settings in attempts[1:]:
        judged = written & (uniform(written.shape, written.device, generator) >= hide)
        visible = sequences.masked_fill(written & ~judged, mask_token_id)
        quality = model(input_ids=visible, attention_mask=seen, **wanted).quality_logits.sigmoid()
        num_forwards += 1
        if bool((quality.isnan() & judged).any()):
            raise ValueError(NAN_QUALITY)
        rows = (quality.masked_fill(~judged, 1.0).amin(-1) < retry_below).nonzero()[:, 0]
        if len(rows) == 0:
            break
        output = write(rows, settings)
        num_forwards += output.num_forwards
        sequences = sequences.index_copy(0, rows, output.sequences)
    return RemaskGenerationOutput(sequences=sequences, num_forwards=num_forwards)


def check_attempts(plans: Sequence[Generation], attention_mask: torch.Tensor | None) -> None:
    """Raise ValueError unless what each attempt writes can take the place of what the one before wrote."""
    appended = [plan.canvas.num_new for plan in plans]
    if len(set(appended)) > 1:
        raise ValueError(
            f"The attempts append {appended} tokens, but each takes the place of another: leave max_new_tokens and "
            "max_length out of retries."
        )
    if any(plan.config.num_return_sequences > 1 for plan in plans):
        raise ValueError("num_return_sequences must be 1, as each row is written anew by itself: repeat rows instead.")
    if appended[0] and attention_mask is not None and not attention_mask[:, -1].all():
        raise ValueError("Appended masks need input_ids padded on the left: set tokenizer.padding_side = 'left'.")
