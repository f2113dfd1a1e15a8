"""What a model in training generates, judged: `compute_metrics` of a trainer with `predict_with_generate`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import EvalPrediction, PreTrainedTokenizerBase

from prism_hf.data.prompts import decode_with_ends
from prism_hf.evaluation.metrics.text import generative_perplexity, negative_log_likelihood, unigram_entropy

from .sudoku.task import sudoku_prediction_metrics
from .text import as_reader

IGNORED = -100  # of what a trainer gives
Metrics = Callable[[EvalPrediction], dict[str, float]]


def prediction_metrics(
    dataset: str | None, generates: bool, tokenizer: PreTrainedTokenizerBase | None, scorer: str | None = None
) -> Metrics | None:
    """The `compute_metrics` of a recipe, or None where its data has none.

    Args:
        dataset (`str`, *optional*): What kind of data, as `DataArguments` call it.
        generates (`bool`): Whether evaluations generate.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): The model's.
        scorer (`str`, *optional*): A causal language model that judges text.

    Raises:
        ValueError: for a scorer of what nobody generates, or of Sudoku; and if it has no tokenizer.

    Example:
        ```python
        compute_metrics = prediction_metrics("text", True, tokenizer, scorer="gpt2-large")
        ```
    """
    if scorer is not None and not generates:
        raise ValueError(f"eval_scorer={scorer!r} judges what is generated: set predict_with_generate=True.")
    if scorer is not None and dataset == "sudoku":
        raise ValueError(f"eval_scorer={scorer!r} judges text, which Sudoku is not: leave it out.")
    if not generates:
        return None
    if dataset == "sudoku":
        return sudoku_prediction_metrics
    return None if scorer is None else text_prediction_metrics(scorer, tokenizer)


def text_prediction_metrics(
    scorer: Any,
    tokenizer: PreTrainedTokenizerBase,
    scorer_tokenizer: str | PreTrainedTokenizerBase | None = None,
    batch_size: int = 8,
) -> Metrics:
    """How likely the text that a model generates in an evaluation is to another, and how varied.

    Rows without a prompt, all of whose tokens are to be learned, give samples from nothing. The processes of a launch
    share what is scored.

    Args:
        scorer (`str` or `PreTrainedModel`): A causal language model, by its name or itself.
        tokenizer (`PreTrainedTokenizerBase`): Of the model that generates.
        scorer_tokenizer (`str` or `PreTrainedTokenizerBase`, *optional*): The scorer's; by default the one saved with
            it.
        batch_size (`int`, *optional*, defaults to 8): Texts that the scorer reads at once.

    Returns:
        `Callable`: A `compute_metrics` that returns `generative_perplexity` and `entropy`: where both fall, the text
        repeats itself.

    Raises:
        ValueError: if the scorer has no tokenizer.

    Example:
        ```python
        args = MaskedDiffusionTrainingArguments(
            "runs/mdm",
            predict_with_generate=True,
            num_eval_generations=256,
            metric_for_best_model="generative_perplexity",
        )
        judge = text_prediction_metrics("gpt2-large", tokenizer)
        trainer = MaskedDiffusionTrainer(model, args, train_dataset=rows, eval_dataset=others, compute_metrics=judge)
        ```
    """
    reader = as_reader(scorer, scorer_tokenizer, batch_size, PartialState().device)
    end_of_text = reader.tokenizer.eos_token or ""

    def text_of(ids: np.ndarray) -> str:
        return decode_with_ends(ids.tolist(), tokenizer, end_of_text)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        rows, written = np.asarray(prediction.predictions), np.asarray(prediction.label_ids) != IGNORED
        present, state = rows != IGNORED, PartialState()
        own = range(state.process_index, len(rows), state.num_processes)
        prompts = [text_of(rows[i][present[i] & ~written[i]]) for i in own]
        wholes = [text_of(rows[i][present[i]]) for i in own]
        texts = [whole[len(prompt) :] for whole, prompt in zip(wholes, prompts, strict=True)]
        totals, numbers = negative_log_likelihood(texts, *reader, prompts=prompts)
        scored = torch.tensor(gather_object(list(zip(totals.tolist(), numbers.tolist(), strict=True))))
        counted = torch.from_numpy(written)
        entropy = unigram_entropy(torch.from_numpy(rows)[counted.any(-1)], counted[counted.any(-1)])
        return {"generative_perplexity": generative_perplexity(*scored.T), "entropy": entropy.mean().item()}

    return compute_metrics
