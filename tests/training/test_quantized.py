"""A model that is given by name is quantised to 4 bits and trained by LoRA. bitsandbytes computes on a CPU too."""

import pytest
import torch
from peft import LoraConfig
from transformers import BitsAndBytesConfig

from prism_hf import LladaConfig, LladaForMaskedDiffusion, PrismTrainer, PrismTrainingArguments, load_model

pytestmark = pytest.mark.slow  # where bitsandbytes is installed, all imports take a second longer


def test_a_quantized_model_is_trained_by_lora_and_loaded(arguments, tmp_path):
    pytest.importorskip("bitsandbytes")
    config = LladaConfig(d_model=64, n_layers=1, n_heads=2, mlp_hidden_size=128, vocab_size=40, mask_token_id=39)
    LladaForMaskedDiffusion(config).save_pretrained(tmp_path / "model")
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="float32")
    rows = [{"input_ids": list(range(5, 25))}] * 16
    trainer = PrismTrainer(
        str(tmp_path / "model"),
        arguments(PrismTrainingArguments, max_steps=2),
        train_dataset=rows,
        quantization_config=quantization,
        peft_config=LoraConfig(target_modules="all-linear"),
    )
    assert trainer.model.get_base_model().is_loaded_in_4bit
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    assert any(not torch.equal(before[name], p) for name, p in trainer.model.named_parameters() if name in before)
    trainer.save_model()
    loaded = load_model(trainer.args.output_dir, quantization_config=quantization)
    ids = torch.tensor([rows[0]["input_ids"]])
    assert torch.allclose(loaded(ids).quality_logits, trainer.model.eval()(ids).quality_logits, atol=1e-3)
