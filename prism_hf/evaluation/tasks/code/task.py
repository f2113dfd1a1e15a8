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
from prism_hf.evaluation.metrics.code import pass_at_k
from prism_hf.evaluation.sandbox.sandbox import Isolation, Seconds, check_isolation
from prism_hf.evaluation.tasks.task import PADDING, Judgement, Task, load_tokenizer
from prism_hf.fields import Count, Positive, check_arguments
from prism_hf.jobs.digests import json_digest

from .problems import CodeProblem, PromptForm, of_split, read_problems
from .scoring import count_forms, score_completions


def load_code(
    model: Any,
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
    problems_config: str | None = None,
    prompt_form: PromptForm = "name",
    with_examples: bool = False,
) -> Task:
    """Functions to write. Score: whether all tests pass, so that its mean is pass@1.

    Beside it stand the share of answers that are Python, where their code was found, see `find_code`, and pass@k for
    10, 100 and all samples.
    What was written is kept with the results, in rows that `recipes/evaluate_code.py` scores anew.

    Of an MBPP file, the problems of the test split are reported; of a HumanEval file, all.

    Args:
        model (`PreTrainedModel`): The model compared.
        problems_file (`str`): mbpp.jsonl or HumanEval.jsonl.gz, a file in the layout of either, or a dataset's name on
            the Hub.
        num_problems (`int`, *optional*): The first of them, all if not given.
        num_tuning_problems (`int`, *optional*, defaults to 0): The first of MBPP's validation split, which has 90.
        tuning_file (`str`, *optional*): The MBPP file that holds it, by default `problems_file`.
        max_new_tokens (`int`, *optional*, defaults to 512): Tokens of an answer.
        apply_chat_template (`bool`, *optional*, defaults to `False`): The prompt becomes a user's turn in the
            tokenizer's template.
        tokenizer (`str`, *optional*): That of the model, from the Hub or a folder; by default the one saved with it.
        isolation (`str`, *optional*, defaults to `"namespaces"`): Of the programs, see `run_program`.
        timeout (`float`, *optional*, defaults to 10.0): Seconds of a program.
        num_workers (`int`, *optional*): Programs at once, by default one a CPU.
        num_samples (`int`, *optional*, defaults to 1): Answers to each problem, of which the score is the share that
            passes; they differ where tokens are drawn. Problems to tune on have one.
        problems_config (`str`, *optional*): The configuration of a dataset, such as `"sanitized"`.
        prompt_form, with_examples (*optional*): See `CodeProblem.prompt_in`.

    Returns:
        `Task`: The task.

    Raises:
        ValueError: if programs cannot be run in this isolation, a number is too small or larger than there are
            problems, or the tokenizer does not fit.

    Example:
        ```python
        task = load_task("code", model, problems_file="mbpp.jsonl", num_tuning_problems=90)
        ```
    """
    check_arguments(load_code, locals(), "the task code")
    check_isolation(isolation)
    reported = of_split(read_problems(problems_file, problems_config), "test")
    problems = _first(reported, num_problems, "num_problems", problems_file)
    tuning_problems = _problems_to_tune_on(tuning_file or problems_file, num_tuning_problems)
    name = tokenizer or model.name_or_path
    remedy = f"set the task's tokenizer to what {model.name_or_path} was trained with"
    reader = load_tokenizer(name, model.config.vocab_size, remedy)
    form = {"form": prompt_form, "examples": with_examples}
    canvas = (reader, max_new_tokens, model.config.mask_token_id, apply_chat_template)
    examples, tuning_examples = (_encode(each, form, *canvas) for each in (problems, tuning_problems))
    limits = {"isolation": isolation, "timeout": timeout}
    made_with = {"problems": json_digest([asdict(each) for each in [*problems, *tuning_problems]]), "tokenizer": name}
    run = limits | {"num_workers": num_workers}
    return Task(
        examples=examples.repeat_interleave(num_samples, dim=0),
        tuning_examples=tuning_examples,
        judge=_judge(problems, tuning_problems, tuning_examples, reader, max_new_tokens, num_samples, run),
        measured="pass@1",
        origin=_origin(Path(problems_file).name, problems, tuning_problems, max_new_tokens),
        made_with=made_with | limits | ({"num_samples": num_samples} if num_samples > 1 else {}),
        never_drawn=tokens_without_text(reader, model.config.vocab_size, model.config.mask_token_id),
    )


