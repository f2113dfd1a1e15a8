"""What a trainer's folders hold, and that training goes on from them."""

import copy
import json

import pytest
import torch
from peft import LoraConfig

from prism_hf import (
    AutoPeftModelForPrism,
    LladaConfig,
    LladaForMaskedDiffusion,
    PrismForMaskedDiffusion,
    RemaskGenerationConfig,
)
from prism_hf.models.prism.peft_model import PeftModelForPrism
from prism_hf.training import (
    MaskedDiffusionTrainer,
    MaskedDiffusionTrainingArguments,
    PrismTrainer,
    PrismTrainingArguments,
)

ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}
WHOLE = {"config.json", "model.safetensors"}
EXTRAS = {"README.md", "generation_config.json", "training_args.json", "custom_generate"}


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def train(prism, sequences, arguments, tmp_path):
    """Trains a copy of the same model, saved once as a base, in a folder of its own."""
    prism.generation_config = RemaskGenerationConfig(remask_strategy="prism", num_remask=2)
    prism.save_pretrained(tmp_path / "base")
    prism.name_or_path = str(tmp_path / "base")

    def trained(folder, peft_config, resume=None, **kwargs):
        settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "output_dir": str(tmp_path / folder)}
        args = arguments(PrismTrainingArguments, **(settings | kwargs))
        trainer = PrismTrainer(copy.deepcopy(prism), args, train_dataset=sequences(64), peft_config=peft_config)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return trained


def test_adapter_checkpoints_are_complete_and_resume_bit_for_bit(train, tmp_path):
    lora = LoraConfig(target_modules=["query", "value"], task_type="CAUSAL_LM")
    whole = train("whole", lora)
    assert type(whole.model) is PeftModelForPrism
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    assert names(checkpoint) >= ADAPTER | EXTRAS and not names(checkpoint) & WHOLE
    assert json.loads((checkpoint / "training_args.json").read_text())["num_draft_tokens"] == 8

    resumed = train("resumed", lora, resume=str(checkpoint))
    canvas = torch.zeros(2, 10, dtype=torch.long)
    whole.save_model(str(tmp_path / "final"))
    loaded = AutoPeftModelForPrism.from_pretrained(tmp_path / "final")
    assert loaded.get_base_model().generation_config.num_remask == 2
    with torch.no_grad():
        expected = whole.model.eval()(input_ids=canvas)
        for model in (resumed.model.eval(), loaded):
            output = model(input_ids=canvas)
            assert torch.equal(output.logits, expected.logits)
            assert torch.equal(output.quality_logits, expected.quality_logits)


@pytest.mark.parametrize("chosen, saved", [(None, "prism"), ("none", "none"), ("random", "random")])
@pytest.mark.parametrize("peft_config", [None, LoraConfig(target_modules=["query"])])
def test_a_trained_model_corrects_without_being_told(prism, sequences, arguments, tmp_path, chosen, saved, peft_config):
    prism.generation_config = RemaskGenerationConfig(remask_strategy=chosen)
    prism.save_pretrained(tmp_path / "base")
    model = type(prism).from_pretrained(tmp_path / "base")
    trainer = PrismTrainer(
        model, arguments(PrismTrainingArguments, max_steps=1), train_dataset=sequences(8), peft_config=peft_config
    )
    trainer.save_model(str(tmp_path / "out"))
    loader = type(prism) if peft_config is None else AutoPeftModelForPrism
    model = loader.from_pretrained(tmp_path / "out")
    out = model.generate(torch.zeros(4, 10, dtype=torch.long), return_dict_in_generate=True, output_trajectory=True)
    assert model.generation_config.remask_strategy == saved
    assert bool(out.trajectory.remasked.any()) == (saved != "none") and (out.trajectory.quality is None) == (
        saved != "prism"
    )


def test_a_whole_model_is_saved_with_the_same_files(train, tmp_path):
    trainer = train("whole", None, save_strategy="no")
    trainer.save_model()
    assert names(tmp_path / "whole") >= WHOLE | EXTRAS and not names(tmp_path / "whole") & ADAPTER
    assert "library_name: transformers" in (tmp_path / "whole" / "README.md").read_text()


@pytest.mark.parametrize("with_head", [False, True])
def test_a_model_that_is_saved_in_another_layout_resumes_bit_for_bit(with_head, sequences, arguments, tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 2, "eos_token_id": None, "pad_token_id": None}
    torch.manual_seed(0)
    LladaForMaskedDiffusion(LladaConfig(vocab_size=9, mask_token_id=0, **sizes)).save_pretrained(tmp_path / "base")
    trainers = (MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments, LladaForMaskedDiffusion)
    if with_head:
        trainers = (PrismTrainer, PrismTrainingArguments, PrismForMaskedDiffusion)

    def trained(folder, resume=None, **kwargs):
        settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "output_dir": str(tmp_path / folder)}
        trainer, args, model = trainers
        torch.manual_seed(0)
        model = model.from_pretrained(tmp_path / "base")
        trainer = trainer(
            model, arguments(args, **settings | kwargs), train_dataset=sequences(32), eval_dataset=sequences(8)
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model.state_dict()

    whole = trained("whole")
    resumed = trained("resumed", resume=str(tmp_path / "whole" / "checkpoint-2"))
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())

    # The best is the first, as nothing is learned after it.
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    best = trained("best", **best, learning_rate=50.0, warmup_steps=2)
    losses = json.loads((tmp_path / "best" / "checkpoint-4" / "trainer_state.json").read_text())
    step = losses["best_global_step"]
    assert step < 4
    saved = trainers[2].from_pretrained(tmp_path / "best" / f"checkpoint-{step}").state_dict()
    assert all(torch.equal(best[name], weight) for name, weight in saved.items())
