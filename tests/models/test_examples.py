"""The examples in the docstrings of the models run, but for those that ask the Hub."""

import inspect
import re

import pytest
import torch

from prism_hf import backbones
from prism_hf.data import SudokuTokenizer
from prism_hf.models import auto, dream, llada, mdlm, prism
from prism_hf.models.prism.peft_model import PeftModelForPrism
from prism_hf.resources import resource_path

DESCRIBED = [
    *(auto.load_model, auto.new_config, PeftModelForPrism),
    *(getattr(room, name) for room in (dream, llada, mdlm, prism) for name in room.__all__),
]
EXAMPLES = {
    each.__name__: inspect.cleandoc(example)
    for each in DESCRIBED
    if inspect.isclass(each) or inspect.isfunction(each)
    for example in re.findall(r"```python\n(.*?)```", each.__doc__ or "", re.DOTALL)
    if not re.search(r"GSAI-ML|Dream-org|kuleshov-group|user/repo", example)
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, monkeypatch):
    for family in ("my_shifted_type", "my_bert"):  # which an example registers
        monkeypatch.setitem(backbones.BACKBONE_ADAPTERS, family, backbones.BackboneAdapter())
    given = {"torch": torch, "tokenizer": SudokuTokenizer(), "canvas": torch.zeros(1, 81, dtype=torch.long)}
    for room in (auto, dream, llada, mdlm, prism):
        given |= vars(room)
    if name == "PrismOutput":
        given["model"] = prism.PrismForMaskedDiffusion.from_pretrained(resource_path("sudoku_prism"))
    exec(EXAMPLES[name], given)


def test_there_are_examples():
    assert {"PrismForMaskedDiffusion", "PrismOutput", "LladaConfig", "MdlmConfig", "BackboneAdapter"} <= EXAMPLES.keys()
