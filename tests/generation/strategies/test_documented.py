"""The strategies of docs/how_to/own_strategy.md, as they stand there."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from prism_hf.generation import STRATEGIES, ScoreStrategy

DOCS = Path(__file__).parents[3] / "docs" / "how_to" / "own_strategy.md"
MASK = 0
BLOCKS = [block for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S) if "output = remask_" in block]


class Random(nn.Module):
    """Logits and quality that depend on the whole canvas."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.config = SimpleNamespace(mask_token_id=MASK)
        self.logits = 2 * torch.randn(61, 12, 7, generator=generator)
        self.quality = torch.randn(61, 12, generator=generator)

    def forward(self, input_ids, attention_mask=None, return_quality=True):
        bucket = (input_ids * torch.arange(3, 3 + input_ids.shape[1])).sum(-1) % 61
        return SimpleNamespace(logits=self.logits[bucket], quality_logits=self.quality[bucket])


def class_in(block):
    return re.search(r"^class (\w+)\((\w+)\)", block, re.M).groups()


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: class_in(block)[0])
def test_a_strategy_of_each_kind(block):
    ids = torch.randint(1, 7, (3, 12), generator=torch.Generator().manual_seed(1))
    ids[0, 4:] = ids[1, ::2] = ids[2] = MASK
    names = {"model": Random(), "input_ids": ids}
    try:
        exec(block, names)
        output, strategy = names["output"], names[class_in(block)[0]]()
        assert not (output == MASK).any() and torch.equal(output[ids != MASK], ids[ids != MASK])
        assert sum(map(bool, block[block.index("class ") : block.index("output =")].splitlines())) <= 20
        generate = names["remask_generate"]
        call = {"model": names["model"], "input_ids": ids, "remask_strategy": strategy}
        settings = {"steps": 12, "block_length": 4, "return_dict_in_generate": True, "output_trajectory": True}
        settings |= {"num_remask": 2} if isinstance(strategy, ScoreStrategy) else {}
        blocks = generate(**call, **settings, generator=torch.Generator().manual_seed(0))
        assert not (blocks.sequences == MASK).any() and torch.equal(blocks.sequences[ids != MASK], ids[ids != MASK])
        canvas = blocks.trajectory.canvas
        changed = (canvas[1:] != canvas[:-1]) & (canvas[:-1] != MASK)
        assert changed.any()  # it corrects
    finally:
        STRATEGIES.pop("doubt", None)


def test_there_is_one_of_each_kind():
    kinds = ["ScoreStrategy", "TransitionStrategy", "RankingStrategy", "RemaskStrategy"]
    assert [class_in(block)[1] for block in BLOCKS] == kinds
