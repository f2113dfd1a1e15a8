"""Instructions and the Python functions that answer them, from the Hub or from files, to canvases to denoise."""

from typing import TYPE_CHECKING

from prism_hf._lazy import lazy_names

if TYPE_CHECKING:
    from .canvases import encode_code, load_code_datasets
    from .loading import load_code, split_code
    from .texts import code_prompt, code_target, first_function_name
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "code_prompt",
    "code_target",
    "encode_code",
    "first_function_name",
    "load_code",
    "load_code_datasets",
    "split_code",
]
