"""How varied the tokens within samples are, for `evaluate`."""

from typing import Any

import datasets
import evaluate
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer

from prism_hf.evaluation.metrics.text import unigram_entropy

INPUTS = """
Args:
    predictions (`list[list[int]]` or `list[str]`): The tokens of each sample, or its text.
    scorer (`str` or `PreTrainedModel`, *optional*, defaults to `"gpt2-large"`): Of texts, whose tokenizer is taken.
    tokenizer (`str` or `PreTrainedTokenizerBase`, *optional*): What texts are read with, by default the scorer's.
    batch_size (`int`, *optional*): Changes nothing, and is there for `evaluate.combine`.
    max_length (`int`, *optional*): Tokens after which a sample is cut.

Returns:
    `dict[str, float]`: `unigram_entropy`, the mean over samples, in nats: 0 where a sample repeats one token.
"""


class UnigramEntropy(evaluate.Metric):
    """The mean of `unigram_entropy`."""

    def _info(self) -> evaluate.MetricInfo:
        kinds = (datasets.Sequence(datasets.Value("int64")), datasets.Value("string"))
        return evaluate.MetricInfo(
            description="The mean entropy of the frequencies of the tokens within a sample.",
            citation="",
            inputs_description=INPUTS,
            features=[datasets.Features({"predictions": kind}) for kind in kinds],
        )

    def _compute(
        self,
        predictions: list[list[int]] | list[str],
        scorer: Any = "gpt2-large",
        tokenizer: Any = None,
        batch_size: int = 8,
        max_length: int | None = None,
    ) -> dict[str, float]:
        rows: list[Any] = predictions
        if isinstance(predictions[0], str):
            if tokenizer is None:
                tokenizer = scorer if isinstance(scorer, str) else scorer.name_or_path
            if isinstance(tokenizer, str):
                tokenizer = AutoTokenizer.from_pretrained(tokenizer)
            rows = [tokenizer(text, add_special_tokens=False).input_ids for text in predictions]
        ids = [torch.tensor(row[:max_length], dtype=torch.int64) for row in rows]
        for number, row in enumerate(ids, start=1):
            if len(row) == 0:
                raise ValueError(f"Sample {number} of {len(ids)} has no tokens, so that it has no entropy: drop it.")
        counted = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in ids], batch_first=True)
        return {"unigram_entropy": unigram_entropy(pad_sequence(ids, batch_first=True), counted).mean().item()}