def _origin(name: str, problems: list[CodeProblem], tuning_problems: list[CodeProblem], max_new_tokens: int) -> str:
    origin = f"{len(problems)} problems of {name}, {max_new_tokens} tokens for each answer."
    if tuning_problems:
        origin += f" Arguments were chosen on {len(tuning_problems)} others, of the validation split."
    return origin


def _judge(
    problems: list[CodeProblem],
    tuning_problems: list[CodeProblem],
    tuning_examples: Tensor,
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    num_samples: int,
    run: dict[str, Any],
) -> Callable[[Tensor, Tensor], Judgement]:
    """The judge of the `Task`. run: see `run_programs`."""

    def judge(sequences: Tensor, asked: Tensor) -> Judgement:
        new = sequences[:, -max_new_tokens:].tolist()
        answers = decode_completions(new, tokenizer, tokenizer.eos_token_id)
        tuned = len(tuning_problems) > 0 and torch.equal(asked, tuning_examples)
        judged = _judgement(tuning_problems if tuned else problems, answers, num_samples, run)
        return judged._replace(num_tokens=_token_counts(answers, tokenizer))

    return judge


def _token_counts(answers: list[str], tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """(N,) tokens of answers, up to EOS and tokenized anew: what d3LLM counts."""
    return torch.tensor([len(ids) for ids in tokenizer(answers, add_special_tokens=False).input_ids])


def _judgement(problems: list[CodeProblem], answers: list[str], num_samples: int, run: dict[str, Any]) -> Judgement:
    """What the tests say of answers, of which there are equally many to each problem. run: see `run_programs`."""
    samples = len(answers) // len(problems)
    rows = score_completions([problem for problem in problems for _ in range(samples)], answers, **run)
    passed = torch.tensor([row["passed"] for row in rows]).view(-1, samples)
    right = passed.sum(-1).tolist()
    measures: dict[str, float | str] = {
        "parses": sum(row["parses"] for row in rows) / len(rows),
        "code found in": count_forms(row["found"] for row in rows),
    }
    for k in sorted({k for k in (10, 100, num_samples) if 1 < k <= num_samples}):
        # Of one answer each, as where arguments are chosen, nothing is known of more.
        shares = [pass_at_k(samples, number, k) if k <= samples else math.nan for number in right]
        measures[f"pass@{k}"] = sum(shares) / len(shares)
    return Judgement(passed[:, 0] if samples == 1 else passed.double().mean(-1), rows, measures)


def _problems_to_tune_on(path: str, number: int) -> list[CodeProblem]:
    problems = read_problems(path) if number else []
    in_layout = [problem for problem in problems if isinstance(problem.task_id, int)]
    found = of_split(in_layout, "validation") if in_layout else []
    return _first(found, number, "num_tuning_problems", f"the validation split of MBPP in {path}")


def _first(problems: list[CodeProblem], number: int | None, name: str, source: str) -> list[CodeProblem]:
    """The first `number` problems, all if None. Raises ValueError if there are fewer, or none."""
    if len(problems) < (1 if number is None else number):
        raise ValueError(f"{name}={number} is more than the {len(problems)} problems of {source}: lower it.")
    return problems[:number]


def _encode(
    problems: list[CodeProblem],
    form: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    mask_token_id: int,
    apply_chat_template: bool,
) -> Tensor:
    """Prompts and the masks after them, (N, L), with `PADDING` to the left of shorter ones. form: see `prompt_in`.

    Raises ValueError if the tokenizer lacks the template, or a prompt holds the mask token.
    """
    prompts = [problem.prompt_in(**form) for problem in problems]
    names = [f"The prompt of problem {problem.task_id}" for problem in problems]
    encoded = encode_prompts(prompts, tokenizer, apply_chat_template, mask_token_id=mask_token_id, names=names)
    rows = [torch.tensor(ids + [mask_token_id] * max_new_tokens) for ids in encoded]
    if not rows:
        return torch.empty(0, max_new_tokens, dtype=torch.long)
    return pad_sequence(rows, batch_first=True, padding_value=PADDING, padding_side="left")
