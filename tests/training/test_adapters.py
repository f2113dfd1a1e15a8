"""LoRA on a plain masked language model, and what is said of arguments that are not read."""

import pytest
from peft import LoraConfig

from prism_hf import MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments, load_model
from prism_hf.training import masked_diffusion_trainer


def test_a_plain_model_is_trained_by_lora_and_loaded_in_one_line(backbone, sequences, arguments, tmp_path):
    backbone.save_pretrained(tmp_path / "model")
    args = arguments(MaskedDiffusionTrainingArguments)
    lora = LoraConfig(target_modules=["query"])
    trainer = MaskedDiffusionTrainer(str(tmp_path / "model"), args, train_dataset=sequences(8), peft_config=lora)
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    trainer.train()
    trainer.save_model()
    loaded = load_model(args.output_dir)
    ids = sequences(2)[[0, 1]]["input_ids"]
    assert loaded(ids).logits.allclose(trainer.model.eval()(ids).logits, atol=1e-6)
    assert not loaded(ids).logits.equal(backbone.eval()(ids).logits)


def test_what_is_for_models_by_name_is_told_to_be_unread(backbone, arguments, monkeypatch):
    warnings = []
    monkeypatch.setattr(masked_diffusion_trainer.logger, "warning", warnings.append)
    args = arguments(MaskedDiffusionTrainingArguments, model_init_kwargs={"dtype": "auto"})
    MaskedDiffusionTrainer(backbone, args, quantization_config={"load_in_4bit": True})
    args.model_init_kwargs["quantization_config"] = {}
    with pytest.raises(ValueError, match="quantization_config is in model_init_kwargs too"):
        MaskedDiffusionTrainer("any", args, quantization_config={"load_in_4bit": True})
    assert "model_init_kwargs and quantization_config are not read" in warnings[0]
