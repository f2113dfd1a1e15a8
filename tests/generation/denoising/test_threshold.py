"""Parallel decoding by a threshold, against a literal loop (Fast-dLLM, arXiv 2505.22618)."""

import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from prism_hf.generation import remask_generate

MASK, VOCAB = 0, 7


def reference_row(model, row, steps, block_length, threshold, n=0, quality_threshold=None):
    """One row, one token at a time. Returns the row and the number of forward passes that it took."""
    row, forwards = row.clone(), 0
    to_fill = [j for j in range(len(row)) if row[j] == MASK]
    blocks = [to_fill[i : i + block_length] for i in range(0, len(to_fill), block_length)]
    for number, block in enumerate(blocks):
        block_steps = steps // len(blocks) + (number < steps % len(blocks))
        remasks = [0] * block_steps
        middle = sorted(range(block_steps), key=lambda i: (abs(i - (block_steps - 1) / 2), i))
        for card in range(n):
            remasks[middle[card % block_steps]] += 1
        remasks[-1], judged = 0, quality_threshold is None
        for i in range(block_steps):
            masked = [j for j in block if row[j] == MASK]
            if not masked and judged:
                break
            if not masked and (i == 0 or not remasks[i]):
                continue
            clean = [j for j in block if row[j] != MASK]
            out = model(row[None], return_quality=True)
            forwards += 1
            logits, quality = out.logits[0].clone(), out.quality_logits[0].sigmoid()
            logits[:, MASK] = -float("inf")
            confidence = logits.softmax(-1).amax(-1)
            below = [j for j in clean if quality_threshold is None or quality[j] < quality_threshold]
            worst = sorted(below, key=lambda j: (quality[j].item(), j))
            worst = worst[: remasks[i]]
            due = sum(len(block) // block_steps + (k < len(block) % block_steps) for k in range(i + 1))
            count = max(1, sum(confidence[j] > threshold for j in masked), due - len(clean) + len(worst))
            best = sorted(masked, key=lambda j: (-confidence[j].item(), j))[:count]
            for j in worst:
                row[j] = MASK
            for j in best:
                row[j] = logits[j].argmax()
            judged = quality_threshold is None or not (best or worst)
    return row, forwards


@pytest.mark.parametrize("seed", range(30))
def test_equal_to_the_literal_loop(table_model, seed):
    draw, length = random.Random(seed), 18
    block_length = draw.choice([3, 5, 8])
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCAB, (4, length), generator=g)
    for row, count in enumerate((length, 7, 1, draw.randint(0, length))):
        ids[row, torch.randperm(length, generator=g)[:count]] = MASK
    steps, threshold = draw.randint(6, 30), draw.choice([0.0, 0.5, 0.7, 0.9, 1.0])
    n, quality_threshold = draw.choice([(0, None), (4, None), (9, 0.4), (30, 0.6)])
    remasking = {"remask_strategy": "prism", "num_remask": n, "quality_threshold": quality_threshold} if n else {}
    model = table_model(length, seed=seed)
    expected = [reference_row(model, row, steps, block_length, threshold, n, quality_threshold) for row in ids]
    model.calls = 0
    out = remask_generate(
        model,
        ids,
        steps=steps,
        block_length=block_length,
        confidence_threshold=threshold,
        return_dict_in_generate=True,
        **remasking,
    )
    assert torch.equal(out.sequences, torch.stack([row for row, _ in expected]))
    assert out.num_forwards == model.calls <= steps
    rates = [masks / max(forwards, 1) for masks, (_, forwards) in zip((ids == MASK).sum(-1), expected, strict=True)]
    torch.testing.assert_close(out.tokens_per_forward, torch.tensor(rates))


def test_one_token_a_step_when_never_sure_and_one_step_a_block_when_always(table_model):
    ids = torch.zeros(2, 12, dtype=torch.long)
    never, always = (
        remask_generate(table_model(12), ids, block_length=4, confidence_threshold=t, return_dict_in_generate=True)
        for t in (1.0, 0.0)
    )
    assert torch.equal(never.sequences, remask_generate(table_model(12), ids, block_length=4))
    assert never.num_forwards == 12 and never.tokens_per_forward.tolist() == [1, 1]
    assert always.num_forwards == 3 and always.tokens_per_forward.tolist() == [4, 4]


def test_without_blocks_the_steps_are_a_maximum(table_model):
    ids = torch.zeros(3, 16, dtype=torch.long)
    model = table_model(16)
    out = remask_generate(model, ids, confidence_threshold=0.6, return_dict_in_generate=True)
    assert model.calls == out.num_forwards < 16 and not (out.sequences == MASK).any()
    few = remask_generate(model, ids, steps=3, confidence_threshold=1.0, return_dict_in_generate=True)
    assert few.num_forwards == 3 and torch.equal(few.sequences, remask_generate(model, ids, steps=3))
    for row, alone in zip(out.sequences, ids, strict=True):
        assert torch.equal(remask_generate(model, alone[None], confidence_threshold=0.6)[0], row)


