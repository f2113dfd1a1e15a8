"""Arguments from YAML and from the command line: read as meant, or refused with file, line, name and remedy."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from trl.scripts.utils import DatasetConfig

from prism_hf import PrismTrainingArguments
from prism_hf.data import DataArguments
from prism_hf.fields import Count, check_fields
from prism_hf.training import parse_arguments


@dataclass
class Nested:
    peft: dict | None = None
    settings: list[dict] | None = None
    orders: list[str] = field(default_factory=lambda: ["random"])
    budgets: list[Count] = field(default_factory=lambda: [51])
    warm: bool = True

    __post_init__ = check_fields


def parse(tmp_path, text=None, *rest, types=(Nested, DataArguments, PrismTrainingArguments)):
    arguments = ["--output_dir", str(tmp_path), "--use_cpu", "true", *rest]
    if text is not None:
        path = tmp_path / "config.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        arguments += ["--config", str(path)]
    return parse_arguments(types, arguments)


def test_what_is_meant_is_read(tmp_path):
    text = """
learning_rate: 1e-4
weight_decay: "0.1"
max_steps: '8'
bf16: "no"
warm: no
head_learning_rate: null
run_name: 2024-01-01
lr_scheduler_kwargs: {num_cycles: 5}
orders: random
peft: {r: 4, lora_dropout: 1e-1}
settings: [&first {steps: 4, order: margin}, {<<: *first, steps: 8}]
"""
    nested, data, args = parse(tmp_path, text, "--seed", "7", "--budgets", "5", "6", "--held_out", "0.1")
    assert args.learning_rate == 1e-4 and args.weight_decay == 0.1 and args.max_steps == 8 and args.bf16 is False
    assert args.head_learning_rate is None and args.run_name == "2024-01-01" and args.seed == 7
    assert args.lr_scheduler_kwargs == {"num_cycles": 5} and nested.warm is False and nested.budgets == [5, 6]
    assert nested.peft == {"r": 4, "lora_dropout": 0.1} and nested.settings[1] == {"steps": 8, "order": "margin"}
    assert data.held_out == 0.1 and nested.orders == ["random"]
    (nested, *_), (with_bom, *_) = parse(tmp_path, None, "--peft", "{r: 4}"), parse(tmp_path, b"\xef\xbb\xbfwarm: no")
    assert nested.peft == {"r": 4} and with_bom.warm is False
    nested, _, args = parse(
        tmp_path,
        "peft: {r: 4}\nema_decay: 0.9\nrun_name: a\nreport_to: none",
        "--peft",
        "null",
        "--ema_decay",
        "null",
        "--run_name",
        "null",
    )
    assert (nested.peft, args.ema_decay, args.report_to) == (None, None, []) and args.run_name != "a"
    with pytest.raises(SystemExit):
        parse(tmp_path, None, "--seed", "null")
    assert parse(tmp_path, None, "--run_name", "-- not an option")[-1].run_name == "-- not an option"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "must hold arguments"),
        ("- seed\n- 1", "must hold arguments.*got \\['seed', 1\\]"),
        ("seed", "must hold arguments.*'seed'"),
        ("seed: 1\nseed: 2", "line 2 .*'seed' stands there twice"),
        ("peft: {r: 4,\n  r: 8}", "line 2 .*'r' stands there twice"),
        ("seed: 1\n\tmax_steps: 2", "line 2 is no YAML"),
        ("seed: 1\n max_steps: 2", "line 2 is no YAML"),
        ("peft: {r: 4", "line 1 is no YAML"),
        ("a: 1\n---\nb: 2", "no YAML: but found another document"),
        ("seed: !!python/object:os.system x", "no YAML: could not determine a constructor"),
        ("output_dir: caf\u00e9".encode("latin-1"), "no YAML: .*(invalid|unexpected)"),
        ("lerning_rate: 1e-3", "'lerning_rate' is no argument of this recipe. Did you mean 'learning_rate'?"),
        ("1: 2", "1 is no argument"),
        ("seed: [1, 2]", "seed=\\[1, 2\\] of .*config.yaml must be an integer from 0"),
        ("seed: 1.0", "seed=1.0 .* Write 1."),
        ("seed: 2024-01-01", "seed='2024-01-01' .* an integer"),
        ("seed: true", "seed=True"),
        ("seed: null", "seed=None"),
        ("learning_rate: fast", "learning_rate='fast' of .* must be a number"),
        ("learning_rate: .nan", "learning_rate=nan"),
        ("learning_rate: -1e-4", "learning_rate=-0.0001"),
        ("bf16: maybe", "bf16='maybe' .* True or False"),
        ("bf16: 2", "bf16=2"),
        ("dataset_name: 5", "dataset_name=5 .* must be text or None. Write it as text, in quotes."),
        ("run_name: no", "run_name=False"),
        ("layout: 80", "layout=80 .* one of 89, 81"),
        ("dataset: sudko", "Did you mean 'sudoku'"),
        ("blanks: 1.5", "blanks=1.5 .* an integer from 0 to 56 or None"),
        ("held_out: -1", "held_out=-1 .* of at least 0"),
        ("peft: r=4", "peft='r=4' .* a mapping or None"),
        ("settings: {steps: 4}", "settings={'steps': 4} .* a list, each a mapping"),
        ("settings: [4]", "settings=\\[4\\]"),
        ("orders: {a: 1}", "orders={'a': 1} .* a list, each text"),
        ("budgets: [5, -1]", "budgets=\\[5, -1\\] .* a list, each an integer of at least 0"),
        ("draft_selection: semi", "draft_selection='semi'"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_reason(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"(?s)config.yaml.*{message}|{message}") as error:
        parse(tmp_path, text)
    assert "config.yaml" in str(error.value)


def test_a_file_that_is_not_there_is_named_with_the_nearest(tmp_path):
    (tmp_path / "laptop.yaml").write_text("seed: 1")
    with pytest.raises(ValueError, match="There is no file .*labtop.yaml. Did you mean .*laptop.yaml"):
        parse_arguments((Nested,), ["--config", str(tmp_path / "labtop.yaml")])


def test_a_file_holds_what_differs_from_another(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "laptop.yaml").write_text(
        "seed: 1\npeft: {r: 4, lora_dropout: 0.1}\nbudgets: [5]\nwarm: no"
    )
    (tmp_path / "configs" / "again.yaml").write_text("extends: laptop.yaml\nseed: 2\nwarm: yes")
    nested, _, args = parse(tmp_path, "extends: configs/again.yaml\npeft: {r: 8}", "--budgets", "6")
    assert (nested.peft, nested.budgets, nested.warm, args.seed) == ({"r": 8}, [6], True, 2)
    with pytest.raises(ValueError, match=r"There is no file .*configs/lapdog.yaml. Did you mean .*laptop.yaml"):
        parse(tmp_path, "extends: configs/lapdog.yaml")
    with pytest.raises(ValueError, match=r"config.yaml extends itself: take `extends` out of .*round.yaml"):
        (tmp_path / "round.yaml").write_text("extends: config.yaml")
        parse(tmp_path, "extends: round.yaml")
    with pytest.raises(ValueError, match=r"again.yaml: 'sead' is no argument of this recipe. Did you mean 'seed'"):
        (tmp_path / "configs" / "again.yaml").write_text("sead: 1")
        parse(tmp_path, "extends: configs/again.yaml")


@pytest.mark.parametrize(
    "rest, message",
    [
        (["--lerning_rate", "1"], "'--lerning_rate' is no argument of this recipe. Did you mean '--learning_rate'?"),
        (["--learning", "1"], "'--learning' is no argument"),
        (["stray"], "'stray' is no argument"),
    ],
)
def test_unknown_names_of_a_command_line(tmp_path, rest, message):
    with pytest.raises(ValueError, match=message):
        parse(tmp_path, None, *rest)


@pytest.mark.parametrize(
    "rest, message",
    [
        (["--peft", "{r: 4"], "argument --peft: must be a mapping .*no YAML"),
        (["--peft", "r=4"], "argument --peft: must be a mapping"),
        (["--lr_scheduler_kwargs", "{num_cycles: 5"], "argument --lr_scheduler_kwargs.*must be a mapping"),
        (["--seed", "1.5"], "argument --seed: invalid int value: '1.5'"),
        (["--layout", "eighty"], "argument --layout: invalid int value"),
        (["--bf16", "maybe"], "argument --bf16"),
    ],
)
def test_wrong_values_of_a_command_line(tmp_path, rest, message, capsys):
    with pytest.raises(SystemExit):
        parse(tmp_path, None, *rest)
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        (
            ["--sead", "1", "--lerning_rate=1"],
            ["'--sead' .* mean '--seed'", "'--lerning_rate' .* mean '--learning_rate'"],
        ),
        (["--outptu_dir", "x"], ["'--outptu_dir' is no argument of this recipe. Did you mean '--output_dir'"]),
        (["--output_dir", "x", "--confgi", "y"], ["mean '--config'"]),
        (["--output_dir", "x", "--num_procesess", "2"], ["mean '--num_processes'"]),
        (["--output_dir", "x", "stray"], ["'stray' is no argument of this recipe"]),
        (["--output_dir", "x", "--blanks", "70"], ["blanks=70 of DataArguments must be an integer from 0 to 56"]),
        (["--config", "nowhere.yaml"], ["There is no file nowhere.yaml"]),
    ],
)
def test_a_wrong_command_line_ends_with_two_lines(rest, said, monkeypatch, capsys):
    monkeypatch.setenv("PRISM_HF_COMMAND", "prism-hf train-prism")
    monkeypatch.setattr("sys.argv", ["train_prism.py", "--use_cpu", "true", *rest])
    with pytest.raises(SystemExit) as raised:
        parse_arguments((Nested, DataArguments, PrismTrainingArguments))
    usage, error = capsys.readouterr().err.splitlines()
    assert raised.value.code == 2
    assert usage == "usage: prism-hf train-prism [--config FILE] [--argument value ...]"
    for words in said:
        assert re.match(f"prism-hf train-prism: error: .*{words}", error)


def test_a_wrong_key_of_a_file_ends_a_recipe_with_two_lines(tmp_path):
    (tmp_path / "mine.yaml").write_text("output_dir: x\nlerning_rate: 1e-3\n")
    recipe = Path(__file__).parents[2] / "recipes" / "train_prism.py"
    run = subprocess.run(
        [sys.executable, recipe, "--config", "mine.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    usage, error = run.stderr.splitlines()
    assert run.returncode == 2 and usage.startswith("usage: train_prism.py [--config FILE]")
    assert error == (
        "train_prism.py: error: mine.yaml: 'lerning_rate' is no argument of this recipe. Did you mean 'learning_rate'?"
    )


def test_a_file_sets_the_environment_as_trls_do(tmp_path, monkeypatch):
    monkeypatch.setenv("A_VARIABLE", "before")
    _, _, args = parse(tmp_path, "env: {A_VARIABLE: 3}\nseed: 1")
    assert os.environ["A_VARIABLE"] == "3" and args.seed == 1
    with pytest.raises(ValueError, match=r"env='A=3' of .*config.yaml must be a mapping"):
        parse(tmp_path, "env: A=3")


def test_what_a_file_holds_for_accelerate_is_not_the_recipes(tmp_path, caplog, monkeypatch):
    text = "num_processes: 2\nmixed_precision: bf16\naccelerate_config: fsdp2\nseed: 1"
    *_, args = parse(tmp_path, text)
    assert args.seed == 1 and sum("is read by `prism-hf` alone" in message for message in caplog.messages) == 3
    caplog.clear()
    monkeypatch.setenv("PRISM_HF_COMMAND", "prism-hf train-prism")
    parse(tmp_path, text)
    assert not caplog.messages
    with pytest.raises(ValueError, match="'num_procesess' is no argument"):
        parse(tmp_path, "num_procesess: 2")


def test_a_mixture_is_one_of_trls(tmp_path):
    _, data, _ = parse(tmp_path, "datasets: [{path: a, split: 'train[:9]'}, {path: b, columns: [text]}]")
    assert data.datasets == [DatasetConfig("a", split="train[:9]"), DatasetConfig("b", columns=["text"])]
    assert data.dataset == "rows"
    _, data, _ = parse(tmp_path, None, "--datasets", "{path: a}", "{path: b}")
    assert [each.path for each in data.datasets] == ["a", "b"]
    with pytest.raises(ValueError, match="Unknown field of datasets 'pth'.* Did you mean 'path'?"):
        parse(tmp_path, "datasets: [{pth: a}]")
