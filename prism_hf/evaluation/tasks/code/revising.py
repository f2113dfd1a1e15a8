"""Whether a model finds the wrong tokens of a program, and mends them, by the Code Revision Benchmark (2512.15596).

What is given stays as it is, and the body keeps its length. Each step is one forward. Its masks are filled greedily, a
token's score is what that forward says of it, and each token of the body whose score is at most the threshold becomes a
mask. The last step only fills. The benchmark's score is the token's probability; that of PRISM is its quality. A
quality head judges what it reads, which is a mask where a token was just filled: such a token is judged by the next
forward.

The samplers of `prism_hf.generation` are not asked, as none of them remasks what it was given. Rows of a forward are of
one length, so that nothing is padded.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prism_hf.data.prompts import decode_completions
from prism_hf.evaluation.metrics.calibration import auroc
from prism_hf.evaluation.metrics.statistics import bootstrap_ratio
from prism_hf.fields import Allowed, Count, Positive, check_arguments
from prism_hf.generation import RemaskGenerationConfig
from prism_hf.generation.denoising.canvas import prepare_canvas
from prism_hf.generation.denoising.reading import Posterior, Reader, check_quality
from prism_hf.generation.denoising.unmasking import finite_argmax, margin_of, probability_of

from .problems import CodeProblem
from .revision import Revision

SCORES = ("quality", "probability", "margin")
Score = Annotated[str, Allowed(choices=SCORES)]
Steps = Annotated[int, Allowed(min=2, remedy="The first step finds what is wrong, and the last one writes.")]
OF_TOKENS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"probability": probability_of, "margin": margin_of}

COLUMNS = (
    *("errors", "score", "programs", "AUROC", "recall@n", "chance", "mean, wrong", "mean, right"),
    *("pass@1", "restored", "spoilt"),
)
EXPLAINED = (
    "AUROC: how often a right token of the bodies outscores a wrong one. recall@n: of the n wrong tokens of a program, "
    "the share among its n lowest scores; chance: that of random scores. pass@1: after revision, before which no "
    "program passes, with a 95% interval by the bootstrap over problems. restored: the share of the wrong tokens that "
    "became the reference's; spoilt: right tokens that were changed, in the mean program. Where no program fails, "
    "programs are 0."
)


@torch.no_grad()
def judge_revisions(
    model: Any,
    revisions: Sequence[Revision],
    mask_token_id: Count,
    scores: Sequence[Score] = SCORES,
    batch_size: Positive = 8,
) -> list[dict[str, list[float]]]:
    """What one forward of each program says of the tokens of its body.

    Args:
        model (`Callable`): See `remask_generate`; with a quality head for `"quality"`.
        revisions (`Sequence[Revision]`): The programs.
        mask_token_id (`int`): The mask, which no token is.
        scores (`Sequence[str]`, *optional*, defaults to all): `"quality"`; `"probability"` of a token; `"margin"`, by
            how much that exceeds the probability of the likeliest other token.
        batch_size (`int`, *optional*, defaults to 8): Programs of a forward.

    Returns:
        `list[dict[str, list[float]]]`: For each program the scores of its tokens from `body_start` on, by name.

    Raises:
        ValueError: if the model has no quality head that is asked for, or what it says is NaN.

    Example:
        ```python
        judged = judge_revisions(model, revisions, tokenizer.mask_token_id)
        print(detection_metrics(revisions, [each["quality"] for each in judged]))
        ```
    """
    check_arguments(judge_revisions, {"scores": scores, "mask_token_id": mask_token_id, "batch_size": batch_size})
    found: dict[int, dict[str, list[float]]] = {}
    for index, tokens, starts in _batches(model, revisions, batch_size):
        read, first = _reader(model, tokens, mask_token_id, "quality" in scores), min(starts)
        of_score = {score: _scores(read(tokens, first), tokens[:, first:], score) for score in scores}
        for row, (number, start) in enumerate(zip(index, starts, strict=True)):
            found[number] = {score: values[row, start - first :].tolist() for score, values in of_score.items()}
    return [found[number] for number in range(len(revisions))]


def detection_metrics(revisions: Sequence[Revision], scores: Sequence[Sequence[float]]) -> dict[str, float]:
    """How well scores tell wrong tokens, which are to have low ones, from the others of the body.

    Args:
        revisions (`Sequence[Revision]`): The programs.
        scores (`Sequence[Sequence[float]]`): Of the tokens of each, from `body_start` on.

    Returns:
        `dict[str, float]`: `auroc`, over the tokens of all programs; `recall`, the share of the n wrong tokens of a
        program that are among its n lowest, and `chance`, what random scores have of it, both the mean over programs;
        `mean_wrong` and `mean_right`, the mean score of both kinds of token.

    Example:
        ```python
        judged = judge_revisions(model, revisions, tokenizer.mask_token_id)
        print(detection_metrics(revisions, [each["probability"] for each in judged])["auroc"])
        ```
    """
    recalls, chances, rights = [], [], []
    for revision, values in zip(revisions, scores, strict=True):
        wrong = {position - revision.body_start for position in revision.error_positions}
        lowest = sorted(range(len(values)), key=values.__getitem__)[: len(wrong)]
        recalls.append(len(wrong & {*lowest}) / len(wrong))
        chances.append(len(wrong) / len(values))
        rights += [number not in wrong for number in range(len(values))]
    flat, is_right = torch.tensor([each for values in scores for each in values]).double(), torch.tensor(rights)
    return {
        "auroc": auroc(flat, is_right),
        "recall": sum(recalls) / len(recalls),
        "chance": sum(chances) / len(chances),
        "mean_wrong": flat[~is_right].mean().item(),
        "mean_right": flat[is_right].mean().item(),
    }


@torch.no_grad()
def revise(
    model: Any,
    revisions: Sequence[Revision],
    mask_token_id: Count,
    score: Score = "quality",
    steps: Steps = 2,
    threshold: float = 0.9,
    batch_size: Positive = 8,
) -> list[list[int]]:
    """The tokens of each program after `steps` forwards that remask what scores low in its body and fill it anew.

    Args:
        model (`Callable`): See `remask_generate`; with a quality head for `"quality"`.
        revisions (`Sequence[Revision]`): The programs.
        mask_token_id (`int`): The mask.
        score (`str`, *optional*, defaults to `"quality"`): As in `judge_revisions`; the benchmark's is `"probability"`.
        steps (`int`, *optional*, defaults to 2): Forwards, at most; a program that has no token to remask is done.
        threshold (`float`, *optional*, defaults to 0.9): The highest score that is remasked.
        batch_size (`int`, *optional*, defaults to 8): Programs of a forward.

    Returns:
        `list[list[int]]`: The tokens of what is given and the body, as many as there were.

    Raises:
        ValueError: if the model has no quality head that is asked for, or what it says is NaN.

    Example:
        ```python
        written = revise(model, revisions, tokenizer.mask_token_id, steps=4)
        answers = revised_answers(revisions, written, problems, tokenizer)
        ```
    """
    given = {"score": score, "steps": steps, "threshold": threshold}
    check_arguments(revise, given | {"mask_token_id": mask_token_id, "batch_size": batch_size})
    found: dict[int, list[int]] = {}
    for index, tokens, starts in _batches(model, revisions, batch_size):
        read = _reader(model, tokens, mask_token_id, score == "quality")
        written = _revise_batch(read, tokens, starts, mask_token_id, score, steps, threshold)
        found |= zip(index, written.tolist(), strict=True)
    return [found[number] for number in range(len(revisions))]


def revised_answers(
    revisions: Sequence[Revision],
    written: Sequence[Sequence[int]],
    problems: Sequence[CodeProblem],
    tokenizer: PreTrainedTokenizerBase,
) -> list[str]:
    """The code of revised programs, as `run_answers` takes it.

    Args:
        revisions (`Sequence[Revision]`): The programs.
        written (`Sequence[Sequence[int]]`): What `revise` returns.
        problems (`Sequence[CodeProblem]`): Their problems, and maybe others.
        tokenizer (`PreTrainedTokenizerBase`): The model's.

    Example:
        ```python
        answers = revised_answers(revisions, revise(model, revisions, tokenizer.mask_token_id), problems, tokenizer)
        ```
    """
    given = {problem.task_id: problem.given for problem in problems}
    texts = decode_completions(written, tokenizer, tokenizer.eos_token_id)
    return [text.removeprefix(given[each.task_id]) for each, text in zip(revisions, texts, strict=True)]


def revision_table(rows: Sequence[Mapping[str, Any]], kinds: Sequence[str] = ()) -> str:
    """What was found and mended of each kind of error by each score, in Markdown.

    Args:
        rows (`Sequence[Mapping[str, Any]]`): Each has the fields of a `Revision`, and by score `scores`, those of its
            tokens, and `revised`, the `tokens` that were written and whether they `passed`.
        kinds (`Sequence[str]`, *optional*): The kinds that were asked for, which come first; one of which no program
            failed has a line too.

    Example:
        ```python
        print(revision_table([json.loads(line) for line in open("revision/revisions.jsonl")]))
        ```
    """
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|---|" + "---:|" * (len(COLUMNS) - 2)]
    for kind in dict.fromkeys([*kinds, *(row["kind"] for row in rows)]):
        of_kind = [row for row in rows if row["kind"] == kind]
        if of_kind:
            lines += [_line(kind, score, of_kind) for score in of_kind[0]["scores"]]
        else:
            lines.append("| " + " | ".join([kind, "", "0", *[""] * (len(COLUMNS) - 3)]) + " |")
    if not rows and not kinds:
        lines = ["No program with wrong tokens failed its tests."]
    return "\n".join([*lines, "", EXPLAINED, ""])


def _line(kind: str, score: str, rows: Sequence[Mapping[str, Any]]) -> str:
    revisions = [Revision(**{each.name: row[each.name] for each in fields(Revision)}) for row in rows]
    found = detection_metrics(revisions, [row["scores"][score] for row in rows])
    revised = [row["revised"][score] for row in rows]
    totals: dict[int | str, list[int]] = {}
    for row, each in zip(rows, revised, strict=True):
        passed, number = totals.get(row["task_id"], (0, 0))
        totals[row["task_id"]] = [passed + each["passed"], number + 1]
    passed, numbers = torch.tensor([*totals.values()]).double().T
    low, high = bootstrap_ratio(passed, numbers)
    changes = [_changes(of, each["tokens"]) for of, each in zip(revisions, revised, strict=True)]
    restored, spoilt = (sum(each) for each in zip(*changes, strict=True))
    wrong = sum(len(each.error_positions) for each in revisions)
    cells = [kind, score, str(len(rows)), f"{found['auroc']:.3f}", f"{found['recall']:.1%}", f"{found['chance']:.1%}"]
    cells += [f"{found['mean_wrong']:.3f}", f"{found['mean_right']:.3f}"]
    cells += [f"{sum(passed) / sum(numbers):.1%} [{low:.1%}, {high:.1%}]"]
    cells += [f"{restored / wrong:.1%}", f"{spoilt / len(rows):.2f}"]
    return "| " + " | ".join(cells) + " |"


def _changes(revision: Revision, tokens: Sequence[int]) -> tuple[int, int]:
    """How many wrong tokens became right ones, and how many right ones became others."""
    rights = dict(zip(revision.error_positions, revision.right_tokens, strict=True))
    restored = sum(tokens[place] == right for place, right in rights.items())
    changed = (place for place, pair in enumerate(zip(revision.input_ids, tokens, strict=True)) if len({*pair}) > 1)
    return restored, sum(place not in rights for place in changed)


Read = Callable[[Tensor, int], tuple[Posterior, Tensor | None]]


def _revise_batch(
    read: Read, tokens: Tensor, starts: list[int], mask_token_id: int, score: str, steps: int, threshold: float
) -> Tensor:
    first = min(starts)
    columns = torch.arange(first, tokens.shape[1], device=tokens.device)
    unfinished = columns >= torch.tensor(starts, device=tokens.device)[:, None]  # the bodies of rows that go on
    masked = torch.zeros_like(unfinished)
    for step in range(steps):
        reading = read(tokens, first)
        body = torch.where(masked, reading[0].map(finite_argmax), tokens[:, first:])
        tokens = torch.cat([tokens[:, :first], body], dim=1)
        if bool((body < 0).any()):
            raise ValueError("The model's logits are NaN: its weights are broken, or its dtype is too narrow.")
        if step == steps - 1:
            break
        unjudged = masked if score == "quality" else torch.zeros_like(masked)
        masked = unfinished & ~unjudged & (_scores(reading, body, score) <= threshold)
        unfinished = unfinished & (masked | unjudged).any(-1, keepdim=True)
        if not bool(unfinished.any()):
            break
        tokens = torch.cat([tokens[:, :first], body.masked_fill(masked, mask_token_id)], dim=1)
    return tokens


def _batches(
    model: Any, revisions: Sequence[Revision], batch_size: int
) -> Iterator[tuple[list[int], Tensor, list[int]]]:
    """Programs of one length: their numbers, tokens (B, L) where the model is, and where each body begins."""
    device = next(model.parameters(), torch.empty(0)).device
    lengths = [len(each.input_ids) for each in revisions]
    for length in sorted({*lengths}, reverse=True):
        of_length = torch.tensor([number for number, each in enumerate(lengths) if each == length])
        for index in (part.tolist() for part in of_length.split(batch_size)):
            rows = [revisions[number] for number in index]
            tokens = torch.tensor([each.input_ids for each in rows], device=device)
            yield index, tokens, [each.body_start for each in rows]


def _reader(model: Any, tokens: Tensor, mask_token_id: int, reads_quality: bool) -> Read:
    """Makes a forward of a canvas: the posterior and the quality (B, W) from a column on."""
    check_scores(model, ["quality"] if reads_quality else [])
    config = RemaskGenerationConfig(mask_token_id=mask_token_id, max_new_tokens=0, num_return_sequences=1)
    reader = Reader(model, prepare_canvas(model, tokens, None, config), config, reads_quality)

    def read(tokens: Tensor, first: int) -> tuple[Posterior, Tensor | None]:
        columns = torch.arange(first, tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
        posterior, quality = reader(tokens, columns)
        return posterior, None if quality is None else quality[:, first:]

    return read


def check_scores(model: Any, scores: Sequence[str]) -> None:
    """Raise ValueError where quality is asked for of a model without a head."""
    if "quality" in scores:
        try:
            check_quality(model)
        except ValueError as error:
            raise ValueError(
                f"{type(model).__name__} has no quality head, which the score 'quality' reads: take a "
                "PrismForMaskedDiffusion, or scores without it, probability and margin."
            ) from error


def _scores(reading: tuple[Posterior, Tensor | None], tokens: Tensor, score: str) -> Tensor:
    """What a forward says of tokens (B, W)."""
    posterior, quality = reading
    values = quality if score == "quality" else posterior.map(OF_TOKENS[score], tokens)
    if bool(values.isnan().any()):
        raise ValueError(f"The {score} of a token is NaN: the weights are broken, or their dtype is too narrow.")
    return values
