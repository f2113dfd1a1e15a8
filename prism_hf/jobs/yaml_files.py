"""What YAML files hold, of recipes and for their launcher."""

import re
from pathlib import Path
from typing import Any

import yaml

from prism_hf.data.files import existing_file
from prism_hf.fields import check_value


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
