"""What LLaDA, MDLM and Dream do as models of their own: they generate, by settings that are saved with them."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForMaskedLM

from prism_hf import (
    LladaConfig,
    LladaForMaskedDiffusion,
    MdlmConfig,
    MdlmForMaskedDiffusion,
    PrismForMaskedDiffusion,
    RemaskGenerationConfig,
    remask_generate,
)
from prism_hf.hub import TrainingRecord
from prism_hf.hub.usage import usage
from prism_hf.models.dream import DreamConfig, DreamForMaskedDiffusion

MASK = 4
IDS = torch.tensor([[5, 6, MASK, 7], [8, 9, 10, MASK]])
LLADA = {"d_model": 32, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 48, "eos_token_id": None, "pad_token_id": 0}
DREAM_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
DREAM_SIZES |= {"num_key_value_heads": 1, "eos_token_id": None, "pad_token_id": 0}
MDLM = {"hidden_dim": 32, "cond_dim": 16, "n_blocks": 1, "n_heads": 2}
MODELS = {
    "llada": lambda: LladaForMaskedDiffusion(LladaConfig(**LLADA, vocab_size=40, mask_token_id=MASK)),
    "Dream": lambda: DreamForMaskedDiffusion(DreamConfig(**DREAM_SIZES, vocab_size=40, mask_token_id=MASK)),
    "mdlm": lambda: MdlmForMaskedDiffusion(MdlmConfig(**MDLM, vocab_size=40, mask_token_id=MASK)),
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    model = MODELS[request.param]().eval()
    for parameter in model.parameters():  # MDLM's output layer begins at zero
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_generate_is_remask_generate(model):
    assert model.can_generate()
    settings = {"max_new_tokens": 6, "steps": 5, "remask_strategy": "random", "num_remask": 1, "do_sample": True}

    def generator():
        return torch.Generator().manual_seed(1)

    out = model.generate(IDS, generator=generator(), **settings)
    assert torch.equal(out, remask_generate(model, IDS, generator=generator(), **settings))
    assert out.shape == (2, 10) and not (out == MASK).any() and torch.equal(out[:, :2], IDS[:, :2])
    assert torch.equal(model.generate(inputs=IDS), model.generate(IDS, custom_generate=remask_generate))


def test_a_generation_config_is_saved_and_loaded_with_the_weights(model, tmp_path):
    model.generation_config = RemaskGenerationConfig(max_new_tokens=3, steps=2, temperature=0.7)
    model.save_pretrained(tmp_path)
    for cls in (type(model), AutoModelForMaskedLM):
        loaded = cls.from_pretrained(tmp_path)
        assert type(loaded) is type(model) and isinstance(loaded.generation_config, RemaskGenerationConfig)
        assert (loaded.generation_config.max_new_tokens, loaded.generation_config.steps) == (3, 2)
        assert torch.equal(loaded.generate(IDS), model.generate(IDS)) and loaded.generate(IDS).shape == (2, 7)


def test_a_checkpoint_without_generation_config_generates_by_defaults(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    loaded = type(model).from_pretrained(tmp_path)
    assert torch.equal(loaded.generate(IDS), model.generate(IDS))


def test_the_settings_of_a_decoder_in_a_published_checkpoint_are_left_out(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7, "num_beams": 4, "use_cache": false}')
    config = type(model).from_pretrained(tmp_path).generation_config
    assert config.eos_token_id == 7 and isinstance(config, RemaskGenerationConfig)


# Of Dream, but for the tokens: keys of its own, and values that only its own code reads.
DREAM = {"alg": "origin", "alg_temp": None, "eps": 0.001, "output_history": False, "steps": 4, "temperature": 0.0}


def test_the_generation_config_of_somebody_else_is_read_for_what_it_shares(model, tmp_path, caplog):
    model.save_pretrained(tmp_path)
    theirs = DREAM | {"_from_model_config": True, "eos_token_id": 7, "pad_token_id": 0, "top_p": 9.5, "order": 3}
    (tmp_path / "generation_config.json").write_text(json.dumps(theirs))
    for _ in range(2):
        loaded = type(model).from_pretrained(tmp_path)
        assert loaded.generation_config == RemaskGenerationConfig(
            steps=4, temperature=0.0, eos_token_id=7, pad_token_id=0
        )
    (warning,) = [message for message in caplog.messages if "was not written by" in message]
    for part in ("generation_config.json", "alg='origin'", "eps=0.001", "top_p=9.5", "order=3"):
        assert part in warning
    assert "alg_temp" not in warning and "steps" not in warning
    assert torch.equal(loaded.generate(IDS), model.generate(IDS, steps=4))
    loaded.save_pretrained(tmp_path)  # now it is ours
    assert type(model).from_pretrained(tmp_path).generation_config == loaded.generation_config


def test_a_published_token_ends_what_is_appended_with_and_without_a_quality_head(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7, "pad_token_id": 0, "alg": "origin"}')
    plain = type(model).from_pretrained(tmp_path)
    prism = PrismForMaskedDiffusion.from_pretrained(tmp_path, head_type="linear")
    assert prism.generation_config == plain.generation_config == RemaskGenerationConfig(eos_token_id=7, pad_token_id=0)
    expected = plain.generate(IDS, max_new_tokens=4)
    assert torch.equal(prism.generate(IDS, max_new_tokens=4), expected)
    given = RemaskGenerationConfig(steps=2)
    prism = PrismForMaskedDiffusion.from_pretrained(tmp_path, head_type="linear", generation_config=given)
    assert prism.generation_config == given


def test_an_adapter_generates_with_its_base_model(model):
    adapted = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    out = adapted.generate(input_ids=IDS, max_new_tokens=3)
    assert torch.equal(out, remask_generate(adapted, IDS, max_new_tokens=3)) and not (out == MASK).any()


@pytest.mark.parametrize("strategy", ["prism", "prism_loop"])
def test_a_strategy_that_reads_quality_is_refused(model, strategy):
    with pytest.raises(ValueError, match="has no quality head: use a PrismForMaskedDiffusion"):
        model.generate(IDS, remask_strategy=strategy)


def test_what_is_no_setting_of_denoising_is_refused(model):
    with pytest.raises(ValueError, match="num_beams"):
        model.generate(IDS, num_beams=2)


def test_the_snippet_of_a_card_runs(model, tmp_path, capsys):
    model.save_pretrained(tmp_path)
    snippet = model.usage_snippet(str(tmp_path))
    exec(compile(snippet, "snippet", "exec"), {"__name__": "__main__"})
    expected = model.generate(torch.full((1, 64), MASK))
    assert capsys.readouterr().out.strip() == str(expected).strip() and "mask_token_id" not in snippet
    model.training_record = TrainingRecord({}, mask_token_id=6, length=12)
    snippet = model.usage_snippet("user/repo")
    assert "torch.full((1, 12), 6)" in snippet and "model.generate(input_ids, mask_token_id=6)" in snippet


def test_the_snippet_of_a_card_runs_for_an_adapter(model, tmp_path, capsys):
    model.save_pretrained(tmp_path / "base")
    base = type(model).from_pretrained(tmp_path / "base")
    adapted = get_peft_model(base, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    exec(compile(usage(adapted, str(tmp_path / "adapter")), "snippet", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip() == str(adapted.generate(torch.full((1, 64), MASK))).strip()
