"""What samplers are compared on: examples to complete, others to tune on, and a score for each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

# Stands to the left of examples that are shorter than others. It is attended by nothing, and 0 in what is judged.
PADDING = -1


@dataclass(frozen=True)
class Task:
    """Examples and how to score them.

    examples (N, L) and tuning_examples (M, L) are token ids with masks, and `PADDING` where one is shorter; M may be 0.
    score takes completed examples and what they were, and returns one score each, or one for each group of equal
    examples: (N,) bool where it is success or failure, else numbers of which higher is better. measured: what the score
    is, as the head of a column. origin: a sentence on where both kinds of examples come from and why none is in both.

    measures: further columns, by their heads: each takes scores, completed examples and what they were, and returns a
    number or a few words. judge: the score, and of each example what is kept in a file beside the results, such as its
    text; if None, its tokens are. made_with: what results depend on beside the examples, kept with them. tuning_seed:
    added to the sampler's seed for the examples to tune on, where it is not the examples but their random numbers that
    differ. never_drawn: tokens that no sampler may draw.
    """

    examples: Tensor
    tuning_examples: Tensor
    score: Callable[[Tensor, Tensor], Tensor]
    measured: str
    origin: str
    measures: dict[str, Callable[[Tensor, Tensor, Tensor], float | str]] = field(default_factory=dict)
    made_with: dict[str, Any] = field(default_factory=dict)
    tuning_seed: int = 0
    judge: Callable[[Tensor, Tensor], tuple[Tensor, list[dict[str, Any]]]] | None = None
    never_drawn: list[int] = field(default_factory=list)

    def judged(self, sequences: Tensor, examples: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
        """The scores of completed examples, and what is kept of each."""
        if self.judge is not None:
            return self.judge(sequences, examples)
        return self.score(sequences, examples), [{"tokens": row} for row in sequences.tolist()]


def load_tokenizer(name: str, vocab_size: int, remedy: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model with a vocabulary of that size. Raises ValueError, with a remedy, if none is there."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} has no tokenizer: {remedy}.") from error
    # Where its files are missing, transformers may build one without a vocabulary.
    if not tokenizer("a", add_special_tokens=False).input_ids:
        raise ValueError(f"{name} has no tokenizer: {remedy}.")
    if len(tokenizer) > vocab_size:
        raise ValueError(
            f"The tokenizer of {name} has {len(tokenizer)} tokens, the model {vocab_size}: it is of another; {remedy}."
        )
    return tokenizer
