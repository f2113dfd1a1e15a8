"""The generation settings of a request, from the model's arguments and from the task's.

`--gen_kwargs` reach a model as part of what the task says, so that the two cannot be told apart. One rule serves all:
what stands in the model's arguments wins. So a task's `max_gen_toks` is a default, as in LLaDA's and Dream's own
classes, and `max_new_tokens` of the model's arguments the length of a canvas.
"""

import ast
from collections.abc import Mapping
from typing import Any, get_origin

from lm_eval.models.utils import normalize_gen_kwargs

from prism_hf.fields import parts_of
from prism_hf.generation.configuration_remask import FIELDS

MAX_NEW_TOKENS = 256  # the harness's own default
SAMPLES = ("do_sample", "temperature")


def read_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Generation settings of a command line or of Python, each of the type of its field.

    A list may be written `[126081;126348]`, as commas part the arguments. A temperature says whether tokens are drawn.

    Raises:
        ValueError: for a list that cannot be read.
    """
    settings = {name: _read(name, value) for name, value in given.items()}
    if "temperature" in settings and "do_sample" not in settings:
        settings["do_sample"] = settings["temperature"] > 0
    return settings


def _read(name: str, value: Any) -> Any:
    is_list = any((get_origin(kind) or kind) is list for kind, _ in parts_of(FIELDS.get(name, Any)))
    if not isinstance(value, str) or not is_list:
        return value
    try:
        return ast.literal_eval(value.replace(";", ","))
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{name}={value!r} must be a list such as [126081;126348].") from error


def settings_of_request(gen_kwargs: dict[str, Any], chosen: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings of `generate` for a request, and the strings that end its answer.

    Args:
        gen_kwargs (`dict`): What the task and `--gen_kwargs` say.
        chosen (`Mapping`): What the model's arguments say, which wins.
    """
    kwargs: dict[str, Any] = dict(normalize_gen_kwargs(gen_kwargs, MAX_NEW_TOKENS))
    until = [text for text in kwargs.pop("until") if text]
    length = gen_kwargs.get("max_new_tokens") or kwargs.pop("max_gen_toks")
    kwargs.pop("max_gen_toks", None)
    if any(name in chosen for name in SAMPLES):
        kwargs = {name: value for name, value in kwargs.items() if name not in SAMPLES}
    return {"max_new_tokens": length} | kwargs | dict(chosen), until
