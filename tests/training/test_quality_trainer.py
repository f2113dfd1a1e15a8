"""LoRA and its variants on a tiny LLaDA with a quality head, through plain PEFT."""

import pytest
import torch
from peft import LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
from transformers import BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available

from prism_hf.diffusion.losses import token_losses, weighted_sum
from prism_hf.models.llada import LladaConfig
from prism_hf.models.prism import PrismConfig, PrismForMaskedDiffusion
from prism_hf.training import PrismTrainer, PrismTrainingArguments

TARGETS = ["q_proj", "k_proj", "v_proj"]


class Repeated(torch.utils.data.Dataset):
    """Sequences whose second half repeats the first."""

    def __init__(self, size):
        half = torch.randint(48, (size, 8), generator=torch.Generator().manual_seed(0))
        self.input_ids = torch.cat([half, half], dim=1)

    def __len__(self):
        return len(self.input_ids)

    def __getitem__(self, index):
        return {"input_ids": self.input_ids[index]}


def base(folder=None):
    torch.manual_seed(0)
    llada = LladaConfig(
        d_model=32,
        n_layers=2,
        n_heads=2,
        mlp_hidden_size=64,
        vocab_size=50,
        mask_token_id=49,
        pad_token_id=48,
        eos_token_id=48,
    )
    model = PrismForMaskedDiffusion(PrismConfig(backbone_config=llada)).eval()
    if folder is not None:
        model.save_pretrained(folder)
        model = PrismForMaskedDiffusion.from_pretrained(folder)
    return model


def train(model, folder, lora, **arguments):
    args = PrismTrainingArguments(
        str(folder),
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        num_draft_tokens=4,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        **({"max_steps": 5} | arguments),
    )
    trainer = PrismTrainer(model, args, train_dataset=Repeated(64), peft_config=lora)
    trainer.train()
    trainer.save_model()
    return trainer.model.eval()


@torch.no_grad()
def outputs(model):
    output = model(input_ids=Repeated(4).input_ids)
    return output.logits, output.quality_logits


def assert_equal(one, two):
    assert all(torch.equal(left, right) for left, right in zip(one, two, strict=True))


@pytest.fixture
def lora():
    return LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules=TARGETS)


