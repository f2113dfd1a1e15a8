"""Parallel decoding by a threshold, against a literal loop (Fast-dLLM, arXiv 2505.22618)."""

import random

import pytest
import torch

from prism_hf.generation import remask_generate

from .test_remask_generate import MASK, VOCAB, TableModel


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
        for i in range(block_steps):
            masked = [j for j in block if row[j] == MASK]
            if not masked:
                break
            clean = [j for j in block if row[j] != MASK]
            out = model(row[None], return_quality=True)
            forwards += 1
            logits, quality = out.logits[0].clone(), out.quality_logits[0].sigmoid()
            logits[:, MASK] = -float("inf")
            confidence = logits.softmax(-1).amax(-1)
            below = [j for j in clean if quality_threshold is None or quality[j] < quality_threshold]
            worst = sorted(below, key=lambda j: (quality[j].item(), j))
            worst = worst[: 0 if i == block_steps - 1 else remasks[i]]
            due = sum(len(block) // block_steps + (k < len(block) % block_steps) for k in range(i + 1))
            count = max(1, sum(confidence[j] > threshold for j in masked), due - len(clean) + len(worst))
            best = sorted(masked, key=lambda j: (-confidence[j].item(), j))[:count]
            for j in worst:
                row[j] = MASK
            for j in best:
                row[j] = logits[j].argmax()
    return row, forwards


@pytest.mark.parametrize("seed", range(30))
def test_equal_to_the_literal_loop(seed):
    draw, length = random.Random(seed), 18
    block_length = draw.choice([3, 5, 8])
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCAB, (4, length), generator=g)
    for row, count in enumerate((length, 7, 1, draw.randint(0, length))):
        ids[row, torch.randperm(length, generator=g)[:count]] = MASK
    steps, threshold = draw.randint(6, 30), draw.choice([0.0, 0.5, 0.7, 0.9, 1.0])
    n, quality_threshold = draw.choice([(0, None), (4, None), (9, 0.4), (30, 0.6)])
    remasking = {"remask_strategy": "prism", "num_remask": n, "quality_threshold": quality_threshold} if n else {}
    model = TableModel(length, seed=seed)
    expected = [reference_row(model, row, steps, block_length, threshold, n, quality_threshold) for row in ids]
    model.calls = 0
    out = remask_generate(
        model, ids, steps=steps, block_length=block_length, confidence_threshold=threshold,
        return_dict_in_generate=True, **remasking,
    )  # fmt: skip
    assert torch.equal(out.sequences, torch.stack([row for row, _ in expected]))
    assert out.num_forwards == model.calls <= steps
    rates = [masks / max(forwards, 1) for masks, (_, forwards) in zip((ids == MASK).sum(-1), expected, strict=True)]
    torch.testing.assert_close(out.tokens_per_forward, torch.tensor(rates))


def test_one_token_a_step_when_never_sure_and_one_step_a_block_when_always():
    ids = torch.zeros(2, 12, dtype=torch.long)
    never, always = (
        remask_generate(TableModel(12), ids, block_length=4, confidence_threshold=t, return_dict_in_generate=True)
        for t in (1.0, 0.0)
    )
    assert torch.equal(never.sequences, remask_generate(TableModel(12), ids, block_length=4))
    assert never.num_forwards == 12 and never.tokens_per_forward.tolist() == [1, 1]
    assert always.num_forwards == 3 and always.tokens_per_forward.tolist() == [4, 4]


def test_without_blocks_the_steps_are_a_maximum():
    ids = torch.zeros(3, 16, dtype=torch.long)
    model = TableModel(16)
    out = remask_generate(model, ids, confidence_threshold=0.6, return_dict_in_generate=True)
    assert model.calls == out.num_forwards < 16 and not (out.sequences == MASK).any()
    few = remask_generate(model, ids, steps=3, confidence_threshold=1.0, return_dict_in_generate=True)
    assert few.num_forwards == 3 and torch.equal(few.sequences, remask_generate(model, ids, steps=3))
    for row, alone in zip(out.sequences, ids, strict=True):
        assert torch.equal(remask_generate(model, alone[None], confidence_threshold=0.6)[0], row)


def test_with_qualities_a_row_goes_on_until_nothing_is_below():
    ids, model = torch.zeros(2, 12, dtype=torch.long), TableModel(12)
    settings = {"steps": 40, "confidence_threshold": 0.5, "remask_strategy": "prism", "num_remask": 3}
    out = remask_generate(
        model, ids, quality_threshold=0.3, return_dict_in_generate=True, output_trajectory=True, **settings
    )
    assert not (out.sequences == MASK).any() and out.num_forwards < 40
    assert out.trajectory.remasked.any()
    assert (out.trajectory.quality[out.trajectory.remasked] < 0.3).all()
    # Without a threshold three tokens go back in every step, until the last.
    assert remask_generate(model, ids, return_dict_in_generate=True, **settings).num_forwards == 40
