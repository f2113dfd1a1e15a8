"""The examples in the docstrings of the functions of data run."""

import inspect
import json
import re
import textwrap

import pytest
import torch

from prism_hf import data
from prism_hf.resources import resource_path

FUNCTIONS = {name: getattr(data, name) for name in data.__all__ if inspect.isfunction(getattr(data, name))}
BLOCKS = {
    name: block[1]
    for name, function in FUNCTIONS.items()
    if (block := re.search(r"```python\n(.*?)```", inspect.getdoc(function) or "", re.S))
}
# These complete, or train, what other rooms have, or read all of Python's own library.
ELSEWHERE = (
    *("code_answers", "decode_completions", "encode_prompts", "load_code_datasets", "load_rows", "load_training_data"),
    *("load_text_datasets", "python_files", "read_prompts"),
)


@pytest.mark.parametrize("name", sorted(BLOCKS.keys() - set(ELSEWHERE)))
def test_the_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("A tokenizer is learned on this.\n" * 9)
    (tmp_path / "prose.jsonl").write_text(json.dumps({"text": "Ants and bees."}) + "\n")
    row = {"instruction": "Add.", "code": "def add(a, b):\n    return a + b"}
    old = {"prompt": "instruction", "completion": "code"} if name == "load_code" else {}
    row = {next((was for was, now in old.items() if now == key), key): value for key, value in row.items()}
    (tmp_path / "functions.jsonl").write_text(json.dumps(row) + "\n")
    names = {"torch": torch, "resource_path": resource_path} | {each: getattr(data, each) for each in data.__all__}
    names |= {"tokenizer": data.train_byte_level_bpe(["README.md"], vocab_size=300)}
    names |= {each: data.read_sudoku_csv(resource_path(f"sudoku/{each}.csv")) for each in ("puzzles", "solutions")}
    exec(textwrap.dedent(BLOCKS[name]), names)
