"""The recipes as a user launches them."""

import contextlib
import inspect
import io
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import DeepSpeedPlugin, DistributedType
from accelerate.commands.config.config_args import load_config_from_file
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import prism_hf
from prism_hf import (
    LladaForMaskedDiffusion,
    MaskedDiffusionTrainer,
    PrismForMaskedDiffusion,
    load_model,
    remask_generate,
)
from prism_hf.command import COMMANDS, command_of_config
from prism_hf.data import DataArguments, encode_text, load_text, load_training_data
from prism_hf.evaluation import isolation_problem
from prism_hf.training import MaskedDiffusionTrainingArguments, parse_arguments

RECIPES = Path(__file__).parents[2] / "recipes"
TINY = {
    "model_type": "bert",
    "model_config": {
        "vocab_size": 11,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 81,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "mask_token_id": 0,
    },
    "layout": 81,
    "num_train_samples": 400,
    "num_eval_samples": 50,
    "max_steps": 5,
    "logging_steps": 1,
    "save_steps": 5,
    "learning_rate": 3e-3,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "loss_normalizer": "masked",
    "use_muon": True,
    "per_device_eval_batch_size": 25,
}
PRISM = {name: value for name, value in TINY.items() if name not in ("model_type", "model_config")} | {
    "num_draft_tokens": 4,
    "unmasking_weight": 5.0,
}


LLADA = {
    "model_type": "llada",
    "model_config": {"d_model": 32, "n_layers": 2, "n_heads": 2, "mlp_hidden_size": 64, "max_sequence_length": 64},
    "dataset": "source_files",
    "dataset_name": str(Path(prism_hf.__file__).parent / "diffusion"),
    "held_out": 0.2,
    "length": 64,
    "vocab_size": 300,
    "max_steps": 4,
    "logging_steps": 1,
    "save_steps": 4,
    "learning_rate": 3e-3,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "loss_normalizer": "masked",
}
LLADA_PRISM = {name: value for name, value in LLADA.items() if name not in ("model_type", "model_config")} | {
    "num_draft_tokens": 4,
    "unmasking_weight": 1.0,
    "use_peft": True,
    "lora_r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "lora_target_modules": ["q_proj", "k_proj", "v_proj"],
}


ARGUMENTS = {
    "train-mdm": ("MdmArguments", "DataArguments", "MaskedDiffusionTrainingArguments"),
    "train-prism": ("PrismArguments", "DataArguments", "PrismTrainingArguments"),
    "train-token-critic": ("CriticArguments", "DataArguments", "TokenCriticTrainingArguments"),
    "evaluate sudoku": ("EvaluationArguments",),
    "evaluate text": ("TextArguments",),
    "evaluate bound": ("BoundArguments", "CorpusArguments"),
    "evaluate revision": ("ProblemArguments", "RevisionArguments"),
    "evaluate code": ("ProblemArguments", "CodeArguments"),
    "generate": ("ProblemArguments", "GenerateArguments"),
    "compare": ("ComparisonArguments",),
}


@pytest.fixture
def save_chat_model(text_model, text_tokenizer):
    def save(folder):
        text_model().save_pretrained(folder)
        text_tokenizer.save_pretrained(folder)
        return text_tokenizer

    return save


