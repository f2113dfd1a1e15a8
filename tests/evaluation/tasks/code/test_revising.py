"""Finding and mending wrong tokens, with a model that says what a table holds."""

import math
import random
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from prism_hf.evaluation import detection_metrics, judge_revisions, revise, revised_answers, revision_table, run_answers
from prism_hf.evaluation.tasks.code.problems import CodeProblem
from prism_hf.evaluation.tasks.code.revision import Revision, make_revisions

MASK, VOCAB = 6, 7


class Table(nn.Module):
    """Logits and quality of a position depend on it, on its token and on how many masks there are."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.logits = 2 * torch.randn(12, VOCAB, VOCAB, 13, generator=generator)
        self.quality = 3 * torch.randn(12, VOCAB, 13, generator=generator)

    def forward(self, input_ids, attention_mask=None, return_quality=False):
        at, number = torch.arange(input_ids.shape[1]), (input_ids == MASK).sum(-1, keepdim=True)
        quality = self.quality[at, input_ids, number] if return_quality else None
        return SimpleNamespace(logits=self.logits[at, input_ids, :, number], quality_logits=quality)


def program(tokens, start, errors=(), rights=()):
    return Revision(1, "operator", "", tokens, start, list(errors), list(rights))


@pytest.fixture
def programs():
    draw = random.Random(0)
    shapes = [(9, 2), (12, 5), (9, 4), (9, 0), (7, 3), (12, 11)]
    return [program([draw.randrange(MASK) for _ in range(length)], start) for length, start in shapes]


def posterior(model, tokens, place):
    """Probabilities of all tokens but the mask."""
    logits = model(torch.tensor([tokens])).logits[0, place, :MASK].tolist()
    total = sum(map(math.exp, logits))
    return [math.exp(logit) / total for logit in logits]


def score_of(model, tokens, place, score, token):
    if score == "quality":
        return model(torch.tensor([tokens]), return_quality=True).quality_logits[0, place].sigmoid().item()
    probs = posterior(model, tokens, place)
    rival = max(prob for other, prob in enumerate(probs) if other != token)
    return probs[token] - (rival if score == "margin" else 0)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_scores_are_those_of_one_forward_of_each_program(programs, batch_size):
    model = Table(0)
    for each, judged in zip(programs, judge_revisions(model, programs, MASK, batch_size=batch_size), strict=True):
        for score, values in judged.items():
            places = range(each.body_start, len(each.input_ids))
            expected = [score_of(model, each.input_ids, at, score, each.input_ids[at]) for at in places]
            assert values == pytest.approx(expected, abs=1e-5)


def by_hand(model, tokens, start, score, steps, threshold):
    """The benchmark's rule for one program, a token at a time."""
    tokens = list(tokens)
    for step in range(steps):
        read, fresh = list(tokens), [at for at, token in enumerate(tokens) if token == MASK]
        for at in fresh:
            probs = posterior(model, read, at)
            tokens[at] = probs.index(max(probs))
        if step == steps - 1:
            break
        judged = [at for at in range(start, len(tokens)) if score != "quality" or at not in fresh]
        low = [at for at in judged if score_of(model, read, at, score, tokens[at]) <= threshold]
        if not low and not (score == "quality" and fresh):
            break
        for at in low:
            tokens[at] = MASK
    return tokens


@pytest.mark.parametrize("score", ["quality", "probability", "margin"])
@pytest.mark.parametrize(("steps", "threshold"), [(2, 0.9), (2, 0.2), (3, 0.2), (6, 0.1), (6, -1.0)])
def test_revising_is_the_published_rule(programs, score, steps, threshold):
    for seed in range(3):
        model = Table(seed)
        written = revise(model, programs, MASK, score, steps, threshold, batch_size=4)
        for each, row in zip(programs, written, strict=True):
            assert row == by_hand(model, each.input_ids, each.body_start, score, steps, threshold)
            assert row[: each.body_start] == each.input_ids[: each.body_start] and MASK not in row


