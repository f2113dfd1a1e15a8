"""The command `prism-hf`: what it launches, what it says, and that a wheel holds all that it needs."""

import re
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
from accelerate.commands import launch as accelerate_launch

from prism_hf import command
from prism_hf._compat import actions_of
from prism_hf.jobs.launching import NOT_ACCELERATES
from prism_hf.resources import resource_path

ROOT = Path(__file__).parents[1]
TINY = """
output_dir: out
model_type: bert
model_config: {vocab_size: 11, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 8,
  max_position_embeddings: 81, mask_token_id: 0}
layout: 81
num_train_samples: 16
num_eval_samples: 8
use_cpu: true
report_to: none
disable_tqdm: true
"""


@pytest.fixture(autouse=True)
def own_process(monkeypatch):
    """What a command sets for the rest of its process."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("PRISM_HF_COMMAND", "")


@pytest.fixture
def launched(monkeypatch):
    """What would have been launched, as accelerate reads it."""
    found = []
    monkeypatch.setattr(accelerate_launch, "launch_command", found.append)
    return found


def test_help_lists_commands_and_configs(capsys):
    assert command.main([]) == command.main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name in (*command.COMMANDS, "llada_8b_opc_1gpu", "fsdp2"):
        assert re.search(rf"\b{name}\b", printed)
    assert max(map(len, printed.splitlines())) <= 120
    shown = re.sub(r",\n +", ", ", printed)
    words = " ".join(shown.split())
    assert re.search(
        r" train-prism antibody_prism_laptop, [\w, ]*llada_8b_sft, [\w, ]*sudoku_prism_published train-token-critic ",
        words,
    )
    assert re.search(r"^  compare +antibody_compare, [\w, ]*code_compare, .*text_compare$", shown, re.MULTILINE)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_config_begins_with_what_runs_it(path):
    whose = command.command_of_config(path.stem)
    assert whose in command.COMMANDS
    assert path.read_text().startswith(f"# prism-hf {whose} --config {path.stem}\n")


def test_a_config_may_hold_flags_of_accelerate_which_the_command_line_overrules(launched, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text("multi_gpu: true\nnum_processes: 2\naccelerate_config: zero2\nseed: 1\n")
    Path("mine.yaml").write_text("extends: base.yaml\nmain_process_port: 29501\nmixed_precision: bf16\n")
    assert command.main(["train-mdm", "--config", "mine.yaml", "--num_processes", "4", "--max_steps", "1"]) == 0
    (args,) = launched
    assert (args.num_processes, args.multi_gpu, args.main_process_port, args.mixed_precision) == (
        4,
        True,
        29501,
        "bf16",
    )
    assert args.config_file == str(ROOT / "recipes" / "accelerate" / "zero2.yaml")
    assert args.training_script_args == ["--config", "mine.yaml", "--max_steps", "1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [("seed: [", "mine.yaml, line 1 is no YAML"), ("accelerate_config: zero4", "Did you mean 'zero")],
)
def test_a_config_that_cannot_be_launched_is_told_in_a_sentence(text, said, launched, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(text)
    assert command.main(["train-mdm", "--config", "mine.yaml"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("prism-hf: ") and said in printed and not launched


def test_what_cannot_chat_says_so():
    message = r"sudoku_prism has no tokenizer of text, which is read and written here: name a model of text"
    with pytest.raises(ValueError, match=message):
        command.main(["chat", "--model_name_or_path", resource_path("sudoku_prism"), "--use_cpu"])


@pytest.mark.parametrize("name", command.COMMANDS)
def test_a_commands_help_is_that_of_its_recipe_whose_arguments_win(name, capsys):
    with pytest.raises(SystemExit) as raised:
        command.main([*name.split(), "--help"])
    printed = capsys.readouterr().out
    assert raised.value.code == 0
    assert printed.startswith(f"usage: prism-hf {name} ")
    recipes = set(re.findall(r"^  (?:-\w+, )?--(\w+)", printed, re.MULTILINE)) - {"help"}
    accelerates = {action.dest for action in actions_of(accelerate_launch.launch_command_parser())}
    assert recipes
    assert recipes & accelerates <= set(NOT_ACCELERATES)


def test_flags_of_accelerate_go_there_and_the_rest_to_the_recipe(launched):
    words = "train-mdm --num_processes 2 --config sudoku_mdm_laptop --multi-gpu --max_steps 1 --main_process_port=29501"
    assert command.main([*words.split(), "--gradient_accumulation_steps", "2", "--accelerate_config", "zero2"]) == 0
    (args,) = launched
    assert args.training_script == str(ROOT / "recipes" / "train_mdm.py")
    config = str(ROOT / "recipes" / "configs" / "sudoku_mdm_laptop.yaml")
    assert args.training_script_args == f"--config {config} --max_steps 1 --gradient_accumulation_steps 2".split()
    assert (args.num_processes, args.multi_gpu, args.main_process_port) == (2, True, 29501)
    assert args.config_file == str(ROOT / "recipes" / "accelerate" / "zero2.yaml")


def test_a_config_is_a_file_or_a_name(launched, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sudoku_compare.yaml").write_text("seed: 1")
    Path("text_compare").mkdir()  # an output folder
    shipped = ROOT / "recipes" / "configs"
    for given, path in {
        "--config=sudoku_compare.yaml": "sudoku_compare.yaml",
        "--config=sudoku_compare": shipped / "sudoku_compare.yaml",
        "--config=text_compare": shipped / "text_compare.yaml",
        "--config=code_compare.yaml": shipped / "code_compare.yaml",
    }.items():
        assert command.main(["compare", given]) == 0
        assert launched[-1].training_script_args == [f"--config={path}"]


def test_samples_tell_what_evaluates_them(tmp_path, capsys):
    text, code = tmp_path / "text.jsonl", tmp_path / "code.jsonl"
    text.write_text('{"completion": "a"}\n')
    code.write_text('\n{"task_id": 11, "completion": "a"}\n{"task_id": 12, "completion": "b"}\n')
    rest = ["--samples", str(text), str(text), "--scorer", "gpt2"]
    assert command.command_of(["evaluate", *rest]) == ("evaluate text", rest)
    assert command.command_of(["evaluate", f"--samples={code}"]) == ("evaluate code", [f"--samples={code}"])
    for files, said in (
        ([text, code], f"{text} is of text and {code} is of code; evaluate each by itself"),
        ([tmp_path / "txt.jsonl"], "Did you mean"),
    ):
        assert command.main(["evaluate", "--samples", *map(str, files)]) == 2
        assert said in capsys.readouterr().err


EVALUATIONS = "write " + " or ".join(f"'evaluate {task}'" for task in ("sudoku", "text", "bound", "code", "revision"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("trian-mdm", "'trian-mdm' is no command. Did you mean 'train-mdm'?"),
        ("evaluat sudoku", "Did you mean 'evaluate'?"),
        ("fly", "Choose one of train-mdm, "),
        (
            "evaluate",
            f"{EVALUATIONS}.",
        ),
        ("evaluate --config text_compare", "Other tasks are those of 'compare'"),
        (
            "evaluate sudoko",
            f"{EVALUATIONS}, not 'evaluate sudoko'",
        ),
        ("train-prism --config llada_8b_ocp", "Did you mean 'llada_8b_opc'?"),
        ("train-prism --config configs/llada_8b_ocp.yaml", "Did you mean 'llada_8b_opc'?"),
        ("train-prism --accelerate_config zero4", "neither a file nor a name of those that ship. Did you mean 'zero"),
    ],
)
def test_a_wrong_name_gets_the_nearest_right_one(words, said, launched, capsys):
    assert command.main(words.split()) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert not printed.out
    assert not launched


@pytest.mark.parametrize(("code", "status"), [(3, 3), (-9, 137)])
def test_the_exit_status_is_that_of_the_recipe(code, status, monkeypatch):
    def fail(args):
        raise subprocess.CalledProcessError(code, "recipe")

    monkeypatch.setattr(accelerate_launch, "launch_command", fail)
    assert command.main(["generate"]) == status


def test_the_entry_point_is_the_command():
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["options.entry_points"]["console_scripts"].strip() == "prism-hf = prism_hf.command:main"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """What a wheel is built of, without the weights of the models."""
    source = tmp_path_factory.mktemp("source")
    for name in ("prism_hf", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    return source


@pytest.fixture(scope="module")
def installed(source, tmp_path_factory):
    """A folder with what is in the wheel, as pip installs one of Python alone."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", folder, source], check=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "installed")
    return folder / "installed"


