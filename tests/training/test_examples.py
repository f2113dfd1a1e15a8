"""The examples in the docstrings of training run, with a tiny model in the place of those of the Hub, for one step."""

import inspect
import re
import textwrap

import pytest
import torch

import prism_hf
from prism_hf import PrismForMaskedDiffusion, training
from prism_hf.data import DataArguments

EXAMPLES = {
    name: example[1]
    for name in training.__all__
    if (example := re.search(r"```python\n(.*?)```", inspect.getdoc(getattr(training, name)) or "", re.DOTALL))
}
ROWS = [{"text": "A text."}, {"text": "Another, longer text."}]
HERE = {
    r'"(answerdotai/ModernBERT-base|GSAI-ML/LLaDA-8B-Base)"': '"runs/mdm"',
    r"load_dataset\(.*?\)": "raw_rows",
    r"max_steps=1000": "max_steps=1, report_to='none'",
    r"bf16=True": "use_cpu=True",
}


@pytest.fixture
def given(text_tokenizer, text_model, tmp_path, monkeypatch):
    """What the examples take as given, in a folder with the model that they read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["recipe", "--output_dir", "out"])
    text_model().save_pretrained("runs/mdm")
    text_tokenizer.save_pretrained("runs/mdm")
    args = training.PrismTrainingArguments("runs/prism", max_steps=1, report_to="none", use_cpu=True)
    model = PrismForMaskedDiffusion.from_pretrained("runs/mdm")
    trainer = training.PrismTrainer(model, args, train_dataset=ROWS, processing_class=text_tokenizer)
    names = {name: getattr(room, name) for room in (prism_hf, training) for name in room.__all__}
    rows = 2 * [dict(text_tokenizer("A text."))]
    masks = torch.full((2, 8), text_tokenizer.mask_token_id)
    judged = {"puzzles": masks, "is_solved": lambda puzzles, completed: torch.ones(len(completed))}
    return names | judged | {"trainer": trainer, "rows": rows, "raw_rows": ROWS, "DataArguments": DataArguments}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, given):
    example = textwrap.dedent(EXAMPLES[name])
    for there, here in HERE.items():
        example = re.sub(there, here, example)
    exec(example, given)


def test_everything_has_one():
    assert EXAMPLES.keys() == {name for name in training.__all__ if callable(getattr(training, name))}
