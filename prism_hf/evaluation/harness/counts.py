"""What an evaluation of answers took: forwards, tokens per forward, seconds."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any


@dataclass(frozen=True)
class Counts:
    """Sums over answers.

    Args:
        answers (`int`): How many were generated; what a cache held is not among them.
        tokens (`int`): Those of the answers, cut at the strings that end them and tokenized anew, without EOS: what
            d3LLM counts.
        generated_tokens (`int`): Those up to EOS, before the cut.
        forwards (`int`): Until each was finished, those of correctors included.
        seconds (`float`): A batch's, divided among its rows.
    """

    answers: int = 0
    tokens: int = 0
    generated_tokens: int = 0
    forwards: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def summary(self) -> dict[str, Any]:
        """The sums, and tokens per forward."""
        forwards = max(self.forwards, 1)
        return {
            **vars(self),
            "seconds": round(self.seconds, 3),
            "tokens_per_forward": self.tokens / forwards,
            "generated_tokens_per_forward": self.generated_tokens / forwards,
        }


def merged(parts: Iterable[dict[str, Counts]]) -> dict[str, Counts]:
    """The counts of each task, from those that several processes have made."""
    whole: dict[str, Counts] = {}
    for part in parts:
        for task, counts in part.items():
            whole[task] = whole.get(task, Counts()) + counts
    return whole
