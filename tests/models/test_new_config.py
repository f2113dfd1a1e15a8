"""The config of a new model takes the tokenizer's ids and refuses settings that it would not use."""

import pytest

from prism_hf.data import SudokuTokenizer
from prism_hf.models.auto import new_config


def test_ids_are_those_of_the_tokenizer_where_nothing_else_is_said():
    config = new_config("mdlm", SudokuTokenizer(), {"hidden_dim": 8, "n_heads": 2, "cond_dim": 4, "n_blocks": 1})
    assert config.vocab_size == 11 and config.mask_token_id == 0
    assert new_config("bert", SudokuTokenizer(), {"mask_token_id": 3, "hidden_size": 24}).mask_token_id == 3


@pytest.mark.parametrize(
    "model_type, settings, message",
    [
        ("mdml", {}, "Unknown model_type 'mdml'. Did you mean 'mdlm'?"),
        ("bert", {"hiden_size": 8}, "Unknown field of model_config 'hiden_size'.*'hidden_size'"),
        ("bert", {"hidden_size": "8"}, "model_config=.*hidden_size"),
        ("mdlm", {"n_heads": 0}, "n_heads=0 of MdlmConfig must be an integer of at least 1"),
        ("mdlm", {"dropout": 1.5}, "dropout=1.5 of MdlmConfig must be a number from 0 to 1"),
        ("llada", {"attention_dropout": float("nan")}, "attention_dropout=nan"),
        ("llada", {"n_layers": 0}, "n_layers=0 of LladaConfig"),
    ],
)
def test_mistakes_are_named(model_type, settings, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        new_config(model_type, SudokuTokenizer(), settings)