def run_here(recipe, config):
    """Run a recipe in this process, which has imported what takes a launched one most of its time. What it prints."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", [recipe, "--config", str(config)])
        runpy.run_path(str(RECIPES / recipe), run_name="__main__")
    return printed.getvalue()


@pytest.fixture
def launch(on_two):
    """Runs a recipe and returns what it prints: where one process is enough, this one if `here`."""

    def run(recipe, config, folder, processes=1, accelerate_config="ddp.yaml", run_by=(), here=True, **arguments):
        folder.mkdir(parents=True, exist_ok=True)
        output = {} if "output_file" in config else {"output_dir": str(folder)}
        (folder / "config.yaml").write_text(yaml.safe_dump(config | output | arguments))
        if processes == 2:
            config_file = folder / "config.yaml"
            return on_two(RECIPES / recipe, "--config", config_file, config=accelerate_config, run_by=tuple(run_by))
        if here:
            return run_here(recipe, folder / "config.yaml")
        command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
        command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        command += [str(RECIPES / recipe), "--config", str(folder / "config.yaml")]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert finished.returncode == 0, finished.stderr[-3000:]
        return finished.stdout

    return run


def history(folder):
    (state,) = folder.glob("checkpoint-*/trainer_state.json")
    return json.loads(state.read_text())["log_history"]


def assert_same_curves(one, two, names):
    for left, right in zip(history(one), history(two), strict=True):
        for name in names:
            assert left[name] == pytest.approx(right[name], rel=2e-4, abs=1e-5), (left["step"], name)


def test_two_processes_give_the_curves_of_one_and_the_result_is_evaluated(tmp_path, launch):
    solving = TINY | {"predict_with_generate": True, "num_eval_generations": 3, "eval_blanks": 2}
    launch("train_mdm.py", solving, tmp_path / "one", per_device_train_batch_size=16)
    launch("train_mdm.py", solving, tmp_path / "two", processes=2, per_device_train_batch_size=8)
    assert_same_curves(tmp_path / "one", tmp_path / "two", ["loss", "unmasking_loss", "grad_norm"])
    evaluated = [json.loads((tmp_path / name / "eval_results.json").read_text()) for name in ("one", "two")]
    assert evaluated[0]["eval_unmasking_loss"] == pytest.approx(evaluated[1]["eval_unmasking_loss"], rel=2e-4)
    assert evaluated[0].keys() == evaluated[1].keys() >= {"eval_success", "eval_success_high", "eval_cell_accuracy"}

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
        "model_name_or_path": str(tmp_path / "prism1"),
        "num_puzzles": 7,
        "batch_size": 3,
        "layout": 81,
        "settings": settings,
    }
    printed = launch("evaluate_sudoku.py", evaluation, tmp_path / "evaluated")
    assert "| none | margin | greedy | 3 |" in printed
    for name in ("results.md", "results.png", "reliability.png", "corrections.png"):
        assert (tmp_path / "evaluated" / name).stat().st_size > 100
    first = (tmp_path / "evaluated" / "results.jsonl").read_text()
    launch("evaluate_sudoku.py", evaluation, tmp_path / "evaluated")
    assert (tmp_path / "evaluated" / "results.jsonl").read_text() == first  # nothing was computed again
    launch("evaluate_sudoku.py", evaluation, tmp_path / "shared", processes=2)
    rows = [
        [json.loads(line) for line in text.splitlines()]
        for text in (first, (tmp_path / "shared" / "results.jsonl").read_text())
    ]
    for left, right in zip(*rows, strict=True):
        assert left | {"seconds": 0} == right | {"seconds": 0}


def test_a_critic_of_the_shipped_model_has_the_curve_of_one_process_on_two(tmp_path, launch):
    launch("train_token_critic.py", TINY, tmp_path / "one", per_device_train_batch_size=16)
    launch("train_token_critic.py", TINY, tmp_path / "two", processes=2, per_device_train_batch_size=8)
    names = ["loss", "critic_loss", "grad_norm", "draft_accuracy", "quality_auroc", "quality_ece"]
    assert_same_curves(tmp_path / "one", tmp_path / "two", names)


def test_a_comparison_goes_on_and_two_processes_give_that_of_one(tmp_path, launch):
    config = yaml.safe_load((RECIPES / "configs" / "sudoku_compare_quick.yaml").read_text()) | {
        "task": {"name": "sudoku", "layout": 81, "num_puzzles": 5, "num_tuning_puzzles": 3},
        "batch_size": 2,
        "budgets": [4, 6],
        "use_cpu": True,
    }
    printed = launch("compare.py", config, tmp_path / "one")
    assert printed.strip() == (tmp_path / "one" / "comparison.md").read_text().strip()
    assert "## 4 forward passes" in printed and "no solution of theirs fits a reported puzzle" in printed
    for name in ("comparison.png", "parallelism.png"):
        assert (tmp_path / "one" / name).read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line) for line in (tmp_path / "one" / "results.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows] == ["tuning"] * 8 + ["reported"] * 12

    # A kill amid a line: the two processes keep what is whole and add the rest.
    (tmp_path / "two").mkdir()
    begun = "".join(json.dumps(row) + "\n" for row in rows[:11]) + json.dumps(rows[11])[:40]
    (tmp_path / "two" / "results.jsonl").write_text(begun)
    again = launch("compare.py", config, tmp_path / "two", processes=2)
    continued = [json.loads(line) for line in (tmp_path / "two" / "results.jsonl").read_text().splitlines()]
    assert continued[:11] == rows[:11]
    assert [row | {"seconds": 0} for row in continued] == [row | {"seconds": 0} for row in rows]
    assert again.splitlines()[:5] == printed.splitlines()[:5]


def test_text_is_compared_by_its_likelihood_once(save_chat_model, tmp_path, launch):
    tokenizer = save_chat_model(tmp_path / "backbone")
    PrismForMaskedDiffusion.from_pretrained(tmp_path / "backbone").save_pretrained(tmp_path / "model")
    scorer = GPT2Config(vocab_size=300, n_positions=32, n_embd=32, n_layer=1, n_head=2, eos_token_id=1, bos_token_id=0)
    GPT2LMHeadModel(scorer).save_pretrained(tmp_path / "scorer")
    for name in ("model", "scorer"):
        tokenizer.save_pretrained(tmp_path / name)
    (tmp_path / "prompts.txt").write_text("".join(f"x{n} = {n}\n" for n in range(8)))
    config = yaml.safe_load((RECIPES / "configs" / "text_compare.yaml").read_text()) | {
        "model_name_or_path": str(tmp_path / "model"),
        "budgets": [4, 6],
        "batch_size": 2,
        "use_cpu": True,
        "attn_implementation": "eager",
        "bf16": False,
        "task": {
            "name": "text",
            "length": 12,
            "num_samples": 5,
            "num_tuning_samples": 3,
            "scorer": str(tmp_path / "scorer"),
            "prompts_file": str(tmp_path / "prompts.txt"),
        },
        "strategies": [{"name": "none"}, {"name": "remdm_cap", "eta": [0.04, 0.2]}, {"name": "prism", "num_remask": 1}],
    }
    printed = launch("compare.py", config, tmp_path / "out")
    report = (tmp_path / "out" / "comparison.md").read_text()
    assert printed.strip() == report.strip() and "5 samples of 12 tokens from prompts of prompts.txt" in report
    assert "| log-likelihood | 95% interval | generative perplexity | entropy | distinct-2 | " in report
    assert "| repetition | seconds | against prism |" in report
    assert "in brackets" not in report and "p-values" not in report
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    results = (tmp_path / "out" / "results.jsonl").read_text()
    assert [json.loads(line)["split"] for line in results.splitlines()] == ["tuning"] * 4 + ["reported"] * 6
    launch("compare.py", config, tmp_path / "out")
    assert (tmp_path / "out" / "results.jsonl").read_text() == results  # nothing was computed again
    assert (tmp_path / "out" / "comparison.md").read_text() == report
    # What was written is a file of samples to the other recipe.
    samples = sorted(map(str, (tmp_path / "out" / "samples").glob("reported-*.jsonl")))
    scoring = {"samples": samples, "scorer": str(tmp_path / "scorer"), "use_cpu": True, "reference": "prism"}
    printed = launch("evaluate_text.py", scoring, tmp_path / "scores")
    rows = [json.loads(line) for line in results.splitlines()]
    for row in rows[-6:]:
        shown = f"| {row['forward_passes']} | 5 | {row['measures']['generative perplexity']:.0f} ["
        assert shown in printed
    assert printed.strip() == (tmp_path / "scores" / "samples.md").read_text().strip()
    assert (tmp_path / "scores" / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_code_is_compared_by_its_tests_once(save_chat_model, tmp_path, launch):
    tokenizer = save_chat_model(tmp_path / "backbone")
    PrismForMaskedDiffusion.from_pretrained(tmp_path / "backbone").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    problems = [
        {
            "task_id": task_id,
            "text": text,
            "code": f"def {name}(x):\n    return {result}",
            "test_setup_code": "",
            "test_list": [f"x = 3\nassert {name}(x) == {result}"],
        }
        for task_id, text, name, result in (
            (11, "Double a number.", "double", "2 * x"),
            (12, "Negate a number given to you.", "negate", "-x"),
            (13, "Square.", "square", "x * x"),
            (511, "Halve.", "halve", "x / 2"),
            (512, "Add one.", "add", "x + 1"),
        )
    ]
    (tmp_path / "mbpp.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    config = yaml.safe_load((RECIPES / "configs" / "code_compare.yaml").read_text())
    config |= {
        "model_name_or_path": str(tmp_path / "model"),
        "budgets": [4],
        "batch_size": 2,
        "use_cpu": True,
        "attn_implementation": "eager",
        "task": config["task"]
        | {
            "problems_file": str(tmp_path / "mbpp.jsonl"),
            "num_tuning_problems": 2,
            "max_new_tokens": 16,
            "isolation": "limits" if isolation_problem() else "namespaces",
        },
        "strategies": [strategy | {"block_length": 8} for strategy in config["strategies"]],
    }
    printed = launch("compare.py", config, tmp_path / "one")
    report = (tmp_path / "one" / "comparison.md").read_text()
    assert printed.strip() == report.strip() and "3 problems of mbpp.jsonl, 16 tokens for each answer" in report
    assert "| pass@1 | 95% interval |" in report and "Arguments were chosen on 2 others" in report
    results = (tmp_path / "one" / "results.jsonl").read_text()
    rows = [json.loads(line) for line in results.splitlines()]
    assert {row["scores"] for row in rows if row["split"] == "reported"} == {"000"}
    launch("compare.py", config, tmp_path / "one")
    assert (tmp_path / "one" / "results.jsonl").read_text() == results  # nothing was computed again
    assert (tmp_path / "one" / "comparison.md").read_text() == report


def test_small_functions_are_learned_corrected_and_compared(tmp_path, launch):
    """Two steps of each recipe of a toy for code, at a smaller shape, on the files that its script makes."""
    functions = tmp_path / "functions"
    with pytest.MonkeyPatch.context() as patch:
        made = ["--num_specifications", "150", "--vocab_size", "400", "--folders", "--max_length", "192"]
        patch.setattr(sys, "argv", ["make_functions", str(functions), *made])
        runpy.run_path(str(RECIPES.parent / "scripts" / "make_functions.py"), run_name="__main__")
    mdm, prism, compared = (
        yaml.safe_load((RECIPES / "configs" / f"functions_{name}_laptop.yaml").read_text())
        for name in ("mdm", "prism", "compare")
    )
    assert prism["model_name_or_path"] == mdm["output_dir"] and compared["model_name_or_path"] == prism["output_dir"]
    short = {"dataset_name": str(functions / "rows"), "max_steps": 2, "per_device_train_batch_size": 4}
    short |= {"eval_steps": 2, "logging_steps": 1, "disable_tqdm": True}
    shape = {"d_model": 32, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 64}
    mdm |= short | {
        "model_config": mdm["model_config"] | shape,
        "tokenizer_name_or_path": str(functions / "tokenizer"),
        "lr_scheduler_kwargs": {"num_decay_steps": 1},
    }
    launch("train_mdm.py", mdm, tmp_path / "mdm")
    launch("train_prism.py", prism | short | {"model_name_or_path": str(tmp_path / "mdm")}, tmp_path / "prism")

    # A model that has a head goes on with it: at a rate of 0, with what it has learned.
    still = {"model_name_or_path": str(tmp_path / "prism"), "learning_rate": 0.0, "head_learning_rate": 0.0}
    launch("train_prism.py", prism | short | still | {"head_type": None}, tmp_path / "again")
    one, again = (load_file(tmp_path / name / "model.safetensors") for name in ("prism", "again"))
    assert one.keys() == again.keys() and all(torch.equal(one[name], again[name]) for name in one)

    task = {"problems_file": str(functions / "problems.jsonl"), "num_problems": 2, "num_tuning_problems": 0}
    task |= {"isolation": "limits" if isolation_problem() else "namespaces", "max_new_tokens": 4}
    compared |= {"model_name_or_path": str(tmp_path / "prism"), "task": compared["task"] | task, "use_cpu": True}
    compared |= {"budgets": [2], "strategies": [{"name": "none"}, {"name": "prism", "num_remask": 1}]}
    printed = launch("compare.py", compared, tmp_path / "compared")
    assert "2 problems of problems.jsonl" in printed and "pass@1" in printed
    answers = (tmp_path / "compared" / "results.jsonl").read_text().splitlines()
    assert [json.loads(row)["scores"] for row in answers] == ["00", "00"]


def test_a_grid_of_settings_writes_and_scores_a_file_each(save_chat_model, tmp_path, launch):
    """The published grid on a tiny model: every setting runs, and what they wrote is one table."""
    tokenizer = save_chat_model(tmp_path / "backbone")
    PrismForMaskedDiffusion.from_pretrained(tmp_path / "backbone").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    problem = {"test_setup_code": "", "code": "def one():\n    return 1", "test_list": ["assert one() == 1"]}
    rows = [problem | {"task_id": n, "text": f"Give one, {'really ' * (n - 11)}" + "now."} for n in (11, 14)]
    rows.append(problem | {"task_id": 511, "text": "Not of the test split."})
    (tmp_path / "mbpp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = yaml.safe_load((RECIPES / "configs" / "llada_8b_mbpp.yaml").read_text()) | {
        "model_name_or_path": str(tmp_path / "model"),
        "problems_file": str(tmp_path / "mbpp.jsonl"),
        "output_file": str(tmp_path / "out" / "mbpp.jsonl"),
        "attn_implementation": "eager",
        "num_samples": 2,
        "use_cpu": True,
        "generation": {"max_length": 256, "steps": 16, "do_sample": True},
    }
    kept = ("none_32", "random_64", "confidence_32", "prism_64")
    config["settings"] = {name: config["settings"][name] for name in kept}
    launch("generate.py", config, tmp_path / "run")
    names = [f"mbpp.{name}.jsonl" for name in config["settings"]]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {file for name in names for file in (name, f"{name}.settings.json", f"{name}.manifest.json")}
    for name in names:
        made = [json.loads(line) for line in (tmp_path / "out" / name).read_text().split("\n")[:-1]]
        assert [row["task_id"] for row in made] == [11, 11, 14, 14]
        per_block = 4 if "64" in name else 2
        for row in made:
            masks = 256 - len(tokenizer(row["prompt"]).input_ids)
            assert row["forward_passes"] <= per_block * -(-masks // (64 if "64" in name else 32))
        manifest = json.loads((tmp_path / "out" / f"{name}.manifest.json").read_text())
        assert manifest["generation"]["max_length"] == 256 and manifest["num_samples"] == 4
    scoring = {
        "problems_file": config["problems_file"],
        "samples": [str(tmp_path / "out" / name) for name in names],
        "k": [1, 2],
        "isolation": "limits" if isolation_problem() else "namespaces",
    }
    table = launch("evaluate_code.py", scoring, tmp_path / "scores")
    assert all(f"| mbpp.{name} | 0.0% |" in table for name in config["settings"])
    assert "4 completions of 2 problems. Code" in table


def test_wrong_tokens_of_programs_are_found_and_revised(save_chat_model, tmp_path, launch):
    """The published config on a tiny model, and again from where a kill left it."""
    tokenizer = save_chat_model(tmp_path / "backbone")
    PrismForMaskedDiffusion.from_pretrained(tmp_path / "backbone").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    function = {"text": "Add.", "test_setup_code": "", "code": "def add(a, b):\n    return a + b * 1\n"}
    rows = [function | {"task_id": n, "test_list": [f"assert add({n}, 3) == {n + 3}"]} for n in (11, 12)]
    (tmp_path / "mbpp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = yaml.safe_load((RECIPES / "configs" / "llada_8b_revision.yaml").read_text()) | {
        "model_name_or_path": str(tmp_path / "model"),
        "problems_file": str(tmp_path / "mbpp.jsonl"),
        "kinds": ["operator", "literal"],
        "num_variants": 2,
        "batch_size": 3,
        "isolation": "limits" if isolation_problem() else "namespaces",
        "use_cpu": True,
    }
    printed, output = launch("evaluate_revision.py", config, tmp_path / "out"), tmp_path / "out" / "revisions.jsonl"
    assert printed.strip() == (tmp_path / "out" / "revision.md").read_text().strip()
    assert [line.split(" | ")[:2] for line in printed.splitlines()[2:8]] == [
        [f"| {kind}", score] for kind in config["kinds"] for score in config["scores"]
    ]
    written = output.read_text()
    found = [json.loads(line) for line in written.splitlines()]
    for row in found:
        assert len(row["scores"]["quality"]) == len(row["input_ids"]) - row["body_start"]
        assert tokenizer.decode(row["input_ids"]) == row["answer"] != function["code"]
        for revised in row["revised"].values():
            assert len(revised["tokens"]) == len(row["input_ids"]) and not revised["passed"]
    shard = {"part": 0, "seconds": 1.0, "rows": [row | {"kind": "literal"} for row in found[:1]]}
    output.unlink()
    output.with_name(f"{output.name}.shard-00000").write_text(json.dumps(shard) + "\n")
    launch("evaluate_revision.py", config, tmp_path / "out")
    resumed = [json.loads(line) for line in output.read_text().splitlines()]
    assert resumed[0] == shard["rows"][0] and resumed[1:] == [row for row in found if row in resumed[1:]]


def test_lora_under_ddp_and_fsdp2_is_that_of_one_process(tmp_path, launch):
    launch("train_mdm.py", LLADA, tmp_path / "mdm", per_device_train_batch_size=8)
    config = LLADA_PRISM | {"model_name_or_path": str(tmp_path / "mdm")}
    launch("train_prism.py", config, tmp_path / "one", per_device_train_batch_size=8)
    two = {"processes": 2, "per_device_train_batch_size": 4}
    launch("train_prism.py", config, tmp_path / "ddp", accelerate_config="ddp.yaml", **two)
    on_cpu = str(Path(__file__).parents[1] / "training" / "fsdp2_on_cpu.py")
    launch("train_prism.py", config, tmp_path / "fsdp2", accelerate_config="fsdp2.yaml", run_by=[on_cpu], **two)
    names = ["loss", "grad_norm", "unmasking_loss", "quality_loss", "draft_accuracy"]
    adapter = load_file(tmp_path / "one" / "adapter_model.safetensors")
    start = {name: value for name, value in adapter.items() if "lora_B" in name}
    assert all(value.any() for value in start.values()) and len(start) == 6
    for name in ("ddp", "fsdp2"):
        assert_same_curves(tmp_path / "one", tmp_path / name, names)
        other = load_file(tmp_path / name / "adapter_model.safetensors")
        assert other.keys() == adapter.keys()
        for key, value in adapter.items():
            torch.testing.assert_close(other[key], value, atol=1e-6, rtol=1e-5)


BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
BERT |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.mark.parametrize("backbone", [{}, {"model_type": "bert", "model_config": BERT}], ids=["llada", "bert"])
def test_all_weights_under_fsdp2(tmp_path, launch, backbone):
    """The LM head takes part in the first of a step's forwards only, and outside of the model's own."""
    launch("train_mdm.py", LLADA | backbone, tmp_path / "mdm", per_device_train_batch_size=8)
    config = LLADA_PRISM | {"model_name_or_path": str(tmp_path / "mdm"), "use_peft": False}
    launch("train_prism.py", config, tmp_path / "one", per_device_train_batch_size=8)
    on_cpu = str(Path(__file__).parents[1] / "training" / "fsdp2_on_cpu.py")
    launch(
        "train_prism.py",
        config,
        tmp_path / "fsdp2",
        processes=2,
        accelerate_config="fsdp2.yaml",
        run_by=[on_cpu],
        per_device_train_batch_size=4,
    )
    assert_same_curves(tmp_path / "one", tmp_path / "fsdp2", ["loss", "grad_norm", "unmasking_loss", "quality_loss"])


CONVERSATIONS = [
    {
        "messages": [
            {"role": "user", "content": f"x = {n}"},
            {"role": "assistant", "content": "return " + n * "x"},
        ]
    }
    for n in range(12)
]
SFT = {
    "extends": str(RECIPES / "configs" / "llada_8b_sft.yaml"),
    "lora_r": 4,
    "max_length": 96,
    "max_steps": 2,
    "save_steps": 2,
    "bf16": False,
    "dtype": "float32",
    "use_cpu": True,
    "disable_tqdm": True,
    "num_draft_tokens": 2,
    "gradient_accumulation_steps": 1,
}


def test_conversations_fine_tune_llada_by_its_config(save_chat_model, tmp_path, launch, caplog):
    tokenizer = save_chat_model(tmp_path / "model")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in CONVERSATIONS))
    names = {"model_name_or_path": str(tmp_path / "model"), "dataset_name": str(rows)}
    launch("train_prism.py", SFT | names, tmp_path / "out")
    assert "'flash_attention_2' is not to be had, as the model runs on the CPU" in caplog.text
    adapter = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"], adapter["task_type"]) == (4, 64, None)
    model = load_model(tmp_path / "out")
    assert model.generation_config.remask_strategy == "prism" and model.generation_config.block_length == 64
    prompt = tokenizer.apply_chat_template(
        CONVERSATIONS[3]["messages"][:1], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    assert model.generate(prompt.input_ids, max_new_tokens=8, block_length=4).shape[1] == prompt.input_ids.shape[1] + 8


def test_a_mixture_is_trained_and_its_split_evaluated(save_chat_model, tmp_path, launch):
    save_chat_model(tmp_path / "model")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in CONVERSATIONS))
    mixture = {
        "model_name_or_path": str(tmp_path / "model"),
        "dataset_name": None,
        "datasets": [{"path": "json", "data_files": str(rows)}, {"path": "json", "data_files": str(rows)}],
        "test_split_size": 0.25,
        "eval_strategy": "steps",
        "eval_steps": 2,
    }
    launch("train_prism.py", SFT | mixture, tmp_path / "out")
    evaluated = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert evaluated["eval_loss"] > 0


def test_a_file_has_one_split_and_parts_of_it(save_chat_model, tmp_path, launch):
    save_chat_model(tmp_path / "model")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in CONVERSATIONS))
    one = {"model_name_or_path": str(tmp_path / "model"), "dataset_name": str(rows), "eval_strategy": "epoch"}
    with pytest.raises(ValueError, match=r"Unknown split \"test\".* write dataset_train_split='train\[5%:\]'"):
        launch("train_prism.py", SFT | one, tmp_path / "out")
    parts = {"dataset_train_split": "train[50%:]", "dataset_test_split": "train[:50%]"}
    args = DataArguments(dataset_name=str(rows), mask_token="<|mdm_mask|>", **parts)
    train, held_out, _ = load_training_data(args, 0, str(tmp_path / "model"))
    assert [*held_out, *train] == CONVERSATIONS and len(train) == 6
    train, held_out, _ = load_training_data(args, 0, str(tmp_path / "model"), evaluates=False)
    assert held_out is None


@pytest.mark.parametrize("streaming", [False, True])
def test_text_is_learned_with_a_tokenizer_of_its_own(tmp_path, launch, streaming):
    folder = tmp_path / "prose"
    folder.mkdir()
    for split in ("train", "test"):
        rows = [json.dumps({"words": f"{split} {n} ants and bees"}) + "\n" for n in range(40)]
        (folder / f"{split}.jsonl").write_text("".join(rows))
    text = {
        "dataset": "text",
        "dataset_name": str(folder),
        "dataset_text_field": "words",
        "dataset_streaming": streaming,
        "held_out": 0,
        "length": 16,
        "eval_strategy": "steps",
        "eval_steps": 4,
    }
    launch("train_mdm.py", LLADA | text, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(tokenizer("train 1 ants and bees").input_ids) < 12  # its words were merged
    assert json.loads((tmp_path / "out" / "all_results.json").read_text())["eval_loss"] > 0
    args = DataArguments(
        **{name: value for name, value in text.items() if not name.startswith(("eval", "dataset_text"))}
    )
    train, held_out, _ = load_training_data(args, 0, str(tmp_path / "out"), text_field="words")
    for rows, split in ((train, "train"), (held_out, "test")):
        assert tokenizer.decode(next(iter(rows))["input_ids"], skip_special_tokens=True).startswith(f"{split} 0 ants")


def test_samples_from_nothing_are_judged_at_evaluations_and_choose_the_best(save_chat_model, tmp_path, launch):
    tokenizer = save_chat_model(tmp_path / "model")
    scorer = GPT2Config(vocab_size=300, n_positions=32, n_embd=32, n_layer=1, n_head=2, eos_token_id=1, bos_token_id=0)
    GPT2LMHeadModel(scorer).save_pretrained(tmp_path / "scorer")
    tokenizer.save_pretrained(tmp_path / "scorer")
    (tmp_path / "prose.txt").write_text("\n\n".join(f"{n} ants and {n} bees" for n in range(60)))
    settings = {
        "model_name_or_path": str(tmp_path / "model"),
        "dataset": "text",
        "dataset_name": str(tmp_path / "prose.txt"),
        "length": 16,
        "ema_decay": 0.5,
        "learning_rate": 3e-2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "generative_perplexity",
        "predict_with_generate": True,
        "num_eval_generations": 3,
        "eval_scorer": str(tmp_path / "scorer"),
        "generation": {"steps": 4, "do_sample": True, "order": "random"},
    }
    config = {name: value for name, value in LLADA.items() if not name.startswith(("model", "vocab"))} | settings
    launch("train_mdm.py", config, tmp_path / "out")
    logged = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    scores = {row["step"]: row["eval_generative_perplexity"] for row in logged if "eval_entropy" in row}
    best = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert best["eval_generative_perplexity"] == pytest.approx(min(scores.values()), rel=1e-6)
    assert best["eval_perplexity_low"] < best["eval_perplexity"] < best["eval_perplexity_high"]
    for step in scores:
        rows = (tmp_path / "out" / "generations" / f"eval-{step}.jsonl").read_text().splitlines()
        assert len(rows) == 3 and all(len(json.loads(row)["tokens"]) == 16 for row in rows)


def test_published_samples_of_text_are_written_and_scored(save_chat_model, tmp_path, launch, monkeypatch):
    tokenizer = save_chat_model(tmp_path / "llada")
    PrismForMaskedDiffusion.from_pretrained(tmp_path / "llada").save_pretrained(tmp_path / "outputs" / "mdlm_owt_prism")
    scorer = GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=1, n_head=2, eos_token_id=1, bos_token_id=0)
    GPT2LMHeadModel(scorer).save_pretrained(tmp_path / "scorer")
    for folder in (tmp_path / "outputs" / "mdlm_owt_prism", tmp_path / "scorer"):
        tokenizer.save_pretrained(folder)
    monkeypatch.chdir(tmp_path)
    published = yaml.safe_load((RECIPES / "configs" / "owt_170m_samples.yaml").read_text())
    assert published["generation"] == {"max_new_tokens": 1024, "steps": 256, "do_sample": True, "top_p": 0.9}
    less = {"num_samples": 2, "bf16": False, "use_cpu": True}
    short = {"generation": published["generation"] | {"max_new_tokens": 32, "steps": 8}}
    launch("generate.py", published | less | short, tmp_path / "samples")
    evaluated = yaml.safe_load((RECIPES / "configs" / "owt_170m_evaluate.yaml").read_text())
    printed = launch("evaluate_text.py", evaluated | {"scorer": "scorer", "use_cpu": True}, tmp_path / "scores")
    rows = [json.loads(line) for line in (tmp_path / "scores" / "results.jsonl").read_text().splitlines()]
    assert len(rows) == len(published["settings"]) == len(evaluated["samples"])
    assert all(name in printed for name in published["settings"])


def test_the_bound_of_a_corpus_is_that_of_a_training(save_chat_model, tmp_path, launch):
    tokenizer = save_chat_model(tmp_path / "llada")
    prism = PrismForMaskedDiffusion.from_pretrained(tmp_path / "llada")
    prism.save_pretrained(tmp_path / "prism")
    adapted = get_peft_model(prism, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "prism")
    adapted.save_pretrained(tmp_path / "adapter")
    for name in ("prism", "adapter"):
        tokenizer.save_pretrained(tmp_path / name)
    text = "\n\n".join(f"= Ants = {n} ants , a well @-@ known kind , met {n} bees ." for n in range(60))
    (tmp_path / "wiki.txt").write_text(text)
    config = {
        "dataset_name": str(tmp_path / "wiki.txt"),
        "detokenizer": "wikitext",
        "length": 32,
        "num_eval_masks": 2,
        "use_cpu": True,
    }
    found = {}
    for name, processes in (("llada", 1), ("prism", 1), ("adapter", 1), ("adapter", 2)):
        folder = tmp_path / f"{name}-{processes}"
        given = {"model_name_or_path": str(tmp_path / name), "output_file": str(folder / "bound.json")}
        printed = launch("evaluate_bound.py", config | given, folder, processes=processes)
        found[name, processes] = json.loads((folder / "bound.json").read_text())
        assert f"perplexity at most {found[name, processes]['perplexity']:.4g} (95% interval" in printed
    rows = encode_text(load_text(tmp_path / "wiki.txt"), tokenizer, length=32, detokenizer="wikitext")
    args = MaskedDiffusionTrainingArguments(tmp_path, use_cpu=True, report_to="none", num_eval_masks=2, seed=0)
    for name in ("llada", "adapter"):
        expected = MaskedDiffusionTrainer(load_model(str(tmp_path / name)), args, eval_dataset=rows).evaluate()
        for number in ("perplexity", "perplexity_low", "perplexity_high"):
            assert found[name, 1][number] == pytest.approx(expected[f"eval_{number}"], rel=1e-5)
            assert found["prism", 1][number] == pytest.approx(found["llada", 1][number], rel=1e-5)
            assert found["adapter", 2][number] == pytest.approx(found["adapter", 1][number], rel=1e-5)
    assert found["adapter", 1]["perplexity"] != pytest.approx(found["prism", 1]["perplexity"], rel=1e-3)
    assert found["llada", 1]["num_rows"] == found["adapter", 2]["num_rows"] == len(rows)
    assert str(tmp_path) not in json.dumps(list(found.values()))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_bound_that_was_cut_off_goes_on_to_the_same_figure(save_chat_model, tmp_path, launch, monkeypatch, streaming):
    save_chat_model(tmp_path / "model")
    text = [json.dumps({"text": f"Ants {n} met {n} bees."}) + "\n" for n in range(40)]
    (tmp_path / "prose.jsonl").write_text("".join(text))
    config = {
        "model_name_or_path": str(tmp_path / "model"),
        "dataset_name": str(tmp_path / "prose.jsonl"),
        "dataset_streaming": streaming,
        "length": 16,
        "batch_size": 4,
        "use_cpu": True,
    }
    bound_sums, batches = MaskedDiffusionTrainer.bound_sums, []

    def counted(self, rows, first_row, num_rows):
        if len(batches) == 3:
            raise KeyboardInterrupt
        batches.append(first_row)
        return bound_sums(self, rows, first_row, num_rows)

    def found(name):
        result = json.loads((tmp_path / name).read_text())
        assert result.pop("seconds") > 0
        return result

    launch("evaluate_bound.py", config | {"output_file": str(tmp_path / "whole.json")}, tmp_path / "whole")
    cut = config | {"output_file": str(tmp_path / "cut.json")}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MaskedDiffusionTrainer, "bound_sums", counted)
        launch("evaluate_bound.py", cut, tmp_path / "cut")
    with (tmp_path / "cut.json.shard-00000").open("a") as shard:
        shard.write('{"part": 3, "rows": [{"su')  # as kill -9 may leave it
    done = list(batches)
    batches[:] = [-1] * 4  # no more interrupts
    monkeypatch.setattr(MaskedDiffusionTrainer, "bound_sums", counted)
    for _ in range(2):
        launch("evaluate_bound.py", cut, tmp_path / "cut")
    assert found("cut.json") == found("whole.json") and not list(tmp_path.glob("*.shard-*"))
    rows = found("whole.json")["num_rows"]
    assert done + batches[4:] == list(range(0, rows, 4)) and rows > 16
    with pytest.raises(ValueError, match="begun with other settings \\(batch_size=4, now 8\\)"):
        launch("evaluate_bound.py", cut | {"batch_size": 8}, tmp_path / "cut")
    if not streaming:
        (tmp_path / "prose.jsonl").write_text("".join(text[:-1]))
        with pytest.raises(ValueError, match="begun with other settings \\(corpus="):
            launch("evaluate_bound.py", cut, tmp_path / "cut")


def test_two_processes_generate_the_lines_of_one(save_chat_model, tmp_path, launch):
    save_chat_model(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("".join(f"x = {n}\n" for n in range(7)))
    config = {
        "model_name_or_path": str(tmp_path / "model"),
        "prompts_file": str(tmp_path / "prompts.txt"),
        "batch_size": 2,
        "use_cpu": True,
        "generation": {"max_new_tokens": 6, "steps": 3, "do_sample": True},
    }
    for processes in (1, 2):
        output = {"output_file": str(tmp_path / f"{processes}.jsonl")}
        launch("generate.py", config | output, tmp_path / f"run{processes}", processes=processes, here=False)
    one, two = ((tmp_path / f"{processes}.jsonl").read_text() for processes in (1, 2))
    assert one == two
    assert [json.loads(line)["prompt"] for line in one.splitlines()] == [f"x = {n}" for n in range(7)]
    assert not list(tmp_path.glob("*.shard-*"))


def test_two_processes_write_the_samples_of_one(save_chat_model, tmp_path, launch):
    save_chat_model(tmp_path / "model")
    config = {
        "model_name_or_path": str(tmp_path / "model"),
        "num_samples": 40,
        "batch_size": 16,
        "use_cpu": True,
        "generation": {"max_new_tokens": 12, "steps": 3, "do_sample": True},
    }
    for processes in (1, 2):
        output = {"output_file": str(tmp_path / f"{processes}.jsonl")}
        launch("generate.py", config | output, tmp_path / f"run{processes}", processes=processes)
    one, two = ((tmp_path / f"{processes}.jsonl").read_text() for processes in (1, 2))
    assert one == two
    assert [len(json.loads(line)["tokens"]) for line in one.splitlines()] == [12] * 40
    manifests = [json.loads((tmp_path / f"{processes}.jsonl.manifest.json").read_text()) for processes in (1, 2)]
    assert all(manifest.pop("seconds") > 0 for manifest in manifests) and manifests[0] == manifests[1]
    assert (manifests[0]["model"], manifests[0]["num_samples"], manifests[0]["forward_passes"]) == ("model", 40, 3)
    shape = {"vocab_size": 300, "n_positions": 32, "n_embd": 32, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**shape, eos_token_id=1, bos_token_id=0)).save_pretrained(tmp_path / "scorer")
    AutoTokenizer.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "scorer")
    scoring = {"samples": [str(tmp_path / "1.jsonl")], "scorer": str(tmp_path / "scorer"), "use_cpu": True}
    for processes in (1, 2):
        launch("evaluate_text.py", scoring, tmp_path / f"scores{processes}", processes=processes)
    for file in ("results.jsonl", "samples.md"):
        assert (tmp_path / "scores1" / file).read_text() == (tmp_path / "scores2" / file).read_text()
    bos = config | {"output_file": str(tmp_path / "bos.jsonl"), "add_bos_token": True}
    launch("generate.py", bos, tmp_path / "bos")
    assert json.loads((tmp_path / "bos.jsonl").read_text().splitlines()[0])["prompt"] == "<|startoftext|>"
    for change, message in (
        ({"prompts_file": "a"}, "set one of the two"),
        ({"apply_chat_template": True}, "no prompt to make a turn"),
        ({"add_bos_token": True, "num_samples": None}, "set num_samples"),
    ):
        with pytest.raises(ValueError, match=message):
            launch("generate.py", bos | {"add_bos_token": False} | change, tmp_path / "wrong")


def test_a_tokenizer_that_is_code_is_read_where_the_user_says_so(save_chat_model, tmp_path, launch):
    save_chat_model(tmp_path / "model")
    code = "from transformers import PreTrainedTokenizerFast\n\n\nclass Mine(PreTrainedTokenizerFast):\n    pass\n"
    (tmp_path / "model" / "own.py").write_text(code)  # a class of its own, as transformers marks the one it loads
    told = tmp_path / "model" / "tokenizer_config.json"
    own = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": [None, "own.Mine"]}}
    told.write_text(json.dumps(json.loads(told.read_text()) | own))
    config = {
        "model_name_or_path": str(tmp_path / "model"),
        "output_file": str(tmp_path / "out.jsonl"),
        "num_samples": 1,
        "use_cpu": True,
        "generation": {"max_new_tokens": 4, "steps": 1},
    }
    with pytest.raises(ValueError, match="set trust_remote_code=True"):
        launch("generate.py", config, tmp_path / "run")
    launch("generate.py", config | {"trust_remote_code": True}, tmp_path / "run")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


def test_chat_over_a_pipe_answers_each_turn_of_the_conversation(save_chat_model, tmp_path):
    tokenizer = save_chat_model(tmp_path / "model")
    model = LladaForMaskedDiffusion.from_pretrained(tmp_path / "model")
    generation = {"max_new_tokens": 8, "block_length": 4}
    expected = []
    for conversation in (["def f(x):", "return"], ["def f(x):"]):  # /clear stands between them
        messages = []
        for turn in conversation:
            messages.append({"role": "user", "content": turn})
            ids = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
            ).input_ids
            new = remask_generate(model, ids, eos_token_id=tokenizer.eos_token_id, **generation)[0, ids.shape[1] :]
            messages.append({"role": "assistant", "content": tokenizer.decode(new, skip_special_tokens=True)})
            expected.append(messages[-1]["content"])
    command = [
        sys.executable,
        str(RECIPES / "chat.py"),
        "--model_name_or_path",
        str(tmp_path / "model"),
        "--use_cpu",
        "true",
        "--generation",
        json.dumps(generation),
    ]
    turns = "def f(x):\nreturn\n\n/clear\ndef f(x):\n/exit\nnever read\n"
    run = subprocess.run(command, input=turns.encode(), capture_output=True, timeout=300)
    assert run.returncode == 0, run.stderr.decode()[-3000:]
    assert run.stdout.decode() == "".join(answer + "\n" for answer in expected)


@pytest.mark.parametrize("path", sorted((RECIPES / "accelerate").glob("zero*.yaml")), ids=lambda path: path.stem)
def test_deepspeed_configs_hold_what_accelerate_reads(path):
    """DeepSpeed needs a GPU to run; its configs are read by accelerate's own parser, which refuses unknown fields."""
    config = load_config_from_file(str(path))
    assert config.distributed_type == DistributedType.DEEPSPEED
    known = set(inspect.signature(DeepSpeedPlugin).parameters) | {"zero_stage", "deepspeed_config_file"}
    fields = {name for name in config.deepspeed_config if name not in ("zero3_init_flag", "zero3_save_16bit_model")}
    assert fields <= known, fields - known
    assert config.deepspeed_config["zero_stage"] == int(path.stem[-1])


