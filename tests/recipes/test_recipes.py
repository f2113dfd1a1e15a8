"""The recipes as a user launches them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from prism_hf.data import DataArguments
from prism_hf.training import (
    MaskedDiffusionTrainingArguments,
    PrismTrainingArguments,
    parse_arguments,
)

RECIPES = Path(__file__).parents[2] / "recipes"
TINY = {
    "model_type": "bert",
    "model_config": {
        "vocab_size": 11, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
        "max_position_embeddings": 81, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        "mask_token_id": 0,
    },
    "layout": 81, "num_train_samples": 400, "num_eval_samples": 50, "max_steps": 5, "logging_steps": 1,
    "save_steps": 5, "learning_rate": 3e-3, "use_cpu": True, "report_to": "none", "disable_tqdm": True,
    "loss_normalizer": "masked", "use_muon": True, "per_device_eval_batch_size": 25,
}  # fmt: skip
PRISM = {name: value for name, value in TINY.items() if name not in ("model_type", "model_config")} | {
    "num_draft_tokens": 4, "unmasking_weight": 5.0,
}  # fmt: skip


def launch(recipe, config, folder, processes=1, **arguments):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"output_dir": str(folder)} | arguments))
    # With --cpu, accelerate starts one process whatever num_processes says, unless there is MPI. --multi_gpu starts as
    # many as asked for, and `use_cpu` in the configuration keeps them on the CPU.
    kind = "--multi_gpu" if processes > 1 else "--cpu"
    command = [
        sys.executable, "-m", "accelerate.commands.launch", kind, "--num_processes", str(processes),
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        str(RECIPES / recipe), "--config", str(folder / "config.yaml"),
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


def history(folder):
    (state,) = folder.glob("checkpoint-*/trainer_state.json")
    return json.loads(state.read_text())["log_history"]


def assert_same_curves(one, two, names):
    for left, right in zip(history(one), history(two), strict=True):
        for name in names:
            assert left[name] == pytest.approx(right[name], rel=2e-4, abs=1e-5), (left["step"], name)


def test_two_processes_give_the_curves_of_one_and_the_result_is_evaluated(tmp_path):
    launch("train_mdm.py", TINY, tmp_path / "one", per_device_train_batch_size=16)
    launch("train_mdm.py", TINY, tmp_path / "two", processes=2, per_device_train_batch_size=8)
    assert_same_curves(tmp_path / "one", tmp_path / "two", ["loss", "unmasking_loss", "grad_norm"])
    evaluated = [json.loads((tmp_path / name / "eval_results.json").read_text()) for name in ("one", "two")]
    assert evaluated[0]["eval_unmasking_loss"] == pytest.approx(evaluated[1]["eval_unmasking_loss"], rel=0.05)

    start = {"model_name_or_path": str(tmp_path / "one")}
    launch("train_prism.py", PRISM | start, tmp_path / "prism1", per_device_train_batch_size=16)
    launch("train_prism.py", PRISM | start, tmp_path / "prism2", processes=2, per_device_train_batch_size=8)
    names = ["loss", "unmasking_loss", "quality_loss", "draft_accuracy", "quality_auroc", "quality_ece"]
    assert_same_curves(tmp_path / "prism1", tmp_path / "prism2", names)

    settings = [
        {"order": "margin", "steps": 3},
        {"order": "random", "do_sample": True, "steps": 4, "remask_strategy": "prism", "num_remask": 1},
    ]
    evaluation = {
        "model_name_or_path": str(tmp_path / "prism1"), "num_puzzles": 7, "batch_size": 3, "layout": 81,
        "settings": settings,
    }  # fmt: skip
    printed = launch("evaluate_sudoku.py", evaluation, tmp_path / "evaluated")
    assert "| margin | greedy | none | 3 |" in printed
    for name in ("results.md", "results.png", "reliability.png", "corrections.png"):
        assert (tmp_path / "evaluated" / name).stat().st_size > 100
    first = (tmp_path / "evaluated" / "results.jsonl").read_text()
    launch("evaluate_sudoku.py", evaluation, tmp_path / "evaluated")
    assert (tmp_path / "evaluated" / "results.jsonl").read_text() == first  # nothing was computed again
    launch("evaluate_sudoku.py", evaluation, tmp_path / "shared", processes=2)
    rows = [[json.loads(line) for line in text.splitlines()] for text in (
        first, (tmp_path / "shared" / "results.jsonl").read_text())]  # fmt: skip
    for left, right in zip(*rows, strict=True):
        assert left | {"seconds": 0} == right | {"seconds": 0}


@pytest.mark.parametrize("path", sorted((RECIPES / "configs").glob("sudoku_*.yaml")), ids=lambda path: path.stem)
def test_every_config_names_arguments_that_exist(path, tmp_path):
    sys.path.insert(0, str(RECIPES))
    try:
        import evaluate_sudoku
        import train_mdm
        import train_prism
    finally:
        sys.path.remove(str(RECIPES))
    if "evaluation" in path.stem:
        types = (evaluate_sudoku.EvaluationArguments,)
    elif "prism" in path.stem:
        types = (train_prism.ModelArguments, DataArguments, PrismTrainingArguments)
    else:
        types = (train_mdm.ModelArguments, DataArguments, MaskedDiffusionTrainingArguments)
    overrides = ["--output_dir", str(tmp_path)]
    if "evaluation" not in path.stem:
        overrides += ["--bf16", "false", "--use_cpu", "true"]
    *_, arguments = parse_arguments(types, ["--config", str(path), *overrides])
    assert arguments.output_dir == str(tmp_path)


def test_a_misspelt_argument_is_named_with_the_right_one(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("output_dir: x\nlerning_rate: 1e-3\n")
    with pytest.raises(ValueError, match=r"'lerning_rate'.*'learning_rate'"):
        parse_arguments((MaskedDiffusionTrainingArguments,), ["--config", str(path)])
    path.write_text("output_dir: x\nlearning_rate: 1e-3\n")
    (args,) = parse_arguments((MaskedDiffusionTrainingArguments,), ["--config", str(path), "--seed", "7"])
    assert args.learning_rate == 1e-3 and args.seed == 7
