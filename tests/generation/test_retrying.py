"""Retries against separate calls for the rows that need them."""

import copy

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from prism_hf.generation import generate_with_retries, remask_generate
from prism_hf.models.prism import PrismConfig, PrismForMaskedDiffusion

MASK, LENGTH = 0, 9
SETTINGS = {"order": "margin", "steps": 6, "remask_strategy": "none"}
RETRIES = [{"order": "left_to_right", "steps": 5}, {"order": "entropy", "steps": 3}]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=12,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        mask_token_id=MASK,
        initializer_range=1.0,
    )
    model = PrismForMaskedDiffusion(PrismConfig(backbone_config=config, initializer_range=0.5)).eval()
    model.generation_config.mask_token_id = MASK
    return model


@pytest.fixture
def canvases():
    ids = torch.randint(1, 12, (8, LENGTH), generator=torch.Generator().manual_seed(1))
    ids[:, 2:8] = MASK
    return ids


@torch.no_grad()
def lowest_quality(model, sequence, written):
    return model(input_ids=sequence[None]).quality_logits[0].sigmoid()[written].min().item()


def test_each_row_takes_the_first_attempt_that_is_trusted_or_the_last(model, canvases):
    attempts = [SETTINGS, SETTINGS | RETRIES[0], SETTINGS | RETRIES[1]]
    by_hand, taken, lowest = [], [], []
    for row in canvases:
        lowest.append(lowest_quality(model, remask_generate(model, row[None], **SETTINGS)[0], row == MASK))
    threshold = sum(sorted(lowest)[3:5]) / 2  # between two rows, as a batch rounds otherwise than a row alone
    for row in canvases:
        for number, settings in enumerate(attempts):  # noqa: B007
            sequence = remask_generate(model, row[None], **settings)[0]
            if lowest_quality(model, sequence, row == MASK) >= threshold:
                break
        by_hand.append(sequence)
        taken.append(number)
    assert taken.count(0) == 4 and set(taken) == {0, 1, 2}
    output = generate_with_retries(model, canvases, RETRIES, threshold, **SETTINGS)
    assert torch.equal(output.sequences, torch.stack(by_hand))
    assert output.num_forwards == 6 + 1 + 5 + 1 + 3
    forwards = torch.tensor([6 + 1, 6 + 1 + 5 + 1, 6 + 1 + 5 + 1 + 3])[taken]  # who is trusted is not judged again
    assert torch.equal(output.forwards_per_row, forwards)
    assert torch.allclose(output.tokens_per_forward, 6 / forwards)


def test_nothing_is_tried_again_where_all_is_trusted(model, canvases):
    output = generate_with_retries(model, canvases, RETRIES, 0.0, **SETTINGS)
    assert torch.equal(output.sequences, remask_generate(model, canvases, **SETTINGS))
    assert output.num_forwards == 6 + 1


def test_appended_masks_and_padding(model, canvases):
    prompts, padding = canvases[:, :2].clone(), torch.ones(8, 2, dtype=torch.long)
    padding[:4, 0], prompts[:4, 0] = 0, 11
    settings = SETTINGS | {"max_new_tokens": 6}
    every = generate_with_retries(model, prompts, RETRIES, 1.0, attention_mask=padding, **settings)
    last = remask_generate(model, prompts, attention_mask=padding, **(settings | RETRIES[1]))
    assert torch.equal(every.sequences, last)
    right = padding.flip(1)
    with pytest.raises(ValueError, match="padded on the left"):
        generate_with_retries(model, prompts, RETRIES, attention_mask=right, **settings)


