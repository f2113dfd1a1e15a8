"""The task of filling in what was masked of texts: a share of each, which is known.

Masks of a smaller share are among those of a larger one, so that tables of several shares are of the same places.
"""

from collections.abc import Callable
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from prism_hf.data.prompts import encode_texts, tokens_without_text
from prism_hf.fields import Allowed, Count, Positive, Seed, check_arguments
from prism_hf.hub.portable import portable
from prism_hf.jobs.digests import digest

from .task import PADDING, Judgement, Task, tokenizer_of_model

MaskedShare = Annotated[float, Allowed(above=0, below=1)]


def load_infill(
    model: Any,
    dataset_name: str,
    masked_share: MaskedShare = 0.5,
    num_samples: Positive = 64,
    num_tuning_samples: Count = 0,
    dataset_split: str = "train",
    dataset_text_field: str = "text",
    max_length: Positive | None = None,
    mask_seed: Seed = 0,
    tokenizer: str | None = None,
) -> Task:
    """Masked tokens to fill in. Score: the share of an example's masked tokens that are the text's own.

    Special tokens (`[CLS]`, `[SEP]`, ...) are given, and drawn nowhere.

    Args:
        model (`PreTrainedModel`): The model compared.
        dataset_name (`str`): A text, JSONL or Parquet file, a folder of such, or a dataset's name on the Hub.
        masked_share (`float`, *optional*, defaults to 0.5): Of a text's tokens, at least one and never all.
        num_samples (`int`, *optional*, defaults to 64): Texts, the first. Of equal ones one counts.
        num_tuning_samples (`int`, *optional*, defaults to 0): Those that follow, to choose arguments on.
        dataset_split (`str`, *optional*, defaults to `"train"`): Of the dataset. A file has one split, `train`.
        dataset_text_field (`str`, *optional*, defaults to `"text"`): The column of the texts.
        max_length (`int`, *optional*): Tokens after which a text is cut.
        mask_seed (`int`, *optional*, defaults to 0): Of where the masks are.
        tokenizer (`str`, *optional*): That of the model, from the Hub or a folder; by default the one saved with it.

    Returns:
        `Task`: The task.

    Raises:
        ValueError: if a number is out of bounds, the tokenizer is missing or of another model, there are too few texts,
            or one holds a mask or has fewer than two tokens that could be masked.

    Example:
        ```python
        task = load_task("infill", model, dataset_name="prose.jsonl", masked_share=0.4, num_samples=100)
        ```
    """
    check_arguments(load_infill, locals(), "the task infill")
    own_tokenizer = tokenizer_of_model(model, tokenizer)
    number, mask_token_id = num_samples + num_tuning_samples, model.config.mask_token_id
    texts = _distinct_texts(dataset_name, dataset_split, dataset_text_field, own_tokenizer, number, max_length)
    special = sorted({*own_tokenizer.all_special_ids} - {mask_token_id})
    masked = _masked_texts(texts, masked_share, mask_seed, mask_token_id, special)
    known, examples = (pad_sequence(rows, True, PADDING, padding_side="left") for rows in (texts, masked))

    origin = f"{num_samples} texts of {portable(dataset_name)} ({dataset_split}), {masked_share:.0%} of each masked."
    if num_tuning_samples:
        origin += f" Arguments were chosen on {num_tuning_samples} others, those that follow."
    return Task(
        examples=examples[:num_samples],
        tuning_examples=examples[num_samples:],
        judge=_judge(known, examples, num_samples, own_tokenizer, mask_token_id),
        measured="recovered",
        origin=origin,
        made_with={"texts": digest(known), "tokenizer": tokenizer or model.name_or_path},
        never_drawn=sorted({*special, *tokens_without_text(own_tokenizer, model.config.vocab_size, mask_token_id)}),
    )


def _judge(
    known: Tensor, examples: Tensor, num_samples: int, tokenizer: PreTrainedTokenizerBase, mask_token_id: int
) -> Callable[[Tensor, Tensor], Judgement]:
    """The judge of a `Task` by the texts `known` (N, L), of which `examples` (N, L) were made."""

    def judge(sequences: Tensor, asked: Tensor) -> Judgement:
        whole = known[num_samples:] if torch.equal(asked, examples[num_samples:]) else known[:num_samples]
        was_masked = asked == mask_token_id
        recovered = ((sequences == whole) & was_masked).sum(-1) / was_masked.sum(-1).double()
        tokens = [row[asked_row != PADDING].tolist() for row, asked_row in zip(sequences, asked, strict=True)]
        written = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        rows = [{"text": text, "recovered": score} for text, score in zip(written, recovered.tolist(), strict=True)]
        return Judgement(recovered, rows)

    return judge


def _distinct_texts(
    name: str, split: str, column: str, tokenizer: PreTrainedTokenizerBase, number: int, max_length: int | None
) -> list[Tensor]:
    """The tokens of the first `number` texts that differ, each (L,). Raises ValueError if there are fewer."""
    from prism_hf.data.text.loading import load_text  # which reads files with `datasets`

    texts = list(dict.fromkeys(load_text(name, split=split, column=column)["text"]))
    if len(texts) < number:
        raise ValueError(
            f"{name}, {split}, has {len(texts)} different texts, fewer than num_samples + num_tuning_samples = "
            f"{number}: lower one of them."
        )
    return [torch.tensor(ids[:max_length]) for ids in encode_texts(texts[:number], tokenizer, appends=False)]


def _masked_texts(texts: list[Tensor], share: float, seed: int, mask_token_id: int, special: list[int]) -> list[Tensor]:
    """The texts, each (L,), with masks. Raises ValueError for one that has a mask, or fewer than two tokens to mask."""
    generator, masked = torch.Generator().manual_seed(seed), []
    for number, ids in enumerate(texts, start=1):
        if (ids == mask_token_id).any():
            raise ValueError(f"Text {number} holds the mask token, and nobody knows what stood there: leave it out.")
        maskable = torch.isin(ids, torch.tensor(special), invert=True).nonzero()[:, 0]
        if len(maskable) < 2:
            raise ValueError(
                f"Text {number} has {len(maskable)} tokens that could be masked, of {len(ids)}: leave out texts that "
                "are so short, and see that the tokenizer knows their words."
            )
        count = min(max(round(share * len(maskable)), 1), len(maskable) - 1)
        chosen = torch.rand(len(maskable), generator=generator).argsort()[:count]
        masked.append(ids.index_fill(0, maskable[chosen], mask_token_id))
    return masked
