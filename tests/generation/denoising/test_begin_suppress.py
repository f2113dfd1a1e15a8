"""Tokens that come last, against a literal loop over LLaDA's rule (`confidence_eos_eot_inf`)."""

import pytest
import torch

from prism_hf import remask_generate

MASK, END, TURN = 0, 5, 6


def literal_row(model, row, block_length, last, threshold=None):
    """One token a step, or all above the threshold; EOS and EoT get no confidence, and none of its mass."""
    row = row.clone()
    masks = [i for i in range(len(row)) if row[i] == MASK]
    for start in range(0, len(masks), block_length):
        while masked := [i for i in masks[start : start + block_length] if row[i] == MASK]:
            logits = model(row[None]).logits[0].clone()
            logits[:, MASK] = -float("inf")
            tokens = logits.argmax(-1)
            logits[:, last] = -float("inf")
            confidence = {i: logits[i].softmax(-1)[tokens[i]].item() for i in masked}
            best = sorted(masked, key=lambda i: (-confidence[i], i))
            above = [i for i in best if threshold is not None and confidence[i] > threshold]
            for i in above or best[:1]:
                row[i] = tokens[i]
    return row


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("threshold", [None, 0.6])
def test_equal_to_the_literal_loop(table_model, seed, threshold):
    model, length = table_model(12, seed=seed), 12
    canvas = torch.full((2, length), MASK)
    canvas[0, :3], canvas[1, 1] = 4, 3
    settings = {"block_length": 4, "steps": 12, "begin_suppress_tokens": [END, TURN]}
    rows = remask_generate(model, canvas, confidence_threshold=threshold, **settings)
    for row, found in zip(canvas, rows, strict=True):
        assert torch.equal(found, literal_row(model, row, 4, [END, TURN], threshold))


def test_where_nothing_is_left_to_come_last_it_is_refused(table_model):
    model, canvas = table_model(4), torch.full((1, 4), MASK)
    for settings, message in (
        ({"order": "random"}, "one of .'confidence', 'entropy', 'margin'.*use suppress_tokens"),
        ({"remask_strategy": "p2"}, "does not go with"),
        ({"remask_strategy": "ancestral"}, "does not go with"),
    ):
        with pytest.raises(ValueError, match=f"(?s)begin_suppress_tokens=.*{message}"):
            remask_generate(model, canvas, begin_suppress_tokens=[END], **settings)
