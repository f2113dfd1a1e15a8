"""The task of writing functions that pass tests, those of MBPP or HumanEval."""

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from prism_hf.data.prompts import decode_completions, encode_prompts, tokens_without_text
from prism_hf.evaluation.sandbox.sandbox import Isolation, Seconds, check_isolation
from prism_hf.evaluation.tasks.task import PADDING, Task, load_tokenizer
from prism_hf.fields import Count, Positive, check_arguments
from prism_hf.jobs.digests import json_digest

from .answers import find_code
from .problems import MBPP_SPLITS, CodeProblem, pass_at_k, read_problems
from .scoring import count_forms, score_completions


def load_code(
    model,
    problems_file: str,
    num_problems: Positive | None = None,
    num_tuning_problems: Count = 0,
    tuning_file: str | None = None,
    max_new_tokens: Positive = 512,
    apply_chat_template: bool = False,
    tokenizer: str | None = None,
    isolation: Isolation = "namespaces",
    timeout: Seconds = 10.0,
    num_workers: Positive | None = None,
    num_samples: Positive = 1,
) -> Task:
    """Functions to write in `max_new_tokens` tokens. Score: whether all tests pass, so that its mean is pass@1.

    Beside it, where the code was found in the answers, see `find_code`, and pass@k for 10, 100 and all samples. What
    was written is kept with the results, in rows that `recipes/evaluate_code.py` scores anew.

    Of an MBPP file, the problems of the test split are reported; of a HumanEval file, all.

    Args:
        model: the model compared.
        problems_file: mbpp.jsonl or HumanEval.jsonl.gz, or a file in the layout of either.
        num_problems: the first of them, all if None.
        num_tuning_problems: the first of MBPP's validation split, of which there are 90.
        tuning_file: the MBPP file that holds it, `problems_file` if None.
        apply_chat_template: the prompt becomes a user's turn in the tokenizer's template.
        tokenizer: of the model, from the Hub or a folder; that saved with it if None.
        isolation, timeout, num_workers: of the programs, see `run_programs`.
        num_samples: answers to each problem, of which the score is the share that passes; they differ where tokens are
            drawn. Problems to tune on have one.

    Raises:
        ValueError: if programs cannot be run in this isolation, a number is too small or larger than there are
            problems, or the tokenizer does not fit.
    """
    check_arguments(load_code, locals(), "the task code")
    check_isolation(isolation)
    problems = take(reported_problems(problems_file), num_problems, "num_problems", problems_file)
    tuning_file = tuning_file or problems_file
    tuning_problems = take(
        of_split(read_problems(tuning_file), "validation") if num_tuning_problems else [],
        num_tuning_problems, "num_tuning_problems", f"the validation split of MBPP in {tuning_file}",
    )  # fmt: skip
    remedy = f"set the task's tokenizer to what {model.name_or_path} was trained with"
    own_tokenizer = load_tokenizer(tokenizer or model.name_or_path, model.config.vocab_size, remedy)
    mask_token_id = model.config.mask_token_id
    examples, tuning_examples = (
        encode_problems(each, own_tokenizer, max_new_tokens, mask_token_id, apply_chat_template)
        for each in (problems, tuning_problems)
    )
    judge, measures = make_measures(
        problems, tuning_problems, tuning_examples, own_tokenizer, max_new_tokens, num_samples,
        isolation=isolation, timeout=timeout, num_workers=num_workers,
    )  # fmt: skip
    origin = f"{len(problems)} problems of {Path(problems_file).name}, {max_new_tokens} tokens for each answer."
    if tuning_problems:
        origin += f" Arguments were chosen on {len(tuning_problems)} others, of MBPP's validation split."
    return Task(
        examples=examples.repeat_interleave(num_samples, dim=0),
        tuning_examples=tuning_examples,
        score=lambda sequences, asked_for: judge(sequences, asked_for)[0],
        judge=judge,
        measured="pass@1",
        measures=measures,
        origin=origin,
        made_with={
            "problems": json_digest([asdict(problem) for problem in [*problems, *tuning_problems]]),
            "tokenizer": tokenizer or model.name_or_path,
            "isolation": isolation,
            "timeout": timeout,
        }
        | ({"num_samples": num_samples} if num_samples > 1 else {}),
        never_drawn=tokens_without_text(own_tokenizer, model.config.vocab_size, mask_token_id),
    )