def test_metrics_of_detection_by_hand():
    revisions = [program([0] * 5, 1, [2, 4], [1, 1]), program([0] * 3, 0, [1], [1])]
    scores = [[0.9, 0.1, 0.2, 0.7], [0.3, 0.8, 0.9]]  # wrong: 0.1, 0.7 and 0.8; right: 0.9, 0.2, 0.3, 0.9
    found = detection_metrics(revisions, scores)
    assert found["auroc"] == pytest.approx((4 + 2 + 2) / 12)
    assert found["recall"] == pytest.approx((1 / 2 + 0) / 2)
    assert found["chance"] == pytest.approx((2 / 4 + 1 / 3) / 2)
    assert found["mean_wrong"] == pytest.approx(1.6 / 3) and found["mean_right"] == pytest.approx(2.3 / 4)


class Knowing(nn.Module):
    """Knows the right tokens, and which are wrong."""

    def __init__(self, right):
        super().__init__()
        self.right = right

    def forward(self, input_ids, attention_mask=None, return_quality=False):
        right = torch.tensor([self.right])
        logits = 20.0 * nn.functional.one_hot(right.expand_as(input_ids), 300)
        return SimpleNamespace(logits=logits, quality_logits=40.0 * (input_ids == right) - 20)


@pytest.mark.parametrize("score", ["quality", "probability"])
def test_who_knows_the_program_mends_it(text_tokenizer, score):
    given, body = "def third(a, b):\n", "    return a + 3 * b\n"
    problem = CodeProblem("HumanEval/1", "", "third", given, body, "assert third(1, 2) == 7", signature=given.strip())
    mask, model = text_tokenizer.mask_token_id, Knowing(text_tokenizer(given + body).input_ids)
    revisions = make_revisions([problem], text_tokenizer, num_variants=3)
    (judged, *_) = judge_revisions(model, revisions, mask)
    assert detection_metrics(revisions[:1], [judged[score]])["auroc"] == 1
    answers = revised_answers(revisions, revise(model, revisions, mask, score), [problem], text_tokenizer)
    assert answers == [body] * len(revisions) and all(each.answer != body for each in revisions)
    assert run_answers([problem], answers[:1], isolation="limits", progress=False)[0].passed


def test_what_cannot_be_told_is_said(programs):
    class Blind(Table):
        def forward(self, input_ids, attention_mask=None):
            return SimpleNamespace(logits=super().forward(input_ids).logits * math.nan)

    with pytest.raises(ValueError, match="Blind has no quality head.*scores without it"):
        judge_revisions(Blind(0), programs, MASK)
    with pytest.raises(ValueError, match="The probability of a token is NaN"):
        judge_revisions(Blind(0), programs, MASK, ["probability"])
    with pytest.raises(ValueError, match="The probability of a token is NaN"):
        revise(Blind(0), programs, MASK, "probability")
    with pytest.raises(ValueError, match="steps=1 must be an integer of at least 2"):
        revise(Table(0), programs, MASK, steps=1)
    with pytest.raises(ValueError, match="score='random' must be one of"):
        revise(Table(0), programs, MASK, "random")


def test_a_kind_of_which_no_program_fails_stands_in_the_table():
    row = asdict(program([0] * 5, 1, [2], [1])) | {"scores": {"margin": [0.9, 0.1, 0.8, 0.7]}}
    row["revised"] = {"margin": {"tokens": [0, 0, 1, 0, 0], "passed": True}}
    table = revision_table([row], ["var", "operator"]).splitlines()
    assert [[cell.strip() for cell in line.split("|")[1:4]] for line in table[2:4]] == [
        ["var", "", "0"],
        ["operator", "margin", "1"],
    ]
    assert {line.count("|") for line in table[:4]} == {12}
    assert revision_table([], ["var"]).splitlines()[2].startswith("| var |  | 0 |")
    assert revision_table([]).startswith("No program")