def test_round_trip_and_the_base_is_untouched(tmp_path, lora):
    before = outputs(base(tmp_path / "base"))
    model = train(PrismForMaskedDiffusion.from_pretrained(tmp_path / "base"), tmp_path / "adapter", lora)
    trained = outputs(model)
    assert not torch.equal(trained[0], before[0]) and not torch.equal(trained[1], before[1])
    loaded = PeftModel.from_pretrained(PrismForMaskedDiffusion.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    assert_equal(outputs(loaded.eval()), trained)
    with loaded.disable_adapter():
        assert_equal(outputs(loaded), before)
    assert lora.modules_to_save is None  # the caller's config is not changed


def test_two_adapters_on_one_backbone(tmp_path, lora):
    base(tmp_path / "base")
    trained = []
    for name, steps in (("one", 3), ("two", 6)):
        model = PrismForMaskedDiffusion.from_pretrained(tmp_path / "base")
        trained.append(outputs(train(model, tmp_path / name, lora, max_steps=steps)))
    model = PrismForMaskedDiffusion.from_pretrained(tmp_path / "base")
    both = PeftModel.from_pretrained(model, tmp_path / "one", adapter_name="one")
    both.load_adapter(tmp_path / "two", adapter_name="two")
    for name, expected in (("two", trained[1]), ("one", trained[0]), ("two", trained[1])):
        both.set_adapter(name)
        assert_equal(outputs(both.eval()), expected)


def test_merging_gives_a_plain_model(tmp_path, lora):
    model = train(base(tmp_path / "base"), tmp_path / "adapter", lora)
    expected = outputs(model)
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    again = PrismForMaskedDiffusion.from_pretrained(tmp_path / "merged")
    for found, value in zip(outputs(again), expected, strict=True):
        torch.testing.assert_close(found, value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", [{"use_dora": True}, {"use_rslora": True}])
def test_variants_of_lora_train_and_load(tmp_path, variant):
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, **variant)
    model = train(base(tmp_path / "base"), tmp_path / "adapter", lora)
    names = [name for name, _ in model.named_parameters()]
    assert any("lora_magnitude_vector" in name for name in names) == ("use_dora" in variant)
    loaded = PeftModel.from_pretrained(PrismForMaskedDiffusion.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    assert_equal(outputs(loaded.eval()), outputs(model))


@pytest.mark.parametrize(
    "option",
    [
        {"target_modules": ["lm_head"]},
        {"target_modules": ["lm_head"], "use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": {"lm_head": [3, 4, 5, 6, 7]}},
    ],
)
def test_an_adapter_on_the_decoder_gets_the_gradient_of_its_logits(tmp_path, option):
    lora = LoraConfig(**{"target_modules": TARGETS, "r": 4, "init_lora_weights": False} | option)
    args = PrismTrainingArguments(str(tmp_path), num_draft_tokens=4, use_cpu=True, report_to="none")
    trainer = PrismTrainer(base(), args, train_dataset=Repeated(4), peft_config=lora)
    batch = {"input_ids": Repeated(4).input_ids, "maskable": torch.ones(4, 16, dtype=torch.bool)}
    model = trainer.model.train()
    trainer.compute_loss(model, batch)  # backpropagates the unmasking loss
    own = {n: p for n, p in model.named_parameters() if "lm_head" in n and p.requires_grad}
    found = {name: parameter.grad.clone() for name, parameter in own.items()}
    model.zero_grad()
    noised = trainer.noised(batch, True)
    logits = model(**noised.rows.inputs(noised.z, model), logits_to_keep=noised.masked).logits
    logits = logits.float().index_fill(1, torch.tensor([49]), -torch.inf)
    denominator = noised.denominators["unmasking_loss"]
    total = weighted_sum(token_losses(logits, noised.targets), noised.weights)
    (args.unmasking_weight * total / denominator).backward()
    assert found
    for name, parameter in own.items():
        assert parameter.grad.abs().max() > 0
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-6, rtol=1e-4)


def test_a_method_that_cannot_train_the_head_is_refused(tmp_path):
    args = PrismTrainingArguments(str(tmp_path), num_draft_tokens=4, use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match="TrainableTokensConfig trains no whole module.*use LoraConfig"):
        PrismTrainer(base(), args, peft_config=TrainableTokensConfig(token_indices=[3]))


def test_gradient_checkpointing_trains_the_same_adapter(tmp_path):
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS)
    plain = train(base(), tmp_path / "plain", lora)
    checkpointed = train(base(), tmp_path / "checkpointed", lora, activation_checkpointing=True)
    for one, two in zip(outputs(plain), outputs(checkpointed), strict=True):
        torch.testing.assert_close(one, two)


def test_head_and_adapters_are_trained_and_nothing_else(tmp_path, lora):
    model = train(base(), tmp_path, lora)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "quality_head.modules_to_save" in name for name in trained)
    assert sum("lora_A" in name for name in trained) == 6 and sum("quality_head" in name for name in trained) == 6


def test_a_bfloat16_base_trains_with_a_float32_head(tmp_path, lora):
    base(tmp_path / "base").backbone.save_pretrained(tmp_path / "backbone")
    model = PrismForMaskedDiffusion.from_pretrained(tmp_path / "backbone", dtype=torch.bfloat16)
    model = train(model, tmp_path / "adapter", lora, bf16=True)
    assert model.get_base_model().backbone.lm_head.weight.dtype == torch.bfloat16
    trained = {p.dtype for p in model.parameters() if p.requires_grad}
    assert trained == {torch.float32}


def test_mistakes_are_named(tmp_path, lora):
    args = PrismTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(TypeError, match="peft_config must be a PeftConfig.*got dict"):
        PrismTrainer(base(), args, peft_config={"r": 4})
    lora.modules_to_save = ["quality_head"]
    with pytest.raises(ValueError, match="PeftModel already"):
        PrismTrainer(get_peft_model(base(), lora), args, peft_config=lora)


@pytest.mark.skipif(is_bitsandbytes_available(), reason="bitsandbytes is installed")
def test_four_bits_without_bitsandbytes_say_what_to_install(tmp_path):
    base(tmp_path / "base").backbone.save_pretrained(tmp_path / "backbone")
    with pytest.raises(ImportError, match="bitsandbytes"):
        PrismForMaskedDiffusion.from_pretrained(
            tmp_path / "backbone", quantization_config=BitsAndBytesConfig(load_in_4bit=True)
        )