def make_measures(
    problems: list[CodeProblem],
    tuning_problems: list[CodeProblem],
    tuning_examples: Tensor,
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    num_samples: int,
    **run: Any,
) -> tuple[Callable, dict[str, Callable]]:
    """`judge` and `measures` of a `Task` whose completed examples are answers to problems. run: see `run_programs`."""

    def answers_to(sequences: Tensor, asked_for: Tensor) -> tuple[list[CodeProblem], int, list[str]]:
        """The problem of each answer, how many answers there are to each problem, and the answers."""
        tuned = len(tuning_problems) > 0 and torch.equal(asked_for, tuning_examples)
        asked, samples = (tuning_problems, 1) if tuned else (problems, num_samples)
        repeated = [problem for problem in asked for _ in range(samples)]
        new = sequences[:, -max_new_tokens:].tolist()
        return repeated, samples, decode_completions(new, tokenizer, tokenizer.eos_token_id)

    def judge(sequences: Tensor, asked_for: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
        asked, samples, texts = answers_to(sequences, asked_for)
        rows = score_completions(asked, texts, **run)
        passed = torch.tensor([row["passed"] for row in rows])
        return passed if samples == 1 else passed.double().view(-1, samples).mean(-1), rows

    def found(scores: Tensor, sequences: Tensor, asked_for: Tensor) -> str:
        asked, _, texts = answers_to(sequences, asked_for)
        return count_forms(
            find_code(text, problem.entry_point).form for text, problem in zip(texts, asked, strict=True)
        )

    def pass_at(k: int) -> Callable[[Tensor, Tensor, Tensor], float]:
        def measure(scores: Tensor, sequences: Tensor, asked_for: Tensor) -> float:
            if len(scores) == len(sequences):  # one answer each: nothing is known of more
                return math.nan
            right = (scores * num_samples).round().int().tolist()
            return sum(pass_at_k(num_samples, number, k) for number in right) / len(right)

        return measure

    several = sorted({k for k in (10, 100, num_samples) if 1 < k <= num_samples})
    return judge, {"code found in": found} | {f"pass@{k}": pass_at(k) for k in several}


def reported_problems(path: str) -> list[CodeProblem]:
    """All problems of HumanEval, or the test split of MBPP, whose task ids are numbers."""
    problems = read_problems(path)
    return of_split(problems, "test") if any(isinstance(problem.task_id, int) for problem in problems) else problems


def of_split(problems: list[CodeProblem], split: str) -> list[CodeProblem]:
    return [problem for problem in problems if problem.task_id in MBPP_SPLITS[split]]


def take(problems: list[CodeProblem], number: int | None, name: str, source: str) -> list[CodeProblem]:
    """The first `number` problems, all if None. Raises ValueError if there are fewer, or none."""
    if len(problems) < (1 if number is None else number):
        raise ValueError(f"{name}={number} is more than the {len(problems)} problems of {source}: lower it.")
    return problems[:number]


def encode_problems(
    problems: list[CodeProblem],
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    mask_token_id: int,
    apply_chat_template: bool,
) -> Tensor:
    """Prompts and the masks after them, (N, L), with `PADDING` to the left of shorter ones.

    Raises ValueError if the tokenizer lacks the template, or a prompt holds the mask token.
    """
    encoded = encode_prompts(
        [problem.prompt for problem in problems], tokenizer, apply_chat_template, mask_token_id=mask_token_id,
        names=[f"The prompt of problem {problem.task_id}" for problem in problems],
    )  # fmt: skip
    rows = [torch.tensor(ids + [mask_token_id] * max_new_tokens) for ids in encoded]
    if not rows:
        return torch.empty(0, max_new_tokens, dtype=torch.long)
    return pad_sequence(rows, batch_first=True, padding_value=PADDING, padding_side="left")
