"""How likely texts are to a language model of another kind, for `evaluate`."""

from typing import Any

import datasets
import evaluate

from prism_hf.evaluation.metrics.text import generative_perplexity, negative_log_likelihood
from prism_hf.evaluation.tasks.text import as_reader

INPUTS = """
Args:
    predictions (`list[str]`): The texts.
    scorer (`str` or `PreTrainedModel`, *optional*, defaults to `"gpt2-large"`): A causal language model, by its name or
        itself.
    tokenizer (`str` or `PreTrainedTokenizerBase`, *optional*): The scorer's, by default the one saved with it.
    batch_size (`int`, *optional*, defaults to 8): Texts that the scorer reads at once.
    max_length (`int`, *optional*): Tokens after which a text is cut, by default what the scorer can read.

Returns:
    `dict[str, float]`: `generative_perplexity`, exp of the mean cross-entropy of all tokens, NaN without any.
"""


class GenerativePerplexity(evaluate.Metric):
    """`generative_perplexity` of what `negative_log_likelihood` returns."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="The perplexity of all texts together under a causal language model, in its own tokens.",
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(
        self,
        predictions: list[str],
        scorer: Any = "gpt2-large",
        tokenizer: Any = None,
        batch_size: int = 8,
        max_length: int | None = None,
    ) -> dict[str, float]:
        reader = as_reader(scorer, tokenizer, batch_size)
        scored = negative_log_likelihood(predictions, *reader, max_length=max_length)
        return {"generative_perplexity": generative_perplexity(*scored)}
