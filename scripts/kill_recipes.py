"""Kill the recipes at random moments, start them again until they are done, and compare what they made, bit for bit.

    python scripts/kill_recipes.py --kills 8

For each recipe, at a size that takes seconds on a CPU: one run is left alone. Others are killed (SIGKILL to the process
group), at moments drawn uniformly from the time that the first took, and started again; whenever one gets to its end,
its output is compared with the first's, started once more, and compared with itself. Then the next begins, until there
were as many kills as asked for. Prints a Markdown table; exits with 1 if anything differed.

What tells of time is left out of the comparison: entries of JSON that end in `runtime`, `per_second` or `seconds`, the
column `seconds` of a table, and the log entry of the last call of `train`. Linux only: the recipes run in forks of this
process, which has imported what they need, so that a kill falls into their work and not into their imports.
"""

import argparse
import json
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import prism_hf
from prism_hf import LladaConfig, LladaForMaskedDiffusion
from prism_hf.data import train_byte_level_bpe
from prism_hf.evaluation import isolation_problem

RECIPES = Path(__file__).parents[1] / "recipes"
SOURCES = Path(prism_hf.__file__).parent / "diffusion"
TIMES = ("runtime", "per_second", "seconds")

BERT = {
    "model_type": "bert",
    "model_config": {
        "vocab_size": 11,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 81,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    },
}
TRAINING = {
    "max_steps": 8,
    "save_steps": 2,
    "save_total_limit": 2,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 4,
    "learning_rate": 3e-3,
    "per_device_train_batch_size": 8,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
}
SUDOKU = {"layout": 81, "num_train_samples": 64, "num_eval_samples": 32}
SETTINGS = [
    {"order": "margin", "steps": 6},
    {"order": "random", "do_sample": True, "steps": 8, "remask_strategy": "prism", "num_remask": 2},
]
LORA = {
    "use_peft": True,
    "lora_r": 4,
    "lora_alpha": 8,
    "lora_target_modules": ["q_proj", "v_proj"],
    "lora_dropout": 0.1,
}
CODE = {"dataset": "source_files", "dataset_name": str(SOURCES), "length": 32, "held_out": 0.0}
# By what is written: the recipe and its arguments. Words in capitals stand for what `prepare` makes.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "train_mdm, EMA": (
        "train_mdm.py",
        BERT | TRAINING | SUDOKU | {"ema_decay": 0.9, "predict_with_generate": True, "num_eval_generations": 2},
    ),
    "train_mdm, epochs, Muon": (
        "train_mdm.py",
        BERT | TRAINING | SUDOKU | {"max_steps": -1, "num_train_epochs": 1.5, "use_muon": True},
    ),
    "train_prism, EMA, best checkpoint": (
        "train_prism.py",
        TRAINING
        | SUDOKU
        | {
            "ema_decay": 0.9,
            "load_best_model_at_end": True,
            "metric_for_best_model": "quality_loss",
            "num_draft_tokens": 4,
            "eval_steps": 2,
        },
    ),
    "train_prism, LoRA, nothing held out": (
        "train_prism.py",
        TRAINING | CODE | LORA | {"model_name_or_path": "TEXT_MODEL", "ema_decay": 0.9, "eval_strategy": "no"},
    ),
    "train_token_critic": ("train_token_critic.py", BERT | TRAINING | SUDOKU | {"gradient_accumulation_steps": 2}),
    "evaluate_sudoku": (
        "evaluate_sudoku.py",
        {"settings": SETTINGS, "num_puzzles": 12, "batch_size": 3, "layout": 81, "use_cpu": True},
    ),
    "compare": (
        "compare.py",
        {
            "task": {"name": "sudoku", "layout": 81, "num_puzzles": 6, "num_tuning_puzzles": 3},
            "strategies": [{"name": "none"}, {"name": "prism", "num_remask": [1, 2]}],
            "budgets": [4, 6],
            "batch_size": 2,
            "use_cpu": True,
        },
    ),
    "generate": (
        "generate.py",
        {
            "model_name_or_path": "TEXT_MODEL",
            "prompts_file": "PROMPTS",
            "batch_size": 2,
            "use_cpu": True,
            "generation": {"max_new_tokens": 12, "steps": 12, "do_sample": True},
        },
    ),
    "compare, text": (
        "compare.py",
        {
            "model_name_or_path": "TEXT_MODEL",
            "task": {"name": "text", "length": 12, "num_samples": 6, "scorer": "SCORER"},
            "strategies": [{"name": "none"}, {"name": "random", "num_remask": 1}],
            "reference": "none",
            "budgets": [4, 6],
            "batch_size": 2,
            "use_cpu": True,
        },
    ),
    "evaluate_text": (
        "evaluate_text.py",
        {"samples": ["TEXTS", "OTHER_TEXTS"], "scorer": "SCORER", "scorer_batch_size": 2, "use_cpu": True},
    ),
    "generate, from nothing": (
        "generate.py",
        {
            "model_name_or_path": "TEXT_MODEL",
            "num_samples": 24,
            "batch_size": 2,
            "use_cpu": True,
            "generation": {"max_new_tokens": 12, "steps": 12, "do_sample": True},
        },
    ),
    "generate, settings of a task": (
        "generate.py",
        {
            "model_name_or_path": "TEXT_MODEL",
            "problems_file": "PROBLEMS",
            "num_samples": 2,
            "batch_size": 2,
            "use_cpu": True,
            "generation": {"max_length": 192, "steps": 12, "do_sample": True},
            "settings": {
                "none": {"block_length": 64, "remask_strategy": "none"},
                "confidence": {"block_length": 32, "remask_strategy": "confidence", "num_remask": 10},
            },
        },
    ),
    "evaluate_code": (
        "evaluate_code.py",
        {"problems_file": "PROBLEMS", "samples": "SAMPLES", "k": [1, 2], "isolation": "ISOLATION"},
    ),
}


