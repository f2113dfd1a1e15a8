"""The batches of a step, masked as the one large batch that they are.

The loss of a batch is its share of the step's loss. `Trainer` reads an accumulation window before its first backward.
Masks depend on the rows alone, so the whole window is masked there, what each loss is a mean of is counted, over the
processes too, and every batch gets its noise and these denominators. Nothing divides by the number of batches
(`loss_is_scaled_for_ga`), `loss` is the sum of its logged parts, and a step is that of one large batch, also the last
one of an epoch.

The global batch has the rows that are there: its row b of n gets the time (u + b/n) mod 1, and which row is which does
not depend on how many processes share them. In an evaluation b and n are those of the whole set, so that neither batch
size nor processes change it. Of a stream, whose length nobody knows, multiples of the golden ratio take the place of
b/n. Hence evaluation reads its rows in order, also where training groups them by length.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator

from prism_hf.diffusion.noising import mask_tokens
from prism_hf.diffusion.schedules import SCHEDULES, antithetic_timesteps

from .arguments import MaskedDiffusionTrainingArguments
from .packing import PackedRows, Rows, rows_of
from .randomness import row_uniforms, step_uniform

# The key under which a batch holds its `Noised`, once the whole accumulation window is known.
NOISED = "noised"


@dataclass(frozen=True)
class Noised:
    """A batch after the forward process.

    Args:
        z (`torch.Tensor`): (B, L), the masked sequences.
        masked (`torch.Tensor`): (B, L) bool, nowhere in a row that the loader doubled.
        rows (`Rows` or `PackedRows`): How they lie in what the model reads.
        targets (`torch.Tensor`): (N,), the clean tokens at masked positions.
        weights (`torch.Tensor`, *optional*): (N,), those of the unmasking loss.
        row_weights (`torch.Tensor`): (B,) float64, those of the bound, `-alpha'(t) / (1 - alpha(t))`.
        row_tokens (`torch.Tensor`): (B,), how many tokens of each row may be masked.
        uniform (`torch.Tensor`): (B, draws, L) float64, the draws left for the drafts.
        counts (`dict[str, torch.Tensor]`): By the name of a loss, how many terms of this batch it is a mean of.
        denominators (`dict[str, torch.Tensor]`): By the name of a loss, what divides the sum of its terms.
        begins_step (`bool`, *optional*, defaults to `True`): Whether the batch is the first of an optimiser step.
    """

    z: torch.Tensor
    masked: torch.Tensor
    rows: Rows | PackedRows
    targets: torch.Tensor
    weights: torch.Tensor | None
    row_weights: torch.Tensor
    row_tokens: torch.Tensor
    uniform: torch.Tensor
    counts: dict[str, torch.Tensor]
    denominators: dict[str, torch.Tensor]
    begins_step: bool = True


@dataclass(frozen=True)
class Place:
    """Where a batch stands, which is what its draws depend on: `first_row` of the `num_rows` of the global batch.

    An evaluation may draw masks of a row several times: this is `draw` of `num_draws`, at times that are spread evenly.
    """

    stream: int
    step: int
    first_row: int
    num_rows: int | None
    draw: int = 0
    num_draws: int = 1


def number_rows(num_new: list[int], accelerator: Accelerator) -> tuple[list[int], int]:
    """For each batch of this process, the number of its first row in the global batch; and how many rows that has.

    The global batch has all batches of all processes, in the order in which Accelerate deals rows: by batch, then by
    process. `num_new`: how many rows of each batch count.
    """
    counts = torch.tensor([num_new])
    if accelerator.num_processes > 1:
        counts = accelerator.gather(counts.to(accelerator.device)).cpu()
    counts = counts.T
    first = (counts.flatten().cumsum(0) - counts.flatten()).view_as(counts)
    return first[:, accelerator.process_index].tolist(), int(counts.sum())


def mask_batch(
    batch: Mapping[str, torch.Tensor],
    place: Place,
    num_new: int,
    args: MaskedDiffusionTrainingArguments,
    mask_token_id: int,
    num_draws: int,
    loss_counts: Callable[[torch.Tensor, torch.Tensor, int], dict[str, torch.Tensor]],
) -> Noised:
    """Mask a batch, from draws that depend on its place and the seed only.

    Args:
        batch (`Mapping[str, torch.Tensor]`): `input_ids`, `maskable` and, with padding, `attention_mask`, (B, L).
        place (`Place`): Where the batch stands.
        num_new (`int`): How many rows count; they come first.
        args (`MaskedDiffusionTrainingArguments`): Seed, schedule and normaliser.
        mask_token_id (`int`): The mask token.
        num_draws (`int`): Uniform draws that drafts need for a position.
        loss_counts (`Callable`): Given `masked` and `maskable` (B, L) and `num_new`, the number of terms of each loss.
    """
    input_ids = batch["input_ids"]
    maskable = maskable_tokens(batch, num_new)
    rows = range(place.first_row, place.first_row + len(input_ids))
    seed = args.seed if args.data_seed is None else args.data_seed
    shared = step_uniform(seed, place.stream, place.step) + place.draw / place.num_draws
    t = antithetic_timesteps(shared, torch.tensor(rows), place.num_rows, args.min_timestep, args.max_timestep)
    t = t.to(input_ids.device)
    uniform = row_uniforms(seed, place.stream, place.step + place.draw, rows, 1 + num_draws, input_ids.shape[1])
    uniform = uniform.to(input_ids.device)
    alpha, alpha_derivative = SCHEDULES[args.noise_schedule]
    z, masked = mask_tokens(input_ids, 1 - alpha(t), mask_token_id, uniform[:, 0], maskable)
    row_weights = -alpha_derivative(t) / (1 - alpha(t))
    weights = None
    if args.loss_normalizer == "sequence":
        weights = row_weights.float()[:, None].expand_as(masked)[masked]
    counts = loss_counts(masked, maskable, num_new)
    denominators = {name: count.clamp(min=1).float() for name, count in counts.items()}
    return Noised(
        z=z,
        masked=masked,
        rows=rows_of(batch),
        targets=input_ids[masked],
        weights=weights,
        row_weights=row_weights,
        row_tokens=maskable.sum(-1),
        uniform=uniform[:, 1:],
        counts=counts,
        denominators=denominators,
    )


def maskable_tokens(batch: Mapping[str, torch.Tensor], num_new: int) -> torch.Tensor:
    """The tokens (B, L) bool that may be masked: no padding, and none of a row that the loader doubled."""
    maskable, attention_mask = batch["maskable"].bool(), batch.get("attention_mask")
    if attention_mask is not None:
        maskable = maskable & attention_mask.bool()
    if num_new < len(maskable):
        maskable = maskable & (torch.arange(len(maskable), device=maskable.device) < num_new)[:, None]
    return maskable


def as_one_batch(noised: list[Noised], accelerator: Accelerator) -> list[Noised]:
    """The batches of a window with the denominators of all of it.

    `Trainer` takes the mean of the processes' losses, so each denominator is divided by their number.
    """
    sums = sum(torch.stack(list(noise.counts.values())) for noise in noised)
    sums = accelerator.reduce(sums, "sum").clamp(min=1) / accelerator.num_processes
    denominators = dict(zip(noised[0].counts, sums, strict=True))
    return [replace(noise, denominators=denominators, begins_step=noise is noised[0]) for noise in noised]
