"""The block sampler against a slow, literal loop over rows, blocks, steps and positions."""

import random

import pytest
import torch
from torch import nn

from prism_hf.generation import RemaskGenerationConfig, remask_generate
from prism_hf.generation.denoising.schedule import plan_steps, spread, spread_to_middle
from prism_hf.generation.strategies.base import resolve_strategy

MASK, VOCAB = 0, 7


@pytest.fixture
def reference_row(shares, middle_shares, score_of):
    def of(model, row, steps, block_length, n, order, threshold=None, refill=None):
        """One row, one token at a time. Returns the canvas after each step."""
        row = row.clone()
        to_fill = [j for j in range(len(row)) if row[j] == MASK]
        blocks = [to_fill[i : i + block_length] for i in range(0, len(to_fill), block_length)] or [[]]
        history = []
        for block, block_steps in zip(blocks, shares(steps, len(blocks)), strict=True):
            fills, remasks = shares(len(block), block_steps), middle_shares(n, block_steps)
            for i in range(block_steps):
                out = model(row[None], return_quality=True)
                logits, quality = out.logits[0].clone(), out.quality_logits[0].sigmoid()
                logits[:, MASK] = -float("inf")
                masked = [j for j in block if row[j] == MASK]
                clean = [j for j in block if row[j] != MASK and (threshold is None or quality[j] < threshold)]
                last = i == block_steps - 1
                worst = sorted(clean, key=lambda j: (quality[j].item(), j))[: 0 if last else remasks[i]]
                best = sorted(masked, key=lambda j: (-score_of(order, logits[j].softmax(-1)), j))
                for j in worst:
                    row[j] = MASK
                refilled = len(worst) if refill == "remasked" else remasks[i]
                for j in best if last else best[: fills[i] + refilled]:
                    row[j] = logits[j].argmax()
                history.append(row.clone())
        return history

    return of


