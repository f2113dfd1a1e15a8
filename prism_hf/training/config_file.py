"""Arguments of a recipe: a YAML file, and the command line over it."""

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import yaml
from transformers import HfArgumentParser


def parse_arguments(dataclass_types: Sequence[type], arguments: list[str] | None = None) -> tuple[Any, ...]:
    """One instance of each dataclass, from `--config file.yaml` and from `--name value`, which wins.

    Raises:
        ValueError: for a name in the file that no dataclass has, with the nearest one.
    """
    file_parser = argparse.ArgumentParser(add_help=False)
    file_parser.add_argument("--config", help="YAML file with any of the arguments below")
    given, rest = file_parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    parser = HfArgumentParser(dataclass_types, parents=[file_parser])
    for action in parser._actions:
        if action.type is dict:  # which would not read any text
            action.type = mapping
    if given.config is not None:
        with open(given.config, encoding="utf-8") as file:
            values = yaml.safe_load(file) or {}
        actions = {action.dest: action for action in parser._actions}
        for name in values:
            if name not in actions:
                near = get_close_matches(name, actions, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"{given.config}: {name!r} is no argument of this recipe.{hint}")
            actions[name].required = False
        parser.set_defaults(**values)
    *parsed, _ = parser.parse_args_into_dataclasses(args=rest)
    return tuple(parsed)


def mapping(text: str) -> dict[str, Any]:
    """A dict from the command line, as YAML or JSON: `{steps: 64, order: random}`."""
    value = yaml.safe_load(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a mapping such as '{{steps: 64, order: random}}', got {text!r}.")
    return value
