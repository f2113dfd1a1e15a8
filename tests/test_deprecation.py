"""Old names serve, and say what they are called now."""

import warnings
from pathlib import Path

import pytest
import torch

from prism_hf import LladaConfig, LladaForMaskedDiffusion, RemaskGenerationConfig
from prism_hf._deprecation import renamed_arguments, with_new_names
from prism_hf.resources import resource_path


@renamed_arguments(cache="cache_implementation")
def plan(steps: int, cache_implementation: str = "none") -> tuple[int, str]:
    return steps, cache_implementation


def test_an_old_argument_serves_and_warns_where_the_call_is():
    with pytest.warns(FutureWarning, match="cache of plan is now called cache_implementation") as caught:
        assert plan(2, cache="dual") == (2, "dual")
    assert [warning.filename for warning in caught] == [__file__]


def test_new_arguments_do_not_warn(recwarn):
    assert plan(2, cache_implementation="dual") == (2, "dual")
    assert not recwarn


def test_a_key_under_both_names_is_refused():
    with pytest.raises(ValueError, match="cache='dual' of a file is now called cache_implementation"):
        with_new_names({"cache": "dual", "cache_implementation": None}, {"cache": "cache_implementation"}, "a file")


def test_other_keys_stay_in_their_order():
    with pytest.warns(FutureWarning):
        renamed = with_new_names({"a": 1, "b": 2, "c": 3}, {"b": "new"})
    assert list(renamed.items()) == [("a", 1), ("new", 2), ("c", 3)]


def shown(call):
    """What a user sees of the warnings of a call, by the file in whose line each is."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        call()
    return [warning.filename for warning in caught if "is now called" in str(warning.message)]


def test_a_user_sees_one_warning_at_the_own_line_through_the_libraries_between(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 2, "eos_token_id": None, "pad_token_id": None}
    model = LladaForMaskedDiffusion(LladaConfig(vocab_size=9, mask_token_id=0, **sizes))
    ids = torch.tensor([[1, 2, 3]])
    assert shown(lambda: model.generate(ids, max_new_tokens=4, block_length=2, cache="prefix")) == [__file__]
    assert shown(lambda: model(ids, logits_at=ids > 1)) == [__file__]

    file = Path(resource_path("sudoku_prism"), "generation_config.json")
    (tmp_path / file.name).write_text(file.read_text().replace("{", '{"cache": "prefix", "block_length": 9,', 1))
    loaded = []
    assert shown(lambda: loaded.append(RemaskGenerationConfig.from_pretrained(tmp_path))) == [__file__]
    assert loaded[0].cache_implementation == "prefix"
