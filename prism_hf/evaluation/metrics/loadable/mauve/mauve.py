"""How far texts are from texts written by people, for `evaluate`."""

from typing import Any

import datasets
import evaluate

from prism_hf.evaluation.metrics.text import mauve
from prism_hf.evaluation.tasks.text import as_reader

CITATION = "Pillutla et al., MAUVE: Measuring the Gap Between Neural Text and Human Text, arXiv 2102.01454."
INPUTS = """
Args:
    predictions (`list[str]`): The texts; thousands are usual.
    references (`list[str]`): As many texts written by people.
    scorer (`str` or `PreTrainedModel`, *optional*, defaults to `"gpt2-large"`): A causal language model, by its name or
        itself, whose last hidden state at the last token is a text's feature.
    tokenizer (`str` or `PreTrainedTokenizerBase`, *optional*): The scorer's, by default the one saved with it.
    batch_size (`int`, *optional*, defaults to 8): Texts that the scorer reads at once.
    max_length (`int`, *optional*): Tokens after which a text is cut, by default what the scorer can read.
    seed (`int`, *optional*, defaults to 25): Of the clustering.
    **kwargs: To `mauve.compute_mauve` of the package `mauve-text`, such as `num_buckets`.

Returns:
    `dict[str, float]`: `mauve`, 1 if the two cannot be told apart, towards 0.
"""


class Mauve(evaluate.Metric):
    """`mauve` of `prism_hf.evaluation`."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="MAUVE between texts and texts written by people.",
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        scorer: Any = "gpt2-large",
        tokenizer: Any = None,
        batch_size: int = 8,
        max_length: int | None = None,
        **kwargs: Any,
    ) -> dict[str, float]:
        reader = as_reader(scorer, tokenizer, batch_size)
        return {"mauve": mauve(predictions, references, *reader, max_length=max_length, **kwargs)}
