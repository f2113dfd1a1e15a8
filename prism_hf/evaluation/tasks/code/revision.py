"""Right programs with a few wrong tokens, for a head that is to find them, and a sampler that is to mend them.

The rules are those of the Code Revision Benchmark (arXiv 2512.15596): in the body of a reference program, operators,
names or numbers are replaced by others of the same kind that take as many tokens, until exactly so many tokens are
changed; only programs that fail their tests are kept. So a program keeps its length, each wrong token has a right one
in its place, and where they are is known.

Its page does not say what a name or number is replaced by. Here it is another name of the same program, or another
number of it or one of 0 to 10.
"""

import io
import keyword
import random
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from transformers import PreTrainedTokenizerBase

from prism_hf.data.prompts import encode_texts
from prism_hf.fields import Allowed, Positive, Seed, check_arguments

from .problems import CodeProblem, run_answers

OPERATORS = ("+", "-", "*", "/", "<", ">", ">=", "<=", "!=", "==", ">>", "<<")
KINDS = ("operator", "var", "literal")
Kind = Annotated[str, Allowed(choices=KINDS)]
# What else a word may become, beside those of its program.
EXTRA = {"operator": set(OPERATORS), "var": set(), "literal": set(map(str, range(11)))}
# Left out by the benchmark.
LEFT_OUT = ("HumanEval/32", 342)
TRIES = 20  # for each variant asked for


@dataclass(frozen=True)
class Revision:
    """A reference program with wrong tokens.

    Args:
        task_id (`int` or `str`): Of its problem.
        kind (`str`): What was replaced: one of `KINDS`.
        answer (`str`): The reference with the errors in it, as `run_answers` takes it.
        input_ids (`list[int]`): The tokens of what is given and the answer.
        body_start (`int`): The first position that belongs to the body, which may be revised.
        error_positions (`list[int]`): Where the wrong tokens are.
        right_tokens (`list[int]`): What stood there.

    Example:
        ```python
        revisions = make_revisions(read_problems("mbpp.jsonl"), tokenizer, "operator")
        print([(each.answer, each.error_positions) for each in revisions])
        ```
    """

    task_id: int | str
    kind: str
    answer: str
    input_ids: list[int]
    body_start: int
    error_positions: list[int]
    right_tokens: list[int]


def make_revisions(
    problems: Sequence[CodeProblem],
    tokenizer: PreTrainedTokenizerBase,
    kind: Kind = "operator",
    num_replaced: Positive = 1,
    num_variants: Positive = 5,
    seed: Seed = 42,
) -> list[Revision]:
    """Variants of the reference of each problem with exactly so many wrong tokens, no two of them equal.

    A problem has fewer where chance does not find them. Whether they fail their tests, `failing_revisions` tells.

    Args:
        problems (`Sequence[CodeProblem]`): The problems.
        tokenizer (`PreTrainedTokenizerBase`): The model's, a fast one.
        kind (`str`, *optional*, defaults to `"operator"`): What is replaced: `"operator"`, `"var"` (names) or
            `"literal"` (numbers).
        num_replaced (`int`, *optional*, defaults to 1): Tokens that are changed; 1 to 5 in the benchmark.
        num_variants (`int`, *optional*, defaults to 5): Of a problem, at most.
        seed (`int`, *optional*, defaults to 42): Of what is replaced by what. That of a problem depends on no other.

    Returns:
        `list[Revision]`: The variants, in the order of the problems.

    Example:
        ```python
        problems = read_problems("mbpp.jsonl")
        wrong = failing_revisions(make_revisions(problems, tokenizer, "literal", num_replaced=2), problems)
        ```
    """
    check_arguments(make_revisions, locals())
    made: list[Revision] = []
    for problem in problems:
        if problem.task_id in LEFT_OUT:
            continue
        draw = random.Random(f"{seed} {problem.task_id} {kind} {num_replaced}")
        variants: dict[str, Revision] = {}
        for _ in range(TRIES * num_variants):
            if len(variants) == num_variants:
                break
            if (found := _variant(problem, tokenizer, kind, num_replaced, draw)) is not None:
                variants.setdefault(found.answer, found)
        made += variants.values()
    return made


def failing_revisions(revisions: Sequence[Revision], problems: Sequence[CodeProblem], **kwargs: Any) -> list[Revision]:
    """Those whose program fails its tests, so that what was replaced is an error.

    Args:
        revisions (`Sequence[Revision]`): What `make_revisions` returns.
        problems (`Sequence[CodeProblem]`): Their problems, and maybe others.
        **kwargs: See `run_programs`.

    Example:
        ```python
        problems = read_problems("mbpp.jsonl")
        wrong = failing_revisions(make_revisions(problems, tokenizer), problems, timeout=5.0)
        ```
    """
    by_id = {problem.task_id: problem for problem in problems}
    results = run_answers([by_id[each.task_id] for each in revisions], [each.answer for each in revisions], **kwargs)
    return [each for each, result in zip(revisions, results, strict=True) if not result.passed]


def _variant(
    problem: CodeProblem, tokenizer: PreTrainedTokenizerBase, kind: str, num_replaced: int, draw: random.Random
) -> Revision | None:
    """One variant, None where a try finds none."""
    text = problem.given + problem.reference
    body = len(problem.given) or text.find(problem.signature or "") + len(problem.signature or "")
    right, spans = _encode(text, tokenizer), _spans(text, body, kind)
    pool = {text[start:stop] for start, stop in spans} | EXTRA[kind]
    edits: dict[tuple[int, int], str] = {}
    changed = 0
    for start, stop in draw.sample(spans, len(spans)):
        if not (others := sorted(pool - {text[start:stop]})):
            continue
        tried = edits | {(start, stop): draw.choice(others)}
        wrong = _encode(_edited(text, tried), tokenizer)
        places = [place for place, (one, other) in enumerate(zip(right, wrong, strict=False)) if one != other]
        if len(wrong) != len(right) or not changed < len(places) <= num_replaced:
            continue
        edits, changed = tried, len(places)
        if changed < num_replaced:
            continue
        edited = _edited(text, edits)
        if tokenizer.decode(wrong, clean_up_tokenization_spaces=False) != edited:
            return None
        head = len(_encode(text[:body], tokenizer))
        answer = edited[len(problem.given) :]
        return Revision(problem.task_id, kind, answer, wrong, head, places, [right[place] for place in places])
    return None


def _encode(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return encode_texts([text], tokenizer, rendered=True)[0]


def _edited(text: str, edits: dict[tuple[int, int], str]) -> str:
    """Text with other words in some places."""
    for start, stop in sorted(edits, reverse=True):
        text = text[:start] + edits[start, stop] + text[stop:]
    return text


def _spans(text: str, body: int, kind: str) -> list[tuple[int, int]]:
    """Where the words of a kind are from the character `body` on, none within comments and strings."""
    starts = [0, *(at + 1 for at, character in enumerate(text) if character == "\n")]
    found, before = [], ""
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            is_one = {
                "operator": token.type == tokenize.OP and token.string in OPERATORS,
                "var": token.type == tokenize.NAME and not keyword.iskeyword(token.string),
                "literal": token.type == tokenize.NUMBER,
            }[kind]
            start = starts[min(token.start[0], len(starts)) - 1] + token.start[1]
            if is_one and start >= body and before not in ("def", "class"):
                found.append((start, start + len(token.string)))
            before = token.string
    except (tokenize.TokenError, SyntaxError):  # no Python of this version
        return []
    return found
