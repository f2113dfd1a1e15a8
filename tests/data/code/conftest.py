"""Rows of instructions and code, and a tokenizer for them."""

import ast
import copy
import json

import datasets
import pytest

from prism_hf.data import train_byte_level_bpe

ROWS = [
    {
        "instruction": f"Write a function that adds {n} to a number. " + "Please. " * (n % 7),
        "output": "unused",
        "code": f"def add_{n}(x):\n    return x + {n}" + f"\n\n\n# note {n}" * (n % 5),
        "entry_point": f"add_{n}",
    }
    for n in range(60)
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def trained_tokenizer():
    """A small byte-level BPE with LLaDA's special tokens, learned on the file that defines ``ast``."""
    return train_byte_level_bpe([ast.__file__], vocab_size=400)


@pytest.fixture
def tokenizer(trained_tokenizer):
    """The same, to add tokens to."""
    return copy.deepcopy(trained_tokenizer)


@pytest.fixture(scope="session")
def code_rows():
    return ROWS


@pytest.fixture(scope="session")
def write_jsonl():
    def write(path, rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