class Proofreader(nn.Module):
    """Is as sure as `sure` of what it fills, and sees how many of a row's tokens are wrong, a digit at a time.

    Position j should hold `right[j]`. The likeliest token of position j is 1 while a token to its left is missing or
    wrong, and else the right one. Quality is 0.9 at right tokens and 0.1 at wrong ones.
    """

    def __init__(self, right, sure=0.9):
        super().__init__()
        self.config, self.right, self.sure, self.calls = SimpleNamespace(mask_token_id=MASK), right, sure, 0

    def forward(self, input_ids, attention_mask=None, return_quality=True):
        self.calls += 1
        correct = input_ids == self.right
        left = torch.cat([torch.ones_like(correct[:, :1]), correct[:, :-1]], 1).long().cumprod(1).bool()
        likeliest = torch.where(left, self.right, 1)
        rest = (1 - self.sure) / (VOCAB - 2)  # the mask has no share
        probs = torch.full((*input_ids.shape, VOCAB), rest).scatter(-1, likeliest[..., None], self.sure)
        return SimpleNamespace(logits=probs.log(), quality_logits=torch.where(correct, 0.9, 0.1).logit())


PROOFREAD = {"confidence_threshold": 0.5, "remask_strategy": "prism", "quality_threshold": 0.5}
RECORD = {"return_dict_in_generate": True, "output_trajectory": True}


def test_what_was_filled_last_is_read_once_more():
    """By hand. All is filled at once, the two worst go back in each reading, and are filled in the next."""
    model = Proofreader(torch.tensor([2, 3, 4]))
    out = remask_generate(model, torch.zeros(1, 3, dtype=torch.long), steps=20, num_remask=2, **PROOFREAD, **RECORD)
    history = [[2, 1, 1], [2, 0, 0], [2, 3, 1], [2, 3, 0], [2, 3, 4], [2, 3, 4]]
    assert out.trajectory.canvas[:, 0].tolist() == history
    assert out.num_forwards == model.calls == 6
    assert out.tokens_per_forward.tolist() == [3 / 6]  # the readings count
    assert out.trajectory.remasked.sum(-1)[:, 0].tolist() == [0, 2, 0, 1, 0, 0]


def test_each_row_ends_when_it_is_found_right_as_it_does_alone():
    """A row that has ended stays as it is, though the others go on with steps that remask."""
    ids = torch.zeros(4, 9, dtype=torch.long)
    ids[1, :7] = ids[2, 3:] = 2  # given, so never judged
    right = torch.tensor([2, 2, 2, 2, 2, 2, 2, 3, 4])
    for blocks in ({}, {"block_length": 4, "steps": 60}, {"steps": 7}, {"remask_start": 0.3, "remask_end": 0.8}):
        settings = {"steps": 40, "num_remask": 20, **PROOFREAD, **RECORD} | blocks
        model = Proofreader(right)
        out = remask_generate(model, ids, **settings)
        assert out.num_forwards == model.calls <= settings["steps"] and not (out.sequences == MASK).any()
        for row, sequence, rate in zip(ids, out.sequences, out.tokens_per_forward, strict=True):
            alone = remask_generate(Proofreader(right), row[None], **settings)
            assert torch.equal(alone.sequences[0], sequence) and alone.tokens_per_forward[0] == rate
        if settings["steps"] > 7:
            assert (out.sequences == right).all(-1)[[0, 1, 3]].all()


def test_no_forward_waits_for_a_step_that_may_remask():
    """Full after the first forward; steps 10 to 19 may remask, and those before and after have nothing to do."""
    ids, right = torch.zeros(1, 3, dtype=torch.long), torch.tensor([2, 3, 4])
    settings = {"steps": 20, "num_remask": 3, "remask_start": 0.5, **PROOFREAD, **RECORD}
    out = remask_generate(Proofreader(right), ids, **settings)
    assert out.num_forwards == 6 and torch.equal(out.sequences[0], right)
    assert remask_generate(Proofreader(right), ids, **settings | {"num_remask": 0}).num_forwards == 1
    del settings["quality_threshold"]
    assert remask_generate(Proofreader(right), ids, **settings).num_forwards == 1


@pytest.mark.parametrize("blocks", [{}, {"block_length": 4}, {"num_remask": None, "eta": 0.7}])
def test_a_head_that_is_never_content_is_stopped_by_the_steps(table_model, blocks):
    ids = torch.zeros(3, 9, dtype=torch.long)
    ids[1, 2:] = ids[2, 5:] = 3
    model = table_model(9)
    model.quality = torch.full_like(model.quality, -3.0)
    settings = {"steps": 24, "num_remask": 90, **PROOFREAD, **RECORD} | blocks
    out = remask_generate(model, ids, generator=torch.Generator().manual_seed(0), **settings)
    # A last step that could only fill has nothing to do where the one before it has filled.
    assert 23 <= out.num_forwards == model.calls <= 24 and not (out.sequences == MASK).any()
    assert not out.trajectory.remasked[-1].any() and (out.sequences[ids != MASK] == 3).all()


def test_without_a_quality_threshold_tokens_go_back_in_every_step(table_model):
    ids, model = torch.zeros(2, 12, dtype=torch.long), table_model(12)
    settings = {"steps": 40, "confidence_threshold": 0.5, "remask_strategy": "prism", "num_remask": 3}
    assert remask_generate(model, ids, return_dict_in_generate=True, **settings).num_forwards == 40
    out = remask_generate(model, ids, quality_threshold=0.3, **settings, **RECORD)
    assert out.trajectory.remasked.any() and (out.trajectory.quality[out.trajectory.remasked] < 0.3).all()
