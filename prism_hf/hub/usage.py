"""Code that loads a model and lets it generate, as its card shows it.

A model of ours gives its own, `usage_snippet(repo_id, is_adapter)`, made by `generation_snippet`; a foreign one gets
that of `remask_generate`.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from prism_hf._compat import AnyModel, is_adapter, unwrapped
from prism_hf.generation.denoising.canvas import longest_canvas

from .record import record_of

AUTO_IMPORTS = (
    "import prism_hf.models  # tells transformers of the models in prism_hf",
    "from transformers import AutoModelForMaskedLM",
)
AUTO_LOAD = 'model = AutoModelForMaskedLM.from_pretrained("{}")'
CHAT = (
    'messages = [{"role": "user", "content": "Write a function that adds two numbers."}]',
    "input_ids = tokenizer.apply_chat_template(",
    '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
    ").input_ids",
)
LENGTH = 64  # of a text of which nothing else is known


@runtime_checkable
class ShowsItsUse(Protocol):
    """A model that shows how it is used."""

    def usage_snippet(self, repo_id: str, is_adapter: bool = False) -> str: ...


def usage(model: AnyModel, repo_id: str) -> str:
    """Python code that loads `repo_id` and generates with it, by the model's own account where it gives one."""
    inner = unwrapped(model)
    if isinstance(inner, ShowsItsUse):
        return inner.usage_snippet(repo_id, is_adapter(model))
    imports = [*AUTO_IMPORTS, "from prism_hf import remask_generate"]
    call = f"remask_generate(model, input_ids, mask_token_id={mask_of(inner)}"
    return generation_snippet(inner, repo_id, imports, [AUTO_LOAD.format(repo_id)], call)


def mask_of(model: Any) -> int:
    """The mask token that the model was trained with."""
    record = record_of(model)
    return record.mask_token_id if record else model.config.mask_token_id


def generation_snippet(model: Any, repo_id: str, imports: Sequence[str], load: Sequence[str], call: str) -> str:
    """Python code that loads a model, makes an input of what its training record tells, and prints the output.

    `imports` and `load` are its first lines, `repo_id` is where the tokenizer is, and `call` generates from
    `input_ids`, without its closing parenthesis.
    """
    record = record_of(model)
    tokenizer = record.tokenizer if record else None
    imports, lines = list(imports), list(load)
    if tokenizer is not None:
        module, name = "transformers", "AutoTokenizer"
        if type(tokenizer).__module__.startswith("prism_hf."):
            module, name = "prism_hf.data", type(tokenizer).__name__
        imports.append(f"from {module} import {name}")
        lines.append(f'tokenizer = {name}.from_pretrained("{repo_id}")')
    if tokenizer is not None and tokenizer.chat_template:
        lines += [*CHAT, f"output = {call}, max_new_tokens=64)"]
    else:
        length = record.length if record and record.length else min(LENGTH, longest_canvas(model) or LENGTH)
        imports.insert(0, "import torch")
        lines += [
            "# All masks; tokens that you put in place of some of them are kept.",
            f"input_ids = torch.full((1, {length}), {mask_of(model)})",
            f"output = {call})",
        ]
    lines.append("print(tokenizer.decode(output[0]))" if tokenizer is not None else "print(output)")
    return "\n".join([*imports, "", *lines])
