"""The examples in the docstrings of generation run, but for those that ask the Hub."""

import inspect
import os
import re
import textwrap
from dataclasses import dataclass

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, GenerationMixin

from prism_hf import generation
from prism_hf.data import SudokuTokenizer
from prism_hf.generation import STRATEGIES

NAMED = {name: inspect.cleandoc(getattr(generation, name).__doc__ or "") for name in generation.__all__}
BLOCKS = {
    name: re.search(r"```python\n(.*?)```", doc, re.S)[1] for name, doc in NAMED.items() if "```python" in doc
} | {name: re.search(r"\*\*Example\*\*:\s+`(.*?)`\n", cls.__doc__, re.S)[1] for name, cls in STRATEGIES.items()}
# Of another room, or of the Hub.
ELSEWHERE = ("generate_to_jsonl", "RemaskGenerationMixin")
CONFIG = BertConfig(
    vocab_size=11,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=300,
    mask_token_id=0,
)


class GenerativeBert(GenerationMixin, BertForMaskedLM):
    """Of transformers' own `generate`."""


@pytest.mark.parametrize("name", sorted(BLOCKS.keys() - set(ELSEWHERE)))
def test_the_example_runs(name, prism, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = prism(CONFIG)
    names = vars(generation) | {each: getattr(generation, each) for each in generation.__all__}
    names |= {"torch": torch, "dataclass": dataclass, "tokenizer": SudokuTokenizer(), "critic": model}
    names |= {"model": model, "input_ids": torch.tensor([[5, 0, 6, 7]]), "load_model": lambda place: model}
    if name == "as_custom_generate":
        names["model"] = GenerativeBert(CONFIG).eval()
    before = set(STRATEGIES)
    try:
        exec(textwrap.dedent(BLOCKS[name]), names)
    finally:
        for added in set(STRATEGIES) - before:
            del STRATEGIES[added]
    assert set(os.listdir(tmp_path)) <= {"trajectory.html"}
