from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForMaskedLM, GenerationConfig

from prism_hf.generation import (
    STRATEGIES,
    PrismRemasking,
    RemaskGenerationConfig,
    RemaskGenerationMixin,
    ScoreStrategy,
    prepare_generation_config,
    register_strategy,
    remask_generate,
)


class GenerativeBert(RemaskGenerationMixin, BertForMaskedLM):
    pass


def tiny_bert(cls=GenerativeBert):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=13,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        mask_token_id=4,
    )
    return cls(config).eval()


def test_round_trip(tmp_path):
    config = RemaskGenerationConfig(steps=17, order="margin", remask_strategy=PrismRemasking(), eta=0.02, top_p=0.9)
    config.save_pretrained(tmp_path)
    loaded = RemaskGenerationConfig.from_pretrained(tmp_path)
    assert loaded == config and loaded.steps == 17 and loaded.remask_strategy == "prism"


def test_a_registered_strategy_keeps_its_fields(tmp_path):
    @register_strategy("test_scaled")
    @dataclass(frozen=True)
    class Scaled(ScoreStrategy):
        factor: float = 1.0

        def __call__(self, state):
            return self.factor * state.canvas.float()

    try:
        RemaskGenerationConfig(remask_strategy=Scaled(3.0), num_remask=1).save_pretrained(tmp_path)
        loaded = RemaskGenerationConfig.from_pretrained(tmp_path)
        assert loaded.remask_strategy == {"name": "test_scaled", "factor": 3.0}
        model = tiny_bert()
        ids = torch.full((2, 6), 4)
        assert torch.equal(
            remask_generate(model, ids, loaded), remask_generate(model, ids, remask_strategy=Scaled(3.0), num_remask=1)
        )
    finally:
        STRATEGIES.pop("test_scaled")


def test_an_unregistered_callable_is_used_but_not_saved(tmp_path):
    config = RemaskGenerationConfig(remask_strategy=lambda state: state.canvas.float(), num_remask=1)
    assert "lambda" in repr(config) and config == config
    with pytest.raises(ValueError, match="register"):
        config.save_pretrained(tmp_path)


@pytest.mark.parametrize("wrong, right", [("num_remasks", "num_remask"), ("remask_stratgy", "remask_strategy")])
def test_misspelt_names_are_rejected(wrong, right):
    with pytest.raises(ValueError, match=f"{wrong!r}.*{right!r}"):
        RemaskGenerationConfig(**{wrong: 1})


def test_left_to_right_names_are_rejected_but_tolerated_in_files(tmp_path):
    with pytest.raises(ValueError, match="num_beams"):
        RemaskGenerationConfig(num_beams=4)
    GenerationConfig(num_beams=4, eos_token_id=3).save_pretrained(tmp_path)
    assert RemaskGenerationConfig.from_pretrained(tmp_path).eos_token_id == 3


def test_model_saves_and_loads_its_config(tmp_path):
    model = tiny_bert()
    assert model.can_generate() and type(model.generation_config) is RemaskGenerationConfig
    model.generation_config = RemaskGenerationConfig(steps=5, order="entropy", remask_strategy="random", num_remask=1)
    model.save_pretrained(tmp_path)
    loaded = GenerativeBert.from_pretrained(tmp_path)
    assert type(loaded.generation_config) is RemaskGenerationConfig
    assert loaded.generation_config == model.generation_config
    ids = torch.full((2, 8), 4)
    out = loaded.generate(ids, return_dict_in_generate=True)
    assert out.num_forwards == 5 and not (out.sequences == 4).any()
    given = RemaskGenerationConfig(steps=3)
    assert GenerativeBert.from_pretrained(tmp_path, generation_config=given).generation_config.steps == 3


@pytest.mark.parametrize(
    "content, message",
    [
        (b"{", "Expecting property name"),
        (b"", "Expecting value"),
        (b"\xff\xfe{}", "utf-8"),
        (b"[1]", "no mapping"),
        (b'{"remask_strategy": null, "num_remasks": 2}', "'num_remask'"),
        (b'{"remask_strategy": null, "top_p": 1.5}', "top_p=1.5"),
        (b'{"remask_strategy": "prsim"}', "'prism'"),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, message):
    model = tiny_bert()
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_bytes(content)
    for load in (GenerativeBert.from_pretrained, RemaskGenerationConfig.from_pretrained):
        with pytest.raises(ValueError, match=rf"(?s)generation_config\.json.*{message}"):
            load(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    assert GenerativeBert.from_pretrained(tmp_path).generation_config == RemaskGenerationConfig()


def test_plain_masked_language_model():
    model, ids = tiny_bert(BertForMaskedLM), torch.full((2, 8), 4)
    assert not (remask_generate(model, ids, remask_strategy="random", num_remask=1) == 4).any()
    with pytest.raises(ValueError, match="quality head"):
        remask_generate(model, ids, remask_strategy="prism", num_remask=1)
    with pytest.raises(ValueError, match="mask_token_id"):
        model.config.mask_token_id = None
        remask_generate(model, ids)


def test_through_a_peft_model():
    model, ids = tiny_bert(), torch.full((2, 8), 4)
    expected = model.generate(ids)
    adapted = get_peft_model(model, LoraConfig(target_modules=["query"]))
    assert torch.equal(adapted.generate(input_ids=ids), expected)
    assert torch.equal(remask_generate(adapted, ids), expected)
    with pytest.raises(ValueError, match="quality head"):
        remask_generate(adapted, ids, remask_strategy="prism", num_remask=1)


def test_the_old_name_of_the_cache_is_taken_with_a_warning(tmp_path):
    model = SimpleNamespace(config=SimpleNamespace(mask_token_id=3), generation_config=RemaskGenerationConfig())
    with pytest.warns(FutureWarning, match="cache of RemaskGenerationConfig is now called cache_implementation"):
        config = RemaskGenerationConfig(cache="dual", block_length=4)
    assert config.cache_implementation == "dual" and "cache" not in config.to_dict()
    with pytest.warns(FutureWarning, match="cache of generate"):
        config, _ = prepare_generation_config(model, None, cache="prefix", block_length=4)
    assert config.cache_implementation == "prefix"
    with pytest.warns(FutureWarning):
        config.cache = "dual"
    with pytest.warns(FutureWarning):
        assert config.cache == config.cache_implementation == "dual"
    (tmp_path / "generation_config.json").write_text('{"cache": "prefix", "block_length": 8}')
    with pytest.warns(FutureWarning):
        loaded = RemaskGenerationConfig.from_pretrained(tmp_path)
    assert (loaded.cache_implementation, loaded.block_length) == ("prefix", 8)
    with pytest.raises(ValueError, match="given too"):
        RemaskGenerationConfig(cache="dual", cache_implementation="dual")


def test_a_cache_of_decoders_in_a_file_is_left_out(tmp_path):
    GenerationConfig(cache_implementation="static").save_pretrained(tmp_path)
    assert RemaskGenerationConfig.from_pretrained(tmp_path).cache_implementation is None


def test_what_a_call_switches_off_is_off():
    settings = RemaskGenerationConfig(do_sample=True, temperature=0.5, cache_implementation="dual", block_length=4)
    model = SimpleNamespace(config=SimpleNamespace(mask_token_id=3), generation_config=settings)
    config, _ = prepare_generation_config(model, None, do_sample=False, cache_implementation=None)
    assert (config.do_sample, config.cache_implementation, config.temperature) == (False, None, 0.5)
    config, _ = prepare_generation_config(model, None, do_sample=None, max_new_tokens=None)  # nothing is said
    assert config.do_sample and config.cache_implementation == "dual"
