"""Models of few tokens, and what several of these tests count with. The mask is 0, padding 1."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from prism_hf.models.prism import PrismConfig, PrismForMaskedDiffusion

MASK, PAD, VOCAB = 0, 1, 7


class TableModel(nn.Module):
    """Logits and quality are fixed random functions of position and of a hash of the row's whole canvas."""

    def __init__(self, length, seed=0, buckets=61):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.config = SimpleNamespace(mask_token_id=MASK)
        self.logits = torch.randn(buckets, length, VOCAB, generator=g) * 2
        self.quality = torch.randn(buckets, length, generator=g)
        self.weights = torch.randint(1, 1000, (length,), generator=g)
        self.calls = 0

    def forward(self, input_ids, attention_mask=None, return_quality=True):
        self.calls += 1
        bucket = (input_ids * self.weights[: input_ids.shape[1]]).sum(-1) % len(self.logits)
        length = input_ids.shape[1]
        quality = self.quality[bucket, :length] if return_quality else None
        return SimpleNamespace(logits=self.logits[bucket, :length], quality_logits=quality)


@pytest.fixture
def table_model():
    """A class of models: `table_model(length, seed=0)`."""
    return TableModel


@pytest.fixture
def randomised():
    """A function that gives a model weights with which the tokens depend on the whole canvas."""

    def of(model):
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1:
                    gain = 1.0 if "embed" in name else 1.5 / parameter.shape[1] ** 0.5
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * gain)
                elif name.endswith("bias"):
                    parameter.zero_()
        return model.eval()

    return of


@pytest.fixture
def prism(randomised):
    """A function from the config of a backbone to a randomised model with a quality head."""

    def of(backbone_config, **head):
        config = PrismConfig(backbone_config=backbone_config, mask_token_id=MASK, **{"head_type": "mlp"} | head)
        return randomised(PrismForMaskedDiffusion(config))

    return of


@pytest.fixture
def pad():
    """A function from rows of tokens and the side of the padding to (input_ids, attention_mask)."""

    def of(rows, side):
        ids, width = [torch.tensor(row) for row in rows], max(map(len, rows))
        fills = [(width - len(row), 0) if side == "left" else (0, width - len(row)) for row in rows]
        padded = [nn.functional.pad(row, fill, value=PAD) for row, fill in zip(ids, fills, strict=True)]
        real = [nn.functional.pad(torch.ones_like(row), fill) for row, fill in zip(ids, fills, strict=True)]
        return torch.stack(padded), torch.stack(real)

    return of


@pytest.fixture
def score_of():
    """A function from the name of an order and the probabilities at a position to its score."""

    def of(order, p):
        p = sorted(p.tolist(), reverse=True)
        return {
            "confidence": p[0],
            "margin": p[0] - p[1],
            "entropy": sum(q * math.log(q) for q in p if q > 0),
            "left_to_right": 0.0,
        }[order]

    return of


@pytest.fixture
def shares():
    """A function: the counts of dealing `total` out one at a time, from the first part on."""

    def of(total, parts):
        counts = [0] * parts
        for card in range(total):
            counts[card % parts] += 1
        return counts

    return of


@pytest.fixture
def middle_shares():
    """The same, dealt from the middle outwards; the left one of two that are equally far goes first."""

    def of(total, parts):
        left, right = (parts - 1) // 2, (parts - 1) // 2 + 1
        outwards = []
        while left >= 0 or right < parts:
            centre = (parts - 1) / 2
            if right >= parts or (left >= 0 and centre - left <= right - centre):
                outwards.append(left)
                left -= 1
            else:
                outwards.append(right)
                right += 1
        counts = [0] * parts
        for card in range(total):
            counts[outwards[card % parts]] += 1
        return counts

    return of
