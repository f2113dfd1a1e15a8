"""Right programs with a few wrong tokens: how many, where, of which kind, and that they fail."""

import io
import tokenize
from pathlib import Path

import pytest

import prism_hf
from prism_hf.data import train_byte_level_bpe
from prism_hf.evaluation.tasks.code.problems import CodeProblem
from prism_hf.evaluation.tasks.code.revision import KINDS, OPERATORS, failing_revisions, make_revisions

GIVEN = 'def third(a: int, b: int) -> int:\n    """ a + b * 3. """\n'
BODY = (
    "    total, twice = a + 3 * b, 2  # a - b\n    text = '7 + total'\n    return total if twice > 1 else len(text)\n"
)
TESTS = "assert third(1, 2) == 7 and third(0, 0) == 0\n"
PROBLEMS = [
    CodeProblem("HumanEval/1", "Sum.", "third", GIVEN, BODY, TESTS, signature="def third(a: int, b: int) -> int:"),
    CodeProblem(11, "Sum.", "third", "", GIVEN + BODY, TESTS, signature="def third(a: int, b: int) -> int:"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_bpe(sorted((Path(prism_hf.__file__).parent / "diffusion").glob("*.py")), 400)


def words(text):
    return [(token.type, token.string) for token in tokenize.generate_tokens(io.StringIO(text).readline)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_exactly_so_many_tokens_are_wrong_and_of_one_kind(tokenizer, kind, number):
    revisions = make_revisions(PROBLEMS, tokenizer, kind, num_replaced=number, num_variants=4)
    assert {each.task_id for each in revisions} == {"HumanEval/1", 11}
    assert len({(each.task_id, each.answer) for each in revisions}) == len(revisions) <= 8
    for each in revisions:
        problem = PROBLEMS[each.task_id == 11]
        text = problem.given + problem.reference
        right, wrong = tokenizer(text).input_ids, tokenizer(problem.given + each.answer).input_ids
        assert each.input_ids == wrong and tokenizer.decode(wrong) == problem.given + each.answer
        assert each.error_positions == [i for i in range(len(right)) if right[i] != wrong[i]]
        assert len(each.error_positions) == number and min(each.error_positions) >= each.body_start
        assert each.right_tokens == [right[i] for i in each.error_positions]
        pairs = zip(words(text), words(problem.given + each.answer), strict=True)
        changed = [pair for pair in pairs if len(set(pair)) > 1]
        for (type_, old), (new_type, new) in changed:
            assert type_ == new_type != tokenize.COMMENT and type_ != tokenize.STRING
            if kind == "operator":
                assert old in OPERATORS and new in OPERATORS
            else:
                assert type_ == (tokenize.NAME if kind == "var" else tokenize.NUMBER) and old not in ("if", "def")
        assert changed


def test_a_seed_says_all_and_a_problem_depends_on_no_other(tokenizer):
    made = make_revisions(PROBLEMS, tokenizer, num_variants=2)
    assert make_revisions(PROBLEMS[1:], tokenizer, num_variants=2) == [each for each in made if each.task_id == 11]
    assert make_revisions(PROBLEMS, tokenizer, num_variants=2, seed=1) != made
    left_out = CodeProblem("HumanEval/32", "", "third", GIVEN, BODY, TESTS)
    assert make_revisions([left_out], tokenizer) == []
    with pytest.raises(ValueError, match="kind='name' must be one of 'operator', 'var', 'literal'"):
        make_revisions(PROBLEMS, tokenizer, "name")


def test_what_still_passes_is_no_error(tokenizer):
    """Against the interpreter here: these programs are ours, and end."""
    revisions = [each for kind in KINDS for each in make_revisions(PROBLEMS, tokenizer, kind, num_variants=2)]
    kept = failing_revisions(revisions, PROBLEMS, isolation="limits", progress=False)
    for each in revisions:
        try:
            exec((GIVEN if each.task_id == "HumanEval/1" else "") + each.answer + TESTS, {})
            fails = False
        except Exception:
            fails = True
        assert fails == (each in kept)
    assert kept
