"""Tokenizers that are there, and those that transformers makes of nothing."""

import pytest
from transformers import AutoTokenizer, BertConfig, BertTokenizer, RobertaConfig

from prism_hf.data import SudokuTokenizer
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