@pytest.fixture
def empty(tmp_path, installed, monkeypatch):
    """The working directory, which holds only a config; Python imports what is installed."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(installed))
    return tmp_path


def files_in(folder):
    return {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def test_a_source_distribution_holds_what_builds_and_tests_it(tmp_path):
    egg_info = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(egg_info, cwd=ROOT, check=True, capture_output=True)
    held = set((tmp_path / "prism_hf.egg-info" / "SOURCES.txt").read_text().split())
    folders = ("prism_hf", "recipes", "scripts", "tests", "docs", "examples")
    found = {path for folder in folders for path in files_in(ROOT / folder)}
    found |= {path for path in ROOT.iterdir() if path.suffix in (".md", ".yml", ".cff", ".cfg", ".toml")}
    assert {path.relative_to(ROOT).as_posix() for path in found} | {"LICENSE", "MANIFEST.in", "setup.py"} <= held


def test_a_wheel_holds_the_package_and_the_recipes(source, installed):
    held = {path.relative_to(installed / "prism_hf") for path in files_in(installed / "prism_hf")}
    of_package = {path.relative_to(source / "prism_hf") for path in files_in(source / "prism_hf")}
    assert held == of_package | {path.relative_to(source) for path in files_in(source / "recipes")}


def test_a_wheel_knows_its_configs(empty):
    run = subprocess.run([sys.executable, "-m", "prism_hf", "--help"], capture_output=True, text=True, check=True)
    assert "llada_8b_opc_1gpu" in run.stdout


def test_recipes_of_a_wheel_train_in_an_empty_folder(empty, installed, monkeypatch):
    monkeypatch.setattr(command, "RECIPES", installed / "prism_hf" / "recipes")
    assert command.main(["train-mdm", "--config", "tiny.yaml", "--max_steps", "1", "--num_processes", "1"]) == 0
    assert (empty / "out" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_wheel_trains_two_processes(empty):
    words = ["train-mdm", "--config", "tiny.yaml", "--max_steps", "1", "--multi_gpu", "--num_processes", "2"]
    subprocess.run([sys.executable, "-m", "prism_hf", *words], check=True)
    assert (empty / "out" / "model.safetensors").exists()


def test_a_wrong_argument_is_told_without_a_page_of_arguments(capsys):
    with pytest.raises(SystemExit):
        command.main(["chat"])
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_model_that_is_nowhere_is_named():
    with pytest.raises(OSError, match="^nowhere is no model here"):
        command.main(["chat", "--model_name_or_path", "nowhere", "--use_cpu"])