@pytest.mark.parametrize("seed", range(50))
def test_equal_to_the_literal_loop(table_model, reference_row, seed):
    draw = random.Random(seed)
    length, block_length = draw.randint(6, 24), draw.randint(1, 11)
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCAB, (4, length), generator=g)
    counts = [draw.randint(0, length), draw.randint(1, length), length, draw.randint(1, length)]
    for row, count in enumerate(counts):
        ids[row, torch.randperm(length, generator=g)[:count]] = MASK
    steps = -(-length // block_length) + draw.randint(0, 40)
    order = draw.choice(["confidence", "margin", "entropy", "left_to_right"])
    n, threshold = draw.randint(0, 12), draw.choice([None, None, 0.5])
    settings = {"remask_strategy": "prism", "num_remask": n, "quality_threshold": threshold} if n else {}
    refill = draw.choice([None, "planned", "remasked"])
    model = table_model(length, seed=seed)
    out = remask_generate(
        model,
        ids,
        steps=steps,
        block_length=block_length,
        order=order,
        refill=refill,
        return_dict_in_generate=True,
        output_trajectory=True,
        **settings,
    )
    for b, row in enumerate(ids):
        expected = reference_row(model, row, steps, block_length, n, order, threshold, refill)
        assert torch.equal(out.trajectory.canvas[:, b], torch.stack(expected))
    assert not (out.sequences == MASK).any() and out.num_forwards == steps


@pytest.mark.parametrize("do_sample", [False, True])
def test_confidence_is_that_of_the_step_that_drew_a_token(table_model, do_sample):
    model, ids = table_model(12, seed=5), torch.zeros(4, 12, dtype=torch.long)
    settings = {"remask_strategy": "confidence", "num_remask": 3, "steps": 12, "block_length": 6}
    settings |= {"return_dict_in_generate": True, "output_trajectory": True, "do_sample": do_sample}
    record = remask_generate(model, ids, generator=torch.Generator().manual_seed(0), **settings).trajectory
    before = torch.cat([ids[None], record.canvas[:-1]])
    psi = torch.zeros(4, 12)
    for step in range(12):
        logits = model(before[step]).logits.clone()
        logits[..., MASK] = -torch.inf
        block = slice(6 * (step // 6), 6 * (step // 6) + 6)
        for row in range(4):
            clean = [i for i in range(block.start, block.stop) if before[step, row, i] != MASK]
            remasked = record.remasked[step, row].nonzero().flatten().tolist()
            assert remasked == sorted(sorted(clean, key=lambda i: psi[row, i].item())[: len(remasked)])  # noqa: B023
        drawn = logits.softmax(-1).gather(-1, record.canvas[step][..., None])[..., 0]
        psi = torch.where(record.filled[step], drawn, psi)
    assert record.remasked.sum() == 4 * 2 * 3


@pytest.mark.parametrize("total", range(14))
@pytest.mark.parametrize("parts", range(1, 9))
def test_shares(shares, middle_shares, total, parts):
    assert spread(total, parts) == shares(total, parts)
    assert spread_to_middle(total, parts) == middle_shares(total, parts)


def test_published_counts():
    # 64 masks in 64 steps, 12 remasked: one filled a step, two in the twelve middle ones, where one is remasked.
    config = RemaskGenerationConfig(
        block_length=64, remask_strategy="prism", num_remask=12, max_new_tokens=64, remask_start=0.0, remask_end=1.0
    )
    schedule = plan_steps(resolve_strategy("prism"), config, [64], [64], 64, "cpu")
    assert [step.rows.num_remask.item() for step in schedule] == [0] * 26 + [1] * 12 + [0] * 26
    assert [step.rows.num_unmask.item() for step in schedule] == [1] * 26 + [2] * 12 + [1] * 26
    # The step that remasks sees one mask less than it leaves: 64, 63, ... 39, 38, 37, ...
    assert [step.most_masks for step in schedule] == list(range(64, 0, -1))


def test_later_published_counts():
    # Blocks of 32 in 16 steps, 10 remasked: two filled a step, three where a token is remasked.
    config = RemaskGenerationConfig(
        block_length=32,
        remask_strategy="prism",
        num_remask=10,
        refill="remasked",
        max_new_tokens=32,
        remask_start=0.0,
        remask_end=1.0,
    )
    schedule = plan_steps(resolve_strategy("prism"), config, [32], [32], 16, "cpu")
    assert [step.rows.num_remask.item() for step in schedule] == [0] * 3 + [1] * 10 + [0] * 3
    assert [step.rows.num_unmask.item() for step in schedule] == [2] * 16
    assert [step.most_unmasked for step in schedule] == [2] * 3 + [3] * 10 + [2] * 3
    assert [step.most_masks for step in schedule] == list(range(32, 0, -2))


def test_one_block_of_everything_fills_by_the_even_shares(table_model):
    ids, model = torch.zeros(2, 10, dtype=torch.long), table_model(10)
    out = remask_generate(model, ids, steps=4, block_length=10, return_dict_in_generate=True, output_trajectory=True)
    assert (out.trajectory.canvas != MASK).sum(-1)[:, 0].tolist() == [3, 6, 8, 10]


def test_a_row_does_not_depend_on_its_batch(table_model):
    g = torch.Generator().manual_seed(3)
    ids = torch.randint(1, VOCAB, (3, 14), generator=g)
    for row, count in enumerate((14, 5, 9)):
        ids[row, torch.randperm(14, generator=g)[:count]] = MASK
    model = table_model(14)
    settings = {"steps": 15, "block_length": 4, "remask_strategy": "prism", "num_remask": 3}
    together = remask_generate(model, ids, **settings)
    assert torch.equal(together, torch.cat([remask_generate(model, row[None], **settings) for row in ids]))


def test_remasking_window_of_each_block(table_model):
    ids = torch.zeros(1, 16, dtype=torch.long)
    out = remask_generate(
        table_model(16),
        ids,
        steps=16,
        block_length=8,
        remask_strategy="prism",
        num_remask=2,
        remask_start=0.5,
        return_dict_in_generate=True,
        output_trajectory=True,
    )
    # The window is steps 4 to 7 of each block of 8, its middle 5 and 6.
    assert out.trajectory.remasked.sum(-1)[:, 0].tolist() == [0, 0, 0, 0, 0, 1, 1, 0] * 2


class CountingModel(nn.Module):
    """A model that keeps what it was asked for."""

    _supports_logit_positions = True

    def __init__(self, table):
        super().__init__()
        self.table = table
        self.config, self.asked = self.table.config, []

    def forward(self, input_ids, attention_mask=None, logits_to_keep=None, return_quality=True):
        out = self.table(input_ids, attention_mask, return_quality)
        self.asked.append(logits_to_keep.shape[1])
        out.logits = out.logits.gather(1, logits_to_keep[..., None].expand(-1, -1, VOCAB))
        return out


@pytest.mark.parametrize("settings", [{}, {"remask_strategy": "prism", "num_remask": 2}])
def test_logits_are_asked_for_at_undecided_positions_of_the_block_only(table_model, settings):
    ids, expected = torch.zeros(2, 12, dtype=torch.long), []
    model = CountingModel(table_model(12))
    out = remask_generate(
        model, ids, steps=12, block_length=4, return_dict_in_generate=True, output_trajectory=True, **settings
    )
    assert torch.equal(out.sequences, remask_generate(model.table, ids, steps=12, block_length=4, **settings))
    before = torch.cat([ids[None], out.trajectory.canvas[:-1]])
    for step, canvas in enumerate(before):
        block = slice(4 * (step // 4), 4 * (step // 4) + 4)
        expected.append((canvas[0, block] == MASK).sum().item())
    assert model.asked == expected
    model.asked.clear()
    remask_generate(model, ids, steps=12, block_length=4, order="random", **settings)
    assert sum(model.asked) == 12 + (6 if settings else 0)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"block_lenght": 4}, "'block_length'"),
        ({"block_length": 0}, "at least 1"),
        ({"block_length": 4, "steps": 2}, "raise steps to 3"),
        ({"block_length": 4, "remask_strategy": "prism", "eta": 0.1}, "do not go together"),
        ({"block_length": 4, "loop_start": 1, "loop_steps": 2}, "do not go together"),
        ({"refill": "remasked"}, "needs a block_length"),
        ({"block_length": 4, "refill": "remasked", "confidence_threshold": 0.9}, "no confidence_threshold"),
        ({"block_length": 4, "refill": "remasked", "remask_strategy": "p2"}, "does not go with"),
        ({"block_length": 4, "refill": "actual"}, "one of 'planned', 'remasked'"),
    ],
)
def test_mistakes_are_named_before_any_forward(table_model, wrong, message):
    model = table_model(12)
    with pytest.raises(ValueError, match=message):
        remask_generate(model, torch.zeros(1, 12, dtype=torch.long), **wrong)
    assert model.calls == 0
