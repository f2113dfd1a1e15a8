"""What samplers are compared on: examples to complete, others to tune on, and a judge of what was completed.

Examples of unequal length hold `PADDING`, -1, to the left: one tensor says all, and no token can be taken for padding.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, NamedTuple

from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from prism_hf._deprecation import renamed_arguments
from prism_hf.data.tokenizers import has_vocabulary

# It is attended by nothing, and 0 in what is judged.
PADDING = -1


class Judgement(NamedTuple):
    """What a task says of completed examples.

    Args:
        scores (`torch.Tensor` of shape `(N,)`): One for each example, or for each group of equal examples: bool where
            it is success or failure, else numbers of which higher is better.
        completions (`list[dict[str, Any]]`, *optional*): What is kept of each example in a file beside the results,
            such as its text; its tokens if not given.
        measures (`dict[str, float | str]`, *optional*): Further columns of a table: what each is called, and a number
            or a few words.
        num_tokens (`torch.Tensor` of shape `(N,)`, *optional*): The tokens of each answer, for tokens per forward; all
            that were filled in if not given.

    Example:
        ```python
        >>> judged = Judgement(torch.tensor([True, False]), [{"text": "a"}, {"text": "b"}], {"mean length": 1.0})
        >>> judged.measures
        {'mean length': 1.0}
        ```
    """

    scores: Tensor
    completions: list[dict[str, Any]] | None = None
    measures: dict[str, float | str] = {}
    num_tokens: Tensor | None = None


class Writing(NamedTuple):
    """How what a sampler writes is kept before it is judged, in a file of samples.

    Args:
        rows (`Callable`): Takes completed examples and what they were, and returns a line for each, with `completion`.
        tokenizer (`dict[str, Any]`): What the manifest tells of it, see `describe_tokenizer` of `prism_hf.jobs`.

    Example:
        ```python
        writing = Writing(lambda sequences, examples: [{"completion": decode(row)} for row in sequences], {})
        ```
    """

    rows: Callable[[Tensor, Tensor], list[dict[str, Any]]]
    tokenizer: dict[str, Any]


@dataclass(frozen=True)
class Task:
    """Examples and how completions of them are judged.

    Args:
        examples (`torch.Tensor` of shape `(N, L)`): Token ids with masks, and `PADDING` where one is shorter.
        tuning_examples (`torch.Tensor` of shape `(M, L)`): Others, to choose arguments on; M may be 0.
        judge (`Callable`): Takes completed examples and what they were, and returns a `Judgement`, a tuple of its
            first parts, or its scores alone.
        measured (`str`): What a score is, as the head of a column.
        origin (`str`): A sentence on where both kinds of examples come from and why none is in both.
        made_with (`dict[str, Any]`, *optional*): What results depend on beside the examples, kept with them.
        tuning_seed (`int`, *optional*, defaults to 0): Added to the sampler's seed for the examples to tune on, where
            it is not the examples but their random numbers that differ.
        never_drawn (`list[int]`, *optional*): Tokens that no sampler may draw.
        judged_with (`dict[str, Any]`, *optional*): What a judgement depends on and completed examples do not, such as a
            scorer: with another, kept ones are judged again.
        writing (`Writing`, *optional*): How completed examples are kept. They are kept with the judgement if not given.

    Example:
        ```python
        def ends_in_five(sequences, examples):
            return sequences[:, -1] == 5

        examples = torch.full((8, 16), model.config.mask_token_id)
        task = Task(examples, examples[:0], ends_in_five, measured="ends in five", origin="Nothing is given.")
        ```
    """

    examples: Tensor
    tuning_examples: Tensor
    judge: Callable[[Tensor, Tensor], tuple[Any, ...] | Tensor]
    measured: str
    origin: str
    made_with: dict[str, Any] = field(default_factory=dict)
    tuning_seed: int = 0
    never_drawn: list[int] = field(default_factory=list)
    judged_with: dict[str, Any] = field(default_factory=dict)
    writing: Writing | None = None

    def judged(self, sequences: Tensor, examples: Tensor) -> Judgement:
        """What the judge says of completed examples (N, L'), with what is kept of each."""
        judged = self.judge(sequences, examples)
        judged = Judgement(*judged) if isinstance(judged, tuple) else Judgement(judged)
        if judged.completions is None:
            judged = judged._replace(completions=[{"tokens": row} for row in sequences.tolist()])
        return judged


def _judge_says_all(init: Callable[..., None]) -> Callable[..., None]:
    """The constructor of `Task`, which says what has become of `measures`, its argument in an earlier version."""

    @wraps(init)
    def named(self: Task, *args: Any, **kwargs: Any) -> None:
        if "measures" in kwargs:
            raise TypeError(
                "A Task takes no measures: its judge returns them, as Judgement(scores, completions, measures)."
            )
        init(self, *args, **kwargs)

    return named


Task.__init__ = _judge_says_all(renamed_arguments(score="judge")(Task.__init__))  # type: ignore[method-assign]


def load_tokenizer(name: str, vocab_size: int, remedy: str, **kwargs: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a model with a vocabulary of that size. Raises ValueError, with a remedy, if none is there.

    kwargs: to `AutoTokenizer.from_pretrained`.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **kwargs)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} has no tokenizer: {remedy}.") from error
    if not has_vocabulary(tokenizer):
        raise ValueError(f"{name} has no tokenizer: {remedy}.")
    if len(tokenizer) > vocab_size:
        raise ValueError(
            f"The tokenizer of {name} has {len(tokenizer)} tokens, the model {vocab_size}: it is of another; {remedy}."
        )
    return tokenizer


def tokenizer_of_model(model: Any, name: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of the model compared. Raises ValueError if it has another mask."""
    remedy = f"set the task's tokenizer to what {model.name_or_path} was trained with, such as gpt2"
    tokenizer = load_tokenizer(name or model.name_or_path, model.config.vocab_size, remedy)
    mask_token_id = model.config.mask_token_id
    if tokenizer.mask_token_id not in (None, mask_token_id):
        raise ValueError(f"The tokenizer has mask {tokenizer.mask_token_id}, the model {mask_token_id}: {remedy}.")
    return tokenizer
