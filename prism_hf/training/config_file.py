"""Arguments of a recipe: a YAML file, and the command line over it."""

import argparse
import contextlib
import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast, get_args, get_origin

import yaml
from transformers import HfArgumentParser, TrainingArguments

from prism_hf._compat import actions_of
from prism_hf.data.files import existing_file
from prism_hf.fields import check_value, did_you_mean, fits, kinds_of, parts_of

from .arguments import INHERITED


class Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number, a date is text, and a mapping has each key once.

    The first two differ from YAML 1.1, for which 1e-4 lacks a point and is text.
    """

    yaml_implicit_resolvers = {
        first: [pair for pair in resolvers if pair[0] != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(None, None, f"the key {key.value!r} stands there twice", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return node


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_arguments(dataclass_types: Sequence[type], arguments: list[str] | None = None) -> tuple[Any, ...]:
    """One instance of each dataclass, from `--config file.yaml` and from `--name value`, which wins.

    The file may hold what differs from another one beside it: `extends: other.yaml`. What is text in it is read as on
    the command line. `null` stands, in both, where None is allowed only.

    Args:
        dataclass_types (`Sequence[type]`): The dataclasses, whose fields are the arguments.
        arguments (`list[str]`, *optional*, defaults to the command line): What is parsed.

    Raises:
        ValueError: for a file that is missing or cannot be read, with the line; for a name that no dataclass has, with
            the nearest one; for a value that its field does not accept.

    Example:
        ```python
        data_args, args = parse_arguments((DataArguments, PrismTrainingArguments))
        ```
    """
    file_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    file_parser.add_argument("--config", help="YAML file with any of the arguments below")
    given, rest = file_parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    prog = os.environ.get("PRISM_HF_COMMAND")  # set by that command; otherwise the recipe goes by its file's name
    parser = HfArgumentParser(cast(Any, dataclass_types), prog=prog, parents=[file_parser], allow_abbrev=False)
    kinds: dict[str, Any] = {}
    for cls in dataclass_types:
        kinds |= kinds_of(cls) | (INHERITED if issubclass(cls, TrainingArguments) else {})
    # The first of each name: of a switch, a second one may turn it off.
    actions = {action.dest: action for action in reversed(actions_of(parser)) if action.dest in kinds}
    for name, action in actions.items():
        if _holds_mappings(kinds[name]):
            action.type = _mapping_or_text if fits("", kinds[name]) else mapping
        if fits(None, kinds[name]):
            action.type = or_null(cast(Callable, action.type))
    if given.config is not None:
        values = read_file(given.config, kinds, {name: cast(Callable, action.type) for name, action in actions.items()})
        parser.set_defaults(**values)
        for name in values:
            actions[name].required = False
    *parsed, _, unknown = parser.parse_args_into_dataclasses(args=rest, return_remaining_strings=True)
    for text in unknown:
        near = did_you_mean(text.split("=")[0], [f"--{name}" for name in kinds])
        raise ValueError(f"{text!r} is no argument of this recipe.{near}")
    return tuple(parsed)


def read_file(path: str, kinds: dict[str, Any], readers: dict[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The arguments of a YAML file, each of its kind; text that is none is read by its reader."""
    read = {}
    for file, values in files_of(path):
        for name, value in values.items():
            if name not in kinds:
                raise ValueError(f"{file}: {name!r} is no argument of this recipe.{did_you_mean(name, kinds)}")
            if isinstance(value, str) and not fits(value, kinds[name]):
                with contextlib.suppress(ValueError, argparse.ArgumentTypeError):  # what it must be is said below
                    value = readers[name](value)
            read[name] = check_value(name, value, kinds[name], str(file))
    return read


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds, over that of the file beside it which it `extends`.

    A key of the file replaces that of the other, be it a mapping too.

    Raises:
        ValueError: with file and line, where one of them holds no mapping, or the file extends itself.
    """
    return {name: value for _, values in files_of(path) for name, value in values.items()}


def files_of(path: str | Path) -> list[tuple[Path, dict[str, Any]]]:
    """A YAML file and those that it extends, the first of all first, each with what it holds itself."""
    found: dict[Path, dict[str, Any]] = {}
    file: Path | None = Path(path)
    while file is not None:
        if file in found:
            raise ValueError(f"{path} extends itself: take `extends` out of {list(found)[-1]}.")
        found[file] = read_mapping(file)
        base = check_value("extends", found[file].pop("extends", None), str | None, str(file))
        file = file.parent / base if base else None
    return list(found.items())[::-1]


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping that one YAML file holds. Raises ValueError with file and line where it holds none."""
    try:
        values = yaml.load(existing_file(path).read_bytes(), Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path}{complaint(error)}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold arguments, such as `seed: 1`, each on a line; got {values!r:.80}.")
    return values


def complaint(error: Exception) -> str:
    """The line and the problem of an error of YAML."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f" is no YAML: {error}."
    return f", line {error.problem_mark.line + 1} is no YAML: {error.problem or error}."


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
