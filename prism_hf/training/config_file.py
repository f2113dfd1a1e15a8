"""Arguments of a recipe, by TRL's parser: a YAML file, and the command line over it.

What `TrlParser` makes of a file is kept: it may hold `env`, and flags of `accelerate launch`, which `prism-hf` gives to
accelerate. What it lacks is added: `extends`, numbers such as 1e-4, and what is wrong with a file, told with the
nearest right name before anything is loaded.
"""

import argparse
import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args, get_origin

import yaml
from transformers import TrainingArguments
from transformers.utils import logging
from trl import DatasetMixtureConfig, TrlParser

from prism_hf._compat import actions_of
from prism_hf.fields import check_value, did_you_mean, fits, kinds_of, parts_of
from prism_hf.jobs.launching import launch_flags
from prism_hf.jobs.yaml_files import Loader, complaint, files_of

from .arguments import INHERITED

logger = logging.get_logger(__name__)

# What may be given for fields of transformers and TRL, where their annotations do not say it.
GIVEN = {TrainingArguments: INHERITED, DatasetMixtureConfig: {"datasets": list[dict]}}


def parse_arguments(dataclass_types: Sequence[type], arguments: list[str] | None = None) -> tuple[Any, ...]:
    """One instance of each dataclass, from `--config file.yaml` and from `--name value`, which wins.

    The file may hold what differs from another one beside it: `extends: other.yaml`. What is text in it is read as on
    the command line, so that one word stands for a list of it. `null` stands, in both, where None is allowed only.
    `env` is a mapping of environment variables to set, and flags of `accelerate launch` are for `prism-hf`.

    What is wrong with the command line, or its file, ends the process as argparse does: two lines, and status 2.

    Args:
        dataclass_types (`Sequence[type]`): The dataclasses, whose fields are the arguments.
        arguments (`list[str]`, *optional*, defaults to the command line): What is parsed.

    Raises:
        ValueError: of `arguments` that are given, for a file that is missing or cannot be read, with the line; for a
            name that no dataclass has, with the nearest one; for a value that its field does not accept.

    Example:
        ```python
        data_args, args = parse_arguments((DataArguments, PrismTrainingArguments))
        ```
    """
    file_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    file_parser.add_argument("--config", help="YAML file with any of the arguments below")
    prog = os.environ.get("PRISM_HF_COMMAND")  # set by that command; otherwise the recipe goes by its file's name
    parser = TrlParser(cast(Any, dataclass_types), prog=prog, parents=[file_parser], allow_abbrev=False)
    parser.usage = "%(prog)s [--config FILE] [--argument value ...]"  # of 200 arguments, the list is enough
    try:
        given, rest = file_parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
        return _parse(parser, given.config, rest)
    except ValueError as error:
        if arguments is not None:
            raise
        parser.error(str(error))


def _parse(parser: TrlParser, config: str | None, rest: list[str]) -> tuple[Any, ...]:
    """What the parser's dataclasses become of a file, and of the rest of the arguments over it."""
    kinds = {name: kind for cls in parser.dataclass_types for name, kind in _kinds_given(cls).items()}
    # The first of each name: of a switch, a second one may turn it off.
    actions = {action.dest: action for action in reversed(actions_of(parser)) if action.dest in kinds}
    for name, action in actions.items():
        if _holds_mappings(kinds[name]):
            action.type = _mapping_or_text if fits("", kinds[name]) else mapping
        if fits(None, kinds[name]):
            action.type = or_null(cast(Callable, action.type))
    if config is not None:
        parser.set_defaults_with_config(**read_file(config, kinds, actions))
    options = {option for action in actions_of(parser) for option in action.option_strings}
    # Before what is required is asked for: it may be there, misspelt.
    _check_known(
        [text for text in rest if text[:2] == "--" and " " not in text and text.split("=")[0] not in options], kinds
    )
    *parsed, _, unknown = parser.parse_args_into_dataclasses(args=rest, return_remaining_strings=True)
    _check_known(unknown, kinds)
    return tuple(parsed)


def _check_known(unknown: Sequence[str], kinds: Iterable[str]) -> None:
    """Raise ValueError for arguments that nobody reads, each with the nearest that somebody does."""
    if unknown:
        launched = launch_flags() if "PRISM_HF_COMMAND" in os.environ else ()
        known = [f"--{name}" for name in (*kinds, *launched, "config")]
        names = [text.split("=")[0] for text in unknown]
        raise ValueError(
            " ".join(f"{name!r} is no argument of this recipe.{did_you_mean(name, known)}" for name in names)
        )


def read_file(path: str, kinds: dict[str, Any], actions: Mapping[str, argparse.Action]) -> dict[str, Any]:
    """The arguments of a YAML file, each of its kind; text that is none is read as on the command line."""
    read = {}
    for file, values in files_of(path):
        _set_environment(values.pop("env", None), file)
        for name, value in values.items():
            if name not in kinds:
                _check_launched(name, kinds, file)
                continue
            if isinstance(value, str) and not fits(value, kinds[name]):
                with contextlib.suppress(ValueError, argparse.ArgumentTypeError):  # what it must be is said below
                    value = cast(Callable, actions[name].type)(value)
                    value = [value] if actions[name].nargs == "+" and value is not None else value
            read[name] = check_value(name, value, kinds[name], str(file))
    return read


def _kinds_given(cls: type) -> dict[str, Any]:
    """What may be given for each field of a dataclass."""
    theirs = [kinds for parent, kinds in GIVEN.items() if issubclass(cls, parent)]
    return functools.reduce(lambda ours, kinds: ours | kinds, theirs, kinds_of(cls))


def _set_environment(variables: Any, file: Path) -> None:
    """Set what a file's `env` holds, as TRL's scripts do."""
    for name, value in check_value("env", variables or {}, dict, str(file)).items():
        os.environ[name] = str(value)


def _check_launched(name: str, kinds: Iterable[str], file: Path) -> None:
    """Raise ValueError for a name that is none of accelerate's either; without `prism-hf`, say that none reads it."""
    if name not in launch_flags():
        raise ValueError(f"{file}: {name!r} is no argument of this recipe.{did_you_mean(name, kinds)}")
    if "PRISM_HF_COMMAND" not in os.environ:
        logger.warning(
            f"{file}: {name} is read by `prism-hf` alone; give it to `accelerate launch` on the command line."
        )


def _holds_mappings(kind: Any) -> bool:
    return any(dict in (get_origin(part), part, *get_args(part)[:1]) for part, _ in parts_of(kind))


def mapping(text: str) -> dict[str, Any]:
    """A dict from the command line, as YAML or JSON: `{steps: 64, order: random}`."""
    expected = "must be a mapping such as '{steps: 64, order: random}'"
    try:
        value = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{expected}; {text!r}{complaint(error)}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{expected}, got {text!r}.")
    return value


def or_null(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """A reader that takes `null` for None, so that the command line can take back what the file says."""
    return functools.wraps(read)(lambda text: None if text == "null" else read(text))


def _mapping_or_text(text: str) -> dict[str, Any] | str:
    return mapping(text) if text.lstrip().startswith("{") else text
