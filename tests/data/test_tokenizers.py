"""Tokenizers that are there, and those that transformers makes of nothing."""

import json

import pytest
from transformers import AutoTokenizer, BertConfig, BertTokenizer, RobertaConfig

from prism_hf.data import DataArguments, SudokuTokenizer, load_evaluation_data, load_training_data
from prism_hf.data.tokenizers import has_vocabulary, read_tokenizer


@pytest.mark.parametrize("config", [BertConfig(), RobertaConfig()], ids=lambda config: config.model_type)
def test_special_tokens_alone_are_no_tokenizer(config, tmp_path):
    config.save_pretrained(tmp_path)
    assert not has_vocabulary(AutoTokenizer.from_pretrained(tmp_path))
    with pytest.raises(ValueError, match="has no tokenizer of text"):
        read_tokenizer(str(tmp_path))


def test_tokenizers_with_a_vocabulary(text_tokenizer, tmp_path):
    assert has_vocabulary(text_tokenizer) and has_vocabulary(SudokuTokenizer())
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nA\n")
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    assert read_tokenizer(str(tmp_path)).convert_tokens_to_ids("A") == 5


def test_code_of_a_tokenizer_runs_where_the_user_says_so(text_tokenizer, tmp_path):
    folder = tmp_path / "model"
    text_tokenizer.save_pretrained(folder)
    code = "from transformers import PreTrainedTokenizerFast\n\n\nclass Mine(PreTrainedTokenizerFast):\n    pass\n"
    (folder / "own.py").write_text(code)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    own = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": [None, "own.Mine"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | own))
    (tmp_path / "prose.txt").write_text("Ants and bees.\n\nBees and ants.")
    given = {"dataset_name": str(tmp_path / "prose.txt"), "dataset_test_split": "train", "held_out": 0}
    data = DataArguments(dataset="text", length=8, **given)
    rest = (data, 0, str(folder))
    for read in (read_tokenizer, lambda name, **kwargs: load_evaluation_data(*rest, **kwargs)[1]):
        with pytest.raises(ValueError, match="is code that comes with it: look at it, and set trust_remote_code=True"):
            read(str(folder))
        assert type(read(str(folder), trust_remote_code=True)).__name__ == "Mine"
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        load_training_data(*rest, evaluates=False)
    assert type(load_training_data(*rest, evaluates=False, trust_remote_code=True)[-1]).__name__ == "Mine"
