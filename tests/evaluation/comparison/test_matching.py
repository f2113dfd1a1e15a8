"""Settings moved until a measure agrees, with a model whose entropy under each nucleus is known."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from prism_hf.evaluation import Judgement, Match, Task, compare, comparison_table, expand_grid

# Sixteen tokens, each half as likely as the one before, and a mask.
LOGITS = torch.cat([-torch.arange(16.0) * torch.tensor(2.0).log(), torch.tensor([-1e4])])
EXAMPLES = torch.full((24, 64), 16)


class Coin(nn.Module):
    """Draws the same at every position."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(mask_token_id=16)
        self.weight = nn.Parameter(torch.ones(1))
        self.calls = 0

    def forward(self, input_ids, attention_mask=None, return_quality=True):
        self.calls += 1
        return SimpleNamespace(logits=LOGITS.expand(*input_ids.shape, -1), quality_logits=input_ids.float())


def pooled_entropy(sequences, examples):
    shares = torch.bincount(sequences.flatten(), minlength=17) / sequences.numel()
    entropy = torch.special.entr(shares).sum().item()
    return Judgement(-sequences.double().mean(-1), None, {"entropy": entropy})


def entropy_of_first(number):
    """Of the distribution, cut off behind its `number` likeliest tokens."""
    return torch.special.entr(LOGITS[:number].softmax(-1)).sum().item()


TASK = Task(EXAMPLES, EXAMPLES[:8], pooled_entropy, "smallness", "From nothing.", tuning_seed=1)


@pytest.mark.parametrize("number", [2, 3, 4])
def test_the_nucleus_moves_until_the_entropy_is_that_of_the_cut_distribution(tmp_path, number):
    points = expand_grid([{"name": "none"}, {"name": "random", "num_remask": [1, 2]}], ["random"], [1.0], [8])
    match = Match(value=entropy_of_first(number), by="top_p", low=0.3, high=1.0, within=0.1)
    rows = compare(Coin(), TASK, points, tmp_path / "rows.jsonl", match=match)
    # A nucleus of p holds the first tokens, whose shares are 1/2, 1/4, ..., until they reach p.
    nuclei = sum(0.5**i for i in range(1, number)), sum(0.5**i for i in range(1, number + 1))
    for row in rows:
        assert row["agrees"] and nuclei[0] < row["arguments"]["top_p"] <= nuclei[1] + 1e-4
        assert row["measures"]["entropy"] == pytest.approx(entropy_of_first(number), abs=0.1)
    assert len(rows[1]["candidates"]) == 2
    assert {candidate["arguments"]["num_remask"] for candidate in rows[1]["candidates"]} == {1, 2}


def test_the_temperature_moves_until_the_entropy_is_that_of_the_scaled_distribution(tmp_path):
    expected = torch.special.entr((LOGITS / 1.5).softmax(-1)).sum().item()
    points = expand_grid([{"name": "none"}, {"name": "prism", "num_remask": 2}], ["random"], [1.0], [8])
    rows = compare(Coin(), TASK, points, tmp_path / "rows.jsonl", match=Match(value=expected, within=0.03))
    for row in rows:
        assert row["agrees"] and row["setting"]["temperature"] == pytest.approx(1.5, abs=0.15)
    table = comparison_table(rows)
    assert "| sampled |" in table and f"temperature={rows[0]['arguments']['temperature']}" in table
    (line,) = (line for line in table.splitlines() if line.startswith("| none"))
    assert " to " in line.split("|")[-2]  # paired with prism, whose temperature is another
    greedy = expand_grid([{"name": "none"}], ["random"], [0.0], [8])
    with pytest.raises(ValueError, match="none is greedy"):
        compare(Coin(), TASK, greedy, tmp_path / "rows.jsonl", match=Match(value=expected))


def test_what_cannot_agree_is_kept_apart(tmp_path):
    points = expand_grid([{"name": "prism", "num_remask": 1}, {"name": "none"}], ["random"], [1.0], [8])
    rows = compare(Coin(), TASK, points, tmp_path / "rows.jsonl", match=Match(value=3.0, by="top_p", high=1.0, tries=2))
    assert not any(row["agrees"] for row in rows)
    assert all(row["arguments"]["top_p"] == 1.0 for row in rows)  # the nearest of the trials
    table = comparison_table(rows)
    assert "### Not comparable: other than the rest" in table and "None." in table


def test_a_match_goes_on_where_it_was_killed(tmp_path):
    path, points = tmp_path / "rows.jsonl", expand_grid([{"name": "none"}], ["random"], [1.0], [8])
    match = Match(value=entropy_of_first(2), by="top_p", low=0.3, high=1.0, within=0.1)
    (row,) = compare(Coin(), TASK, points, path, match=match)
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) > 1
    path.write_text("".join(lines[:-1]))
    model = Coin()
    (again,) = compare(model, TASK, points, path, match=match)
    assert model.calls == 8 and again["arguments"] == row["arguments"]  # the last trial alone
    assert [json.loads(line)["setting"] for line in path.read_text().splitlines()] == [
        json.loads(line)["setting"] for line in lines
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"by": "steps"}, "Unknown field to match by 'steps'"),
        ({"low": 2.0}, "low=2.0 is not below high=2.0"),
        ({"tries": 0}, "tries"),
        ({"value": "high"}, "value"),
    ],
)
def test_a_match_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Match(**{"value": 1.0} | fields)


def test_a_measure_that_the_task_lacks_is_named(tmp_path):
    points = expand_grid([{"name": "none"}], ["random"], [1.0], [8])
    with pytest.raises(ValueError, match="Unknown measure to match 'entropie'.*Did you mean 'entropy'"):
        compare(Coin(), TASK, points, tmp_path / "rows.jsonl", match=Match(value=1.0, measure="entropie"))