def prepare(work: Path) -> dict[str, str]:
    """Tiny models of text, files of prompts, problems and samples, and an isolation, by their words in `RUNS`."""
    for recipe in RECIPES.glob("*.py"):
        runpy.run_path(str(recipe))  # imports what it needs
    model, scorer, prompts = work / "text_model", work / "scorer", work / "prompts.txt"
    tokenizer = train_byte_level_bpe(sorted(SOURCES.glob("*.py")), 300)
    special = {name: getattr(tokenizer, name) for name in ("mask_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(0)
    config = LladaConfig(d_model=32, n_layers=2, n_heads=2, mlp_hidden_size=64, vocab_size=len(tokenizer), **special)
    LladaForMaskedDiffusion(config).save_pretrained(model)
    tokenizer.save_pretrained(model)
    AutoTokenizer.from_pretrained(model)  # imports what loads it
    shape = {"vocab_size": len(tokenizer), "n_positions": 32, "n_embd": 32, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**shape, eos_token_id=tokenizer.eos_token_id)).save_pretrained(scorer)
    tokenizer.save_pretrained(scorer)
    prompts.write_text("".join(f"x{number} = {number}\n" for number in range(24)))
    problems, samples = work / "problems.jsonl", work / "samples.jsonl"
    rows = [{"task_id": n, "text": "Give it.", "code": f"def f():\n    return {n}"} for n in range(11, 17)]
    tests = [row | {"test_setup_code": "", "test_list": [f"assert f() == {row['task_id']}"]} for row in rows]
    problems.write_text("".join(json.dumps(row) + "\n" for row in tests))
    answers = [{"task_id": row["task_id"], "completion": rows[n % 4]["code"]} for row in rows for n in range(4)]
    samples.write_text("".join(json.dumps(row) + "\n" for row in answers))
    isolation = "limits" if isolation_problem() else "namespaces"
    files = {"TEXT_MODEL": model, "SCORER": scorer, "PROMPTS": prompts, "PROBLEMS": problems, "SAMPLES": samples}
    for shift, name in enumerate(("TEXTS", "OTHER_TEXTS")):
        files[name] = work / f"{name.lower()}.jsonl"
        texts = [f"{letter} = {shift + number}" for number, letter in enumerate("abcdefgh" * 20)]
        rows = [{"completion": text, "tokens": tokenizer(text).input_ids} for text in texts]
        files[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"ISOLATION": isolation} | {name: str(path) for name, path in files.items()}


def start(recipe: str, config: Path, log: Path) -> int:
    """Run a recipe in a process group of its own. Returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    status = 1
    try:
        sys.argv = [recipe, "--config", str(config)]
        runpy.run_path(str(RECIPES / recipe), run_name="__main__")
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def finish(recipe: str, config: Path, log: Path, kill_after: float | None = None) -> bool:
    """Run a recipe; whether it came to its end before it was killed. Raises RuntimeError if it failed."""
    pid = start(recipe, config, log)
    deadline = None if kill_after is None else time.monotonic() + kill_after
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            if status:
                raise RuntimeError(f"{recipe} failed:\n{log.read_text()[-3000:]}")
            return True
        if deadline is not None and time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return False
        time.sleep(0.002)


def timeless(value: Any) -> Any:
    """A value of JSON without what tells of time."""
    if isinstance(value, dict):
        return {name: timeless(each) for name, each in value.items() if not name.endswith(TIMES)}
    if isinstance(value, list):
        return [timeless(each) for each in value if not (isinstance(each, dict) and "train_runtime" in each)]
    return value


def contents(folder: Path) -> dict[str, Any]:
    """What each file of an output holds, without what tells of time."""
    found = {}
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix in (".json", ".jsonl"):
            text = path.read_text()
            values = [json.loads(text)] if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
            found[name] = json.dumps(timeless(values))  # as text, in which NaN is NaN
        elif path.suffix == ".md" and "| seconds |" in path.read_text():
            found[name] = without_seconds(path.read_text().splitlines())
        elif path.suffix in (".pt", ".bin") and name != "training_args.bin":
            found[name] = torch.load(path, weights_only=False)
        else:
            found[name] = path.read_bytes()
    return found


def without_seconds(lines: list[str]) -> list[list[str]]:
    column, rows = None, []
    for line in lines:
        cells = [cell.strip() for cell in line.split("|")]
        if "seconds" in cells:
            column = cells.index("seconds")
        rows.append([cell for number, cell in enumerate(cells) if number != column or not line.startswith("|")])
    return rows


def is_same(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and torch.equal(one, two)
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(is_same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(is_same, one, two))
    return one == two


def differences(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """The files that are in one only, or not the same in both."""
    return sorted(name for name in one.keys() | two.keys() if name not in one or not is_same(one[name], two.get(name)))


def named(value: Any, names: dict[str, str]) -> Any:
    """Arguments, with what `prepare` made for what stands for it."""
    if isinstance(value, dict):
        return {name: named(each, names) for name, each in value.items()}
    if isinstance(value, list):
        return [named(each, names) for each in value]
    return names.get(value, value) if isinstance(value, str) else value


def try_recipe(label: str, work: Path, kills: int, draws: random.Random, names: dict[str, str]) -> dict[str, Any]:
    """Kill, restart and compare one of `RUNS`. Returns counts, and the names of the files that differ."""
    recipe, arguments = RUNS[label]
    work.mkdir()
    output, config, log = work / "output", work / "config.yaml", work / "log.txt"
    where = {"output_file": str(output / "out.jsonl")} if recipe == "generate.py" else {"output_dir": str(output)}
    config.write_text(yaml.safe_dump(named(arguments, names) | where))
    began = time.monotonic()
    finish(recipe, config, log)
    seconds = time.monotonic() - began
    expected = contents(output)
    done = {"kills": 0, "finished": 0, "differing": [], "changed": []}
    while done["kills"] < kills:
        shutil.rmtree(output)
        while done["kills"] < kills and not finish(recipe, config, log, draws.uniform(0, seconds)):
            done["kills"] += 1
        finish(recipe, config, log)
        made = contents(output)
        done["differing"] += differences(expected, made)
        finish(recipe, config, log)
        done["changed"] += differences(made, contents(output))
        done["finished"] += 1
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=8, help="of each recipe")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), help="recipes to kill")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| recipe | kills | differences | restarts of a finished run | changes |\n|---|---|---|---|---|", flush=True)
    failed = False
    with tempfile.TemporaryDirectory(prefix="kill_recipes-") as work:
        names = prepare(Path(work))
        for number, label in enumerate(options.only):
            draws = random.Random(f"{options.seed} {label}")
            done = try_recipe(label, Path(work) / str(number), options.kills, draws, names)
            shown = [", ".join(sorted(set(done[name]))) or "0" for name in ("differing", "changed")]
            print(f"| {label} | {done['kills']} | {shown[0]} | {done['finished']} | {shown[1]} |", flush=True)
            failed = failed or bool(done["differing"] or done["changed"])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
