"""The published settings: schedules, the critic's shape, and the evaluation in 89 tokens, which runs."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import PartialState
from transformers import get_scheduler

from prism_hf import MaskedDiffusionTrainingArguments, PrismConfig, PrismForMaskedDiffusion
from prism_hf.data import SudokuTokenizer
from prism_hf.models.auto import new_config
from prism_hf.training import parse_arguments

RECIPES = Path(__file__).parents[2] / "recipes"
CONFIGS = RECIPES / "configs"


def read(name):
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", ["sudoku_mdm_published", "sudoku_prism_published", "sudoku_token_critic_published"])
def test_the_rate_is_constant_after_2500_steps(name, tmp_path):
    given = read(name)
    names = ("learning_rate", "lr_scheduler_type", "warmup_steps", "max_steps")
    args = MaskedDiffusionTrainingArguments(tmp_path, use_cpu=True, **{key: given[key] for key in names})
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.learning_rate)
    schedule = get_scheduler(args.lr_scheduler_type, optimizer, args.get_warmup_steps(args.max_steps), args.max_steps)
    factor = schedule.lr_lambdas[0]
    assert factor(1250) == 0.5 and factor(2500) == factor(19_999) == 1


def test_the_critic_has_four_heads_and_an_adaln_output():
    given = read("sudoku_token_critic_published")
    config = new_config(given["model_type"], SudokuTokenizer(), given["model_config"] | {"n_blocks": 1})
    critic = PrismForMaskedDiffusion(PrismConfig(backbone_config=config, head_type=given["head_type"]))
    assert config.n_heads == 4 and config.hidden_dim == 256
    own = [name for name, _ in critic.named_parameters() if name.startswith("quality_head.")]
    assert own and not any("blocks" in name for name in own) and any("adaLN_modulation" in name for name in own)


def test_the_evaluation_in_89_tokens_runs(tmp_path):
    sys.path.insert(0, str(RECIPES))
    try:
        import evaluate_sudoku
    finally:
        sys.path.remove(str(RECIPES))
    torch.manual_seed(0)
    shape = read("sudoku_mdm_published")["model_config"] | {
        "hidden_dim": 16,
        "n_heads": 2,
        "n_blocks": 1,
        "cond_dim": 8,
    }
    config = new_config("mdlm", SudokuTokenizer(), shape)
    PrismForMaskedDiffusion(PrismConfig(backbone_config=config, head_type="dit")).save_pretrained(tmp_path / "model")
    (args,) = parse_arguments(
        (evaluate_sudoku.EvaluationArguments,),
        [
            "--config",
            str(CONFIGS / "sudoku_evaluation_published.yaml"),
            "--output_dir",
            str(tmp_path),
            "--num_puzzles",
            "2",
            "--model_name_or_path",
            str(tmp_path / "model"),
            "--bf16",
            "false",
            "--use_cpu",
            "true",
        ],
    )
    assert args.layout == 89 and args.settings[0] == {
        "order": "random",
        "do_sample": True,
        "steps": 51,
        "remask_strategy": "prism",
        "num_remask": 4,
    }
    evaluate_sudoku.evaluate_settings(args, tmp_path / "results.jsonl", PartialState(cpu=True))
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(row["forward_passes"], row["num_puzzles"]) for row in rows] == [(51, 2)] * 3