# Those of lm-eval are the harness's own, and read by it: tests/evaluation/harness.
CONFIGS = sorted(path for path in (RECIPES / "configs").glob("*.yaml") if command_of_config(path.stem) != "lm-eval")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_names_arguments_that_exist(path, tmp_path):
    command = command_of_config(path.stem)
    recipe = runpy.run_path(str(RECIPES / COMMANDS[command].recipe))
    types = tuple(recipe[name] for name in ARGUMENTS[command])
    given = yaml.safe_load(path.read_text())
    output = "output_file" if "output_file" in given else "output_dir"
    overrides = [f"--{output}", str(tmp_path)]
    if command.startswith("train"):
        overrides += ["--bf16", "false", "--use_cpu", "true"]
    if path.stem == "sudoku_compare":  # which says that it needs one
        overrides += ["--critic_name_or_path", "critic"]
    parsed = parse_arguments(types, ["--config", str(path), *overrides])
    assert [vars(each)[output] for each in parsed if output in vars(each)] == [str(tmp_path)]


@pytest.mark.parametrize(
    ("recipe", "given", "said"),
    [
        ("generate.py", {"generation": {"stpes": 3}}, "'stpes' is not a generation parameter.* Did you mean 'steps'"),
        ("generate.py", {"settings": {"a": {"steps": 0}}}, "steps=0 must be an integer of at least 1"),
        ("chat.py", {"generation": {"oder": "random"}}, "Did you mean 'order'"),
        ("train_mdm.py", {"generation": {"stpes": 3}}, "Did you mean 'steps'"),
        ("train_prism.py", {"generation": {"stpes": 3}}, "Did you mean 'steps'"),
        ("compare.py", {"task": {"name": "infil"}}, "Unknown task 'infil'.* Did you mean 'infill'"),
        ("compare.py", {"task": {"name": "sudoku", "num_puzles": 3}}, "Did you mean 'num_puzzles'"),
        ("compare.py", {"strategies": [{"name": "prism", "num_remaks": 3}]}, "'num_remaks'.* mean 'num_remask'"),
        ("compare.py", {"reference": "prims"}, "reference='prims' is not among .* Did you mean 'prism'"),
        ("compare.py", {"match": {"valeu": 4.0}}, "Unknown field of match 'valeu'.* Did you mean 'value'"),
    ],
)
def test_a_misspelt_key_within_an_argument_ends_a_recipe_with_two_lines(recipe, given, said, tmp_path, capsys):
    needed = {"output_dir": str(tmp_path / "out"), "use_cpu": True}
    if recipe in ("generate.py", "chat.py"):
        needed = {"model_name_or_path": "nowhere", "use_cpu": True}
    if recipe == "generate.py":
        needed["output_file"] = str(tmp_path / "out.jsonl")
    if recipe == "compare.py":
        needed |= {"task": {"name": "sudoku"}, "strategies": [{"name": "none"}, {"name": "prism", "num_remask": 2}]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(needed | given))
    with pytest.raises(SystemExit):
        run_here(recipe, tmp_path / "config.yaml")
    usage, error = capsys.readouterr().err.splitlines()[-2:]
    assert usage.startswith(f"usage: {recipe}") and re.search(f"{recipe}: error: .*{said}", error)
    assert not list(tmp_path.glob("out*"))


def test_a_misspelt_argument_is_named_with_the_right_one(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("output_dir: x\nlerning_rate: 1e-3\n")
    with pytest.raises(ValueError, match=r"'lerning_rate'.*'learning_rate'"):
        parse_arguments((MaskedDiffusionTrainingArguments,), ["--config", str(path)])
    path.write_text("output_dir: x\nlearning_rate: 1e-3\n")
    (args,) = parse_arguments((MaskedDiffusionTrainingArguments,), ["--config", str(path), "--seed", "7"])
    assert args.learning_rate == 1e-3 and args.seed == 7
