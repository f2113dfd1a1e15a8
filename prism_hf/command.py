"""The command `prism-hf`: the recipes by name, launched by accelerate.

The recipes are pages beside the package in a checkout, and within it where it was installed from a wheel (setup.py puts
them there). What accelerate launches is the page itself, as `accelerate launch recipes/...` does, so that both do the
same. An argument that a recipe and accelerate both have is the recipe's; a test lists them.
"""

import argparse
import itertools
import os
import re
import runpy
import subprocess
import sys
import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from .fields import did_you_mean

_PACKAGE = Path(__file__).parent
RECIPES = next((each for each in (_PACKAGE / "recipes", _PACKAGE.parent / "recipes") if each.is_dir()), _PACKAGE)


class Command(NamedTuple):
    """A recipe, and whether accelerate launches it: what a single process does runs in this one."""

    recipe: str
    summary: str
    launched: bool = True


COMMANDS = {
    "train-mdm": Command("train_mdm.py", "Pre-train a masked diffusion model, or go on with one."),
    "train-prism": Command("train_prism.py", "Fine-tune a model with PRISM, whole or as an adapter."),
    "train-token-critic": Command("train_token_critic.py", "Train a second network that judges tokens."),
    "generate": Command("generate.py", "Complete prompts, or write samples from nothing, into a JSONL file."),
    "chat": Command("chat.py", "Chat with a model in this terminal.", launched=False),
    "evaluate sudoku": Command("evaluate_sudoku.py", "Success rate of a model, for a list of sampler settings."),
    "evaluate text": Command("evaluate_text.py", "Perplexity, entropy and MAUVE of samples that files hold."),
    "evaluate bound": Command("evaluate_bound.py", "Perplexity of a model on any corpus, with an interval."),
    "evaluate code": Command("evaluate_code.py", "pass@k of completions that a file holds.", launched=False),
    "evaluate revision": Command("evaluate_revision.py", "Wrong tokens put into programs: found, and mended?"),
    "lm-eval": Command("lm_evaluation.py", "lm-evaluation-harness, with the model prism_hf."),
    "compare": Command("compare.py", "Remasking strategies at equal forward passes: sudoku, text or code."),
}
_BELONGS = re.compile(r"# prism-hf ([a-z -]+) --config \w+\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `prism-hf` with the arguments, by default those of the command line; return the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    try:
        name, rest = command_of(arguments)
        rest = with_paths(rest, "--config", RECIPES / "configs")
        is_launched = COMMANDS[name].launched and not {"-h", "--help"} & set(rest)
        if is_launched:
            rest = [*launch_arguments_of(rest), *rest]  # of an argument given twice, the last counts
        rest = with_paths(rest, "--accelerate_config", RECIPES / "accelerate")
    except ValueError as error:
        print(f"prism-hf: {error}", file=sys.stderr)
        return 2
    os.environ["PRISM_HF_COMMAND"] = f"prism-hf {name}"  # what a recipe calls itself in its help and complaints
    return (launch if is_launched else run_here)(COMMANDS[name], rest)


def usage() -> str:
    """What `prism-hf --help` prints."""
    commands = "\n".join(f"  {name:20}{command.summary}" for name, command in COMMANDS.items())
    return f"""usage: prism-hf COMMAND [--config NAME_OR_FILE] [--argument value ...]

{commands}

`prism-hf COMMAND --help` lists the arguments of a recipe. Those of `accelerate launch`, such as --num_processes 8, go
to it, but `chat` and `evaluate code` are one process. --accelerate_config is its --config_file, by path or name:
{_listed(names_in(RECIPES / "accelerate"))}
`evaluate --samples FILES` is of the task that the files are of.
--config is a YAML file of arguments of both, by path or name. Those that ship, with the command that each is for:
{_configs_of_commands()}"""


def _configs_of_commands() -> str:
    configs = {name: command_of_config(name) for name in names_in(RECIPES / "configs")}
    shown = {command: [name for name, whose in configs.items() if whose == command] for command in COMMANDS}
    return "\n".join(
        textwrap.fill(", ".join(names), 118, initial_indent=f"  {command:20}", subsequent_indent=" " * 22)
        for command, names in shown.items()
        if names
    )


def command_of_config(name: str) -> str:
    """The command that a config which ships is for, which its first line shows."""
    with open(RECIPES / "configs" / f"{name}.yaml", encoding="utf-8") as file:
        line = file.readline()
    found = _BELONGS.fullmatch(line)
    return found[1] if found else ""


def _listed(names: Collection[str]) -> str:
    return textwrap.fill(", ".join(names), 118, initial_indent="  ", subsequent_indent="  ")


def command_of(arguments: list[str]) -> tuple[str, list[str]]:
    """The command that the arguments begin with, of one word or two, and the rest of them.

    `evaluate --samples FILE ...` is `evaluate` of the task that the files are of.

    Raises:
        ValueError: for one that is unknown, with the nearest.
    """
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return name, arguments[words:]
    first = arguments[0]
    if first == "evaluate" and arguments[1:] and arguments[1].startswith("--samples"):
        return f"evaluate {task_of_samples(arguments[1:])}", arguments[1:]
    tasks = [name for name in COMMANDS if name.startswith(f"{first} ")]
    if tasks:
        given = f", not {' '.join(arguments[:2])!r}" if arguments[1:] else ""
        raise ValueError(f"write {' or '.join(map(repr, tasks))}{given}. Other tasks are those of 'compare'.")
    near = did_you_mean(first, (name.split()[0] for name in COMMANDS)) or f" Choose one of {', '.join(COMMANDS)}."
    raise ValueError(f"{first!r} is no command.{near}")


def task_of_samples(arguments: list[str]) -> str:
    """The task of the files of `--samples`: code where rows name a problem, else text.

    Raises:
        ValueError: for a file that is none of rows, or files of both.
    """
    from .data.files import read_bytes, read_object, text_lines

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--samples", nargs="+", default=[])
    tasks = {}
    for path in parser.parse_known_args(arguments)[0].samples:
        line = next(iter(text_lines(read_bytes(path), path).values()), "")
        tasks["code" if "task_id" in read_object(line, f"{path}, line 1") else "text"] = path
    if len(tasks) != 1:
        found = " and ".join(f"{path} is of {task}" for task, path in tasks.items())
        raise ValueError(f"--samples: {found}; evaluate each by itself." if found else "--samples names no file.")
    return next(iter(tasks))


def names_in(folder: Path) -> list[str]:
    """The names of a folder's YAML files."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def with_paths(arguments: list[str], option: str, folder: Path) -> list[str]:
    """The arguments, with the value of an option as a path: that of a file, or of a YAML file of `folder` by its name.

    Raises:
        ValueError: for a value that is neither, with the nearest name.
    """
    found: list[str] = []
    for text in arguments:
        name, equals, value = text.partition("=")
        if name == option and equals:
            found.append(f"{option}={path_of(option, value, folder)}")
        else:
            found.append(path_of(option, text, folder) if found[-1:] == [option] else text)
    return found


def path_of(option: str, value: str, folder: Path) -> str:
    """The path that an option's value stands for. Raises ValueError as `with_paths`."""
    if Path(value).is_file():
        return value
    name = value.removesuffix(".yaml")
    if name not in names_in(folder):
        near = did_you_mean(Path(name).name, names_in(folder)) or " `prism-hf --help` lists the names."
        raise ValueError(f"{option} {value}: neither a file nor a name of those that ship.{near}")
    return str(folder / f"{name}.yaml")


def launch(command: Command, arguments: list[str]) -> int:
    """Run a recipe as `accelerate launch` does, and return its exit status."""
    from accelerate.commands.launch import launch_command, launch_command_parser

    from .jobs.launching import launch_flags

    flags = {f"--{name}": has_value for name, has_value in launch_flags().items()}
    accelerates, recipes = split_arguments(arguments, flags)
    accelerates = [text.replace("--accelerate_config", "--config_file", 1) for text in accelerates]
    try:
        launch_command(launch_command_parser().parse_args([*accelerates, str(RECIPES / command.recipe), *recipes]))
    except subprocess.CalledProcessError as error:  # the recipe has said what was wrong
        return error.returncode if error.returncode > 0 else 128 - error.returncode
    return 0


def launch_arguments_of(arguments: list[str]) -> list[str]:
    """What the file of `--config` holds for `accelerate launch`, as its arguments.

    Raises:
        ValueError: for a file that is no YAML.
    """
    from .jobs.launching import launch_flags
    from .jobs.yaml_files import read_yaml

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    config = parser.parse_known_args(arguments)[0].config
    held = {} if config is None else read_yaml(config)
    given: list[str] = []
    for name, has_value in launch_flags().items():
        value = held.get(name)
        if has_value and value is not None:
            given += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
        elif value:
            given.append(f"--{name}")
    return given


def split_arguments(arguments: list[str], flags: dict[str, bool]) -> tuple[list[str], list[str]]:
    """The arguments of `accelerate launch`, and those of the recipe.

    Args:
        arguments (`list[str]`): All of them, mixed.
        flags (`dict[str, bool]`): Accelerate's, each with whether a value follows.
    """
    accelerates: list[str] = []
    recipes: list[str] = []
    rest = iter(arguments)
    for text in rest:
        name, equals, _ = text.partition("=")
        (accelerates if name in flags else recipes).append(text)
        if flags.get(name) and not equals:
            accelerates.extend(itertools.islice(rest, 1))
    return accelerates, recipes


def run_here(command: Command, arguments: list[str]) -> int:
    """Run a recipe as the rest of this process."""
    sys.argv = [command.recipe, *arguments]
    runpy.run_path(str(RECIPES / command.recipe), run_name="__main__")
    return 0
