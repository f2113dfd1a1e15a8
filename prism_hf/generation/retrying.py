"""Writing a row anew where the model's own quality says that something in it is wrong.

A retry is a generation of its own, not a mode of the loop. A finished canvas agrees with its first mistake: to remask
its doubtful tokens, or a random half, restores them. But the head knows it from a right one, most of all with a part
hidden (`hide`): it was trained on canvases that hold masks.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch

from prism_hf.backbones import forward_parameters
from prism_hf.fields import Fraction, Share, check_arguments

from .configuration_remask import prepare_generation_config
from .denoising.canvas import Generation
from .denoising.orders import uniform
from .denoising.reading import NAN_QUALITY, check_quality
from .generation_remask import RemaskGenerationOutput, prepare_generation, remask_generate, without_descriptions


@torch.no_grad()
def generate_with_retries(
    model: Any,
    input_ids: torch.Tensor,
    retries: Sequence[dict[str, Any]],
    retry_below: Fraction = 0.9,
    hide: Share | None = 0.0,
    attention_mask: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    token_type_ids: torch.Tensor | None = None,
    **kwargs: Any,
) -> RemaskGenerationOutput:
    """`remask_generate`, then again, with other settings, for rows with a written token of low quality.

    Args:
        model (`Callable`): With a quality head.
        input_ids (`torch.LongTensor`): (B, L), padded on the left where masks are to be appended.
        retries (`Sequence[dict[str, Any]]`): Settings of further attempts, which win over `kwargs`. They should differ:
            a greedy attempt with the same settings gives the same tokens.
        retry_below (`float`, *optional*, defaults to 0.9): A row is written anew if a written token that is not hidden
            has a lower quality, in [0, 1].
        hide (`float`, *optional*, defaults to 0.0): Share of the written tokens that are masked while the others are
            judged, drawn anew each time, in [0, 1). All rows are then judged before each retry, so that one that was
            trusted may still be found wrong; with 0 only those that were written anew. With None no forward judges: a
            row is judged by what the last forward of its generation read, when its last masks hid themselves. Each
            attempt then needs a strategy that reads quality (`"prism"`, with `remask_end=0` if it is to judge alone).
        attention_mask (`torch.Tensor`, *optional*): As for `remask_generate`.
        generator (`torch.Generator`, *optional*): As for `remask_generate`.
        token_type_ids (`torch.Tensor`, *optional*): As for `remask_generate`.
        **kwargs: As for `remask_generate`.

    Returns:
        The last attempt at each row. `num_forwards` counts all calls, the judgements before each retry included, and
        `forwards_per_row` those that read the row, in all its attempts. The attempts end when a judgement finds nothing
        to write anew.

    Raises:
        ValueError: on wrong settings of any attempt, before the first forward; where a mask cannot be filled, or the
            quality is NaN.

    Example:
        ```python
        retries = [{"order": "random"}, {"do_sample": True}]
        generate_with_retries(model, input_ids, retries, hide=0.3, max_new_tokens=64, remask_strategy="prism").sequences
        ```
    """
    check_arguments(generate_with_retries, {"retries": retries, "retry_below": retry_below, "hide": hide})
    check_quality(model)
    kwargs = without_descriptions(kwargs)
    attempts = [kwargs, *({**kwargs, **settings} for settings in retries)]
    resolved = [prepare_generation_config(model, None, **settings) for settings in attempts]
    inputs: dict[str, Any] = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "token_type_ids": token_type_ids,
    }
    generations = [prepare_generation(model, config, strategy, **inputs) for config, strategy in resolved]
    _check_attempts(generations, attention_mask, hide)
    mask_token_id = generations[0].config.mask_token_id
    written, seen = _whole_canvas(input_ids == mask_token_id, attention_mask, generations[0].canvas.num_new)

    def write(rows: slice | torch.Tensor, settings: dict[str, Any]) -> RemaskGenerationOutput:
        of_rows = {name: None if value is None else value[rows] for name, value in inputs.items()}
        settings = settings | {"return_dict_in_generate": True}
        return cast(Any, remask_generate(model, generator=generator, **of_rows, **settings))

    output = write(slice(None), kwargs)
    sequences, num_forwards, forwards = output.sequences, output.num_forwards, output.forwards_per_row
    num_tokens = output.tokens_per_forward * forwards
    everywhere = rows = torch.arange(len(input_ids), device=input_ids.device)
    for settings in attempts[1:]:
        if hide is None:
            asked, lowest = rows, output.quality.nan_to_num(1.0).amin(-1)
        else:
            judged = written & (uniform(written.shape, written.device, generator) >= hide)
            # Judged in full, a row that was trusted would be trusted again.
            asked = everywhere if hide else rows
            shown = sequences.masked_fill(written & ~judged, mask_token_id)[asked]
            lowest = _judge(model, shown, None if seen is None else seen[asked], judged[asked])
            num_forwards += 1
            forwards = forwards.index_add(0, asked, torch.ones_like(asked))
        rows = asked[lowest < retry_below]
        if len(rows) == 0:
            break
        output = write(rows, settings)
        num_forwards += output.num_forwards
        forwards = forwards.index_add(0, rows, output.forwards_per_row)
        num_tokens = num_tokens.index_copy(0, rows, output.tokens_per_forward * output.forwards_per_row)
        sequences = sequences.index_copy(0, rows, output.sequences)
    return RemaskGenerationOutput(
        sequences=sequences,
        tokens_per_forward=num_tokens / forwards.clamp(min=1),
        forwards_per_row=forwards,
        num_forwards=num_forwards,
    )


def _whole_canvas(
    masks: torch.Tensor, attention_mask: torch.Tensor | None, num_new: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What is written and what is seen, (B, L + num_new) each, of what is given (B, L) and what is appended."""

    def append(given: torch.Tensor) -> torch.Tensor:
        return torch.cat([given, given.new_ones(len(given), num_new)], dim=1)

    return append(masks), None if attention_mask is None else append(attention_mask)