def test_rows_are_judged_with_a_part_hidden_before_each_retry(model, canvases):
    """Every draw of the judgement is repeated here, and the rows go through one at a time."""
    settings, again = SETTINGS, {"order": "left_to_right", "steps": 2}
    hide, written = 0.3, canvases == MASK
    with torch.no_grad():
        first = model(input_ids=remask_generate(model, canvases, **settings)).quality_logits.sigmoid()
    lowest = first.masked_fill(~written, 1).amin(-1).sort().values
    retry_below = lowest[3:5].mean().item()  # between two rows, as a batch rounds otherwise than a row alone
    output = generate_with_retries(
        model, canvases, [again, again], retry_below, hide, generator=torch.Generator().manual_seed(3), **settings
    )
    generator = torch.Generator().manual_seed(3)
    rows = [remask_generate(model, row[None], **settings)[0] for row in canvases]
    retried = []
    for _ in range(2):
        drawn = torch.rand(canvases.shape, generator=generator)
        for index, row in enumerate(rows):
            hidden = written[index] & (drawn[index] < hide)
            with torch.no_grad():
                quality = model(input_ids=row.masked_fill(hidden, MASK)[None]).quality_logits[0].sigmoid()
            judged = [i for i in range(LENGTH) if written[index, i] and not hidden[i]]
            if not any(quality[i] < retry_below for i in judged):
                continue
            rows[index] = remask_generate(model, canvases[index][None], **(settings | again))[0]
            retried.append(index)
    assert torch.equal(output.sequences, torch.stack(rows))
    assert 0 < len(set(retried)) < len(retried) < 2 * len(canvases)
    assert output.num_forwards == 6 + 2 * (1 + 2)
    assert output.forwards_per_row.tolist() == [6 + 2 + 2 * retried.count(index) for index in range(len(rows))]


def test_a_generation_judges_itself_by_the_last_canvas_that_it_read(model, canvases):
    judge = SETTINGS | {"remask_strategy": "prism", "remask_end": 0.0, "confidence_threshold": 0.9, "order": None}
    again = judge | {"confidence_threshold": 0.99}
    recorded = {"return_dict_in_generate": True, "output_trajectory": True}
    first = remask_generate(model, canvases, **judge, **recorded)
    lowest, steps = [], []
    for row, canvas in enumerate(canvases):
        seen = [canvas, *first.trajectory.canvas[:, row]]
        step = next(i for i, after in enumerate(seen[1:]) if not (after == MASK).any())
        written = (canvas == MASK) & (seen[step] != MASK)
        lowest.append(lowest_quality(model, seen[step], written) if written.any() else 1.0)
        steps.append(step + 1)
    assert first.forwards_per_row.tolist() == steps and len(set(steps)) > 1
    retry_below = sum(sorted(lowest)[3:5]) / 2
    output = generate_with_retries(model, canvases, [again], retry_below, hide=None, **judge)
    expected, second = first.sequences.clone(), remask_generate(model, canvases, **again, **recorded)
    anew = torch.tensor(lowest) < retry_below
    expected[anew] = second.sequences[anew]
    assert anew.sum() == 4 and torch.equal(output.sequences, expected)
    assert torch.equal(output.forwards_per_row, first.forwards_per_row + second.forwards_per_row * anew)
    with pytest.raises(ValueError, match="hide=None.*'none'.*reads none"):
        generate_with_retries(model, canvases, [again], hide=None, **SETTINGS)


def test_the_quality_last_read_of_each_token(model, canvases):
    prompts, padding = canvases[:, :2].clone(), torch.ones(8, 2, dtype=torch.long)
    padding[:4, 0], prompts[:4, 0] = 0, 11
    settings = {"max_new_tokens": 6, "steps": 3, "remask_strategy": "prism", "num_remask": 1, "attention_mask": padding}
    recorded = {"return_dict_in_generate": True, "output_trajectory": True}
    output = remask_generate(model, prompts, **settings, **recorded)
    stood = output.trajectory.canvas[-2] != MASK
    stood[:, :2] = False
    assert stood.any() and torch.equal(output.quality.isnan(), ~stood)
    assert torch.equal(output.quality[stood], output.trajectory.quality[-1][stood])
    assert remask_generate(model, prompts, **settings | {"remask_strategy": "none"}, **recorded).quality is None


def test_mistakes_are_named_before_the_first_forward(model, canvases):
    def never(*args, **kwargs):
        raise AssertionError("a forward was made")

    with pytest.raises(ValueError, match="retry_below=2.* must be a number from 0 to 1"):
        generate_with_retries(model, canvases, RETRIES, 2, **SETTINGS)
    with pytest.raises(ValueError, match="hide=1.* must be a number of at least 0 and below 1"):
        generate_with_retries(model, canvases, RETRIES, hide=1, **SETTINGS)
    guarded = copy.deepcopy(model)
    guarded.forward = never
    with pytest.raises(ValueError, match="'stesp'.*'steps'"):
        generate_with_retries(guarded, canvases, [{"stesp": 3}], **SETTINGS)
    headless = BertForMaskedLM(model.config.backbone_config)
    with pytest.raises(ValueError, match="quality"):
        generate_with_retries(headless, canvases, RETRIES, **SETTINGS, mask_token_id=MASK)
