"""What a model in training writes: for `compute_metrics`, as transformers' `Seq2SeqTrainer` does, and to be looked at.

Processes that share the weights of a model take every forward together, so there each generates the rows of all. Draws
depend on the seed and on the rows that are generated at once, not on the state of training.
"""

from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from prism_hf._compat import tokenizer_of
from prism_hf.data.prompts import decode_with_ends
from prism_hf.generation import remask_generate
from prism_hf.jobs.completions import batch_seed
from prism_hf.jobs.lines import to_json, write_whole

from .data_preparation.rows import IGNORED, attended
from .masking import maskable_tokens

# Masks in place are filled, each row once, whatever a model's generation config says of prompts.
IN_PLACE = {"max_new_tokens": 0, "num_return_sequences": 1}


def shares_weights(trainer: Any) -> bool:
    """Whether processes hold parts of the model, so that they take every forward together."""
    return trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled


def generate(
    trainer: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, seed: int, **settings: Any
) -> Any:
    """What `remask_generate` returns for prompts (B, L), of the model that a trainer has for it."""
    model, told = trainer.generator
    device = trainer.args.device
    return remask_generate(
        model,
        input_ids.to(device),
        attention_mask=None if attention_mask is None else attention_mask.to(device),
        generator=torch.Generator().manual_seed(seed),
        **told | settings,
    )


def fill_rows(
    trainer: Any, batch: dict[str, torch.Tensor], first_of_step: int, first_row: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `MaskedDiffusionTrainer.generations`."""
    input_ids, present = batch["input_ids"], attended(batch)
    maskable = maskable_tokens(batch, len(input_ids))
    prompts, mask = input_ids.masked_fill(maskable, trainer.mask_token_id), present.long()
    own = (slice(None), slice(None))
    if shares_weights(trainer):
        (size, width), start = input_ids.shape, trainer.args.process_index * len(input_ids)
        own, first_row = (slice(start, start + size), slice(width)), first_of_step
        gather, pad = trainer.accelerator.gather, trainer.accelerator.pad_across_processes
        prompts, mask = gather(pad(prompts, dim=1)), gather(pad(mask, dim=1))
    seed = batch_seed(trainer.args.seed, first_row)
    settings = {**IN_PLACE, "return_dict_in_generate": False, "output_trajectory": False}
    sequences = generate(trainer, prompts, mask, seed, **settings)[own]
    return sequences.masked_fill(~present, IGNORED), input_ids.masked_fill(~maskable, IGNORED)


def keep_generations(trainer: Any, sequences: Any, labels: Any, path: Path) -> None:
    """Write what an evaluation generated as rows of `prompt`, `completion` and `tokens`, as `prism-hf generate` does.

    Args:
        trainer (`MaskedDiffusionTrainer`): Whose evaluation it is.
        sequences, labels (`np.ndarray`): See `MaskedDiffusionTrainer.generations`, (N, L).
        path (`Path`): The JSONL file, in a folder that is made.
    """
    tokenizer = tokenizer_of(trainer.processing_class)

    def row_of(ids: Any, written: Any) -> dict[str, Any]:
        prompt, tokens = ids[~written & (ids != IGNORED)].tolist(), ids[written].tolist()
        if tokenizer is None:
            return {"prompt": prompt, "completion": None, "tokens": tokens}
        completion = decode_with_ends(tokens, tokenizer, tokenizer.eos_token or "")
        return {"prompt": tokenizer.decode(prompt), "completion": completion, "tokens": tokens}

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = map(row_of, sequences, labels != IGNORED)
    write_whole(path, (to_json(row, ensure_ascii=False) for row in rows))


def padded_prompts(prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts as a batch (B, L) with its attention mask, padded on the left by what nothing attends."""
    ids = [torch.tensor(prompt, dtype=torch.long) for prompt in prompts]
    padded = pad_sequence(ids, batch_first=True, padding_side="left")
    return padded, pad_sequence([torch.ones_like(each) for each in ids], batch_first=True, padding_side="left")