def _judge(model: Any, sequences: torch.Tensor, seen: torch.Tensor | None, judged: torch.Tensor) -> torch.Tensor:
    """The lowest quality of the `judged` (B, L) bool tokens of each row, (B,). Raises ValueError where one is NaN."""
    wanted = {"return_quality": True}
    if "return_logits" in forward_parameters(model):
        wanted["return_logits"] = False
    quality = model(input_ids=sequences, attention_mask=seen, **wanted).quality_logits.sigmoid()
    if bool((quality.isnan() & judged).any()):
        raise ValueError(NAN_QUALITY)
    return quality.masked_fill(~judged, 1.0).amin(-1)


def _check_attempts(generations: Sequence[Generation], attention_mask: torch.Tensor | None, hide: float | None) -> None:
    """Raise ValueError unless each attempt can be judged, and take the place of what the one before wrote."""
    for generation in generations:
        if hide is None and "quality" not in generation.strategy.needs:
            raise ValueError(
                f"hide=None judges by the quality that a generation reads, and remask_strategy={generation.strategy} "
                "reads none: use 'prism', with remask_end=0 if nothing is to be remasked."
            )
    appended = [generation.canvas.num_new for generation in generations]
    if len(set(appended)) > 1:
        raise ValueError(
            f"The attempts append {appended} tokens, but each takes the place of another: leave max_new_tokens and "
            "max_length out of retries."
        )
    if any(len(set(generation.canvas.num_appended.tolist())) > 1 for generation in generations):
        raise ValueError("max_length gives the rows unequal numbers of masks: set max_new_tokens, which are alike.")
    if any(generation.config.num_return_sequences > 1 for generation in generations):
        raise ValueError("num_return_sequences must be 1, as each row is written anew by itself: repeat rows instead.")
    if appended[0] and attention_mask is not None and not attention_mask[:, -1].all():
        raise ValueError("Appended masks need input_ids padded on the left: set tokenizer.padding_side = 'left'.")
