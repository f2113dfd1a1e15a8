"""The estimate of memory against what parameters, optimisers and training steps really hold."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import check_memory
import pytest
import torch
from estimate_memory import MemoryTracker, estimate, estimate_memory
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForMaskedLM, BertConfig

from prism_hf.models.llada import LladaConfig
from prism_hf.models.prism import PrismConfig, PrismForMaskedDiffusion
from prism_hf.training import PrismTrainer, PrismTrainingArguments

LENGTH, BATCH, MASK = 24, 4, 99
LLADA = LladaConfig(
    d_model=32,
    n_heads=4,
    n_layers=3,
    mlp_hidden_size=64,
    vocab_size=100,
    mask_token_id=MASK,
    eos_token_id=0,
    pad_token_id=0,
    max_sequence_length=LENGTH,
)
BERT = BertConfig(
    vocab_size=100,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    mask_token_id=MASK,
    max_position_embeddings=LENGTH,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
LORA = {"r": 4, "target_modules": ["q_proj", "k_proj", "v_proj"]}
SETTINGS = {
    "all weights": {},
    "checkpointing": {"activation_checkpointing": True},
    "three sampled drafts": {"num_drafts": 3, "draft_top_p": 0.9},
    "head only": {"freeze_backbone": True},
    "no unmasking loss": {"unmasking_weight": 0.0},
    "two drafts in three steps": {"num_drafts": 2, "draft_steps": 3, "num_draft_tokens": 6},
    "greedy, bfloat16": {"bf16": True, "draft_do_sample": False},
}


def build(config, dtype=torch.float32):
    torch.manual_seed(0)
    backbone = AutoModelForMaskedLM.from_config(copy.deepcopy(config), dtype=dtype, attn_implementation="sdpa")
    return PrismForMaskedDiffusion(PrismConfig(backbone_config=copy.deepcopy(config)), backbone)


def args_for(folder, **settings):
    return PrismTrainingArguments(
        str(folder), per_device_train_batch_size=BATCH, use_cpu=True, report_to="none", **settings
    )


def total_bytes(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_tracker_counts_storages_once_and_sees_them_freed():
    known = torch.zeros(1000)
    with MemoryTracker([known]) as tracker:
        known.mul_(2).view(10, 100)
        assert tracker.live.total() == 0
        first = torch.ones(100)
        view = first[10:]
        tracker.label = "other"
        second = first + 1
        del second, first
        assert tracker.live == {"activations": 400, "other": 0}
        del view
        assert tracker.live.total() == 0
    assert tracker.peak == {"activations": 400, "other": 400}


def test_tracker_counts_what_autograd_saves():
    linear, saved = nn.Linear(64, 64), {}
    x = torch.randn(32, 64)

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def forward():
        return (linear(x).relu() * linear(x).sigmoid()).tanh()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    for known in (x, *linear.parameters()):
        saved.pop(known.untyped_storage().data_ptr(), None)
    with MemoryTracker([x, *linear.parameters()]) as tracker:
        output = forward()  # noqa: F841  (it keeps the graph)
    assert tracker.live.total() == sum(saved.values())


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("config", [LLADA, BERT], ids=["llada", "bert"])
@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
def test_a_rehearsed_step_allocates_what_the_trainer_does(tmp_path, config, lora, settings):
    peft_config = None
    if lora:
        peft_config = LoraConfig(**LORA if config is LLADA else {"r": 4, "target_modules": ["query", "value"]})
    args = args_for(tmp_path, min_timestep=0.999999, **settings)
    trainer = PrismTrainer(
        build(config),
        args,
        peft_config=peft_config,
        train_dataset=[{"input_ids": torch.ones(LENGTH, dtype=torch.long)}],
    )
    model = trainer.accelerator.prepare_model(trainer.model)  # with autocast, as in training
    if args.activation_checkpointing:
        model.activation_checkpointing_enable()
    inputs = {"input_ids": torch.randint(MASK, (BATCH, LENGTH))}
    model.train()
    with MemoryTracker([*model.parameters(), *model.buffers(), *inputs.values()]) as tracker:
        trainer.training_step(model, inputs)
    rehearsed = estimate_memory(config, args, LENGTH, peft_config=peft_config)
    step = sum(rehearsed.peak[name] for name in ("gradients", "activations", "logits", "backward"))
    # The trainer also holds its draws of randomness and metrics.
    assert step == pytest.approx(tracker.peak.total(), rel=0.05, abs=20_000)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert rehearsed.highest["gradients"] == total_bytes(gradients)


@pytest.mark.parametrize("lora", [False, True])
def test_weights_and_optimizer_states(tmp_path, lora):
    model, peft_config = build(LLADA, torch.bfloat16), None
    if lora:
        peft_config = LoraConfig(**LORA, modules_to_save=["quality_head"])
        model = get_peft_model(model, peft_config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    states = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]

    estimate = estimate_memory(LLADA, args_for(tmp_path), LENGTH, dtype="bfloat16", peft_config=peft_config)
    weights = estimate.peak["weights"] + estimate.peak["adapters"] + estimate.peak["quality head"]
    assert weights == total_bytes(model.parameters())
    assert estimate.peak["optimizer states"] == total_bytes(states)
    assert estimate.peak["communication"] == estimate.peak["moving average"] == 0


def test_strategies_share_what_they_shard(tmp_path):
    args = args_for(tmp_path)
    one = estimate_memory(LLADA, args, LENGTH).highest
    shards = {
        "ddp": (),
        "zero-2": ("gradients",),
        "zero-3": ("gradients", "weights", "quality head"),
        "fsdp2": ("gradients", "weights", "quality head", "optimizer states"),
    }
    for strategy, sharded in shards.items():
        four = estimate_memory(LLADA, args, LENGTH, strategy=strategy, num_gpus=4).highest
        for name in ("weights", "quality head", "gradients", "activations"):
            assert four[name] == one[name] / (4 if name in sharded else 1), (strategy, name)
        assert four["communication"] > 0
    num_parameters = sum(parameter.numel() for parameter in build(LLADA).parameters())
    zero = estimate_memory(LLADA, args_for(tmp_path, bf16=True), LENGTH, strategy="zero-2", num_gpus=4).peak
    assert zero["optimizer states"] == 12 * num_parameters / 4  # float32 weights and two averages (ZeRO, 1910.02054)
    assert zero["weights"] + zero["quality head"] == 2 * num_parameters


def test_four_bit_weights(tmp_path):
    """In blocks of 64 weights with a float32 each (QLoRA, arXiv 2305.14314): 4.5 bits; 4.127 quantised twice."""
    config = copy.deepcopy(LLADA)
    config.d_model, config.mlp_hidden_size = 512, 1024
    args, peft_config = args_for(tmp_path), LoraConfig(**LORA)
    linear = 3 * (4 * 512 * 512 + 3 * 512 * 1024)
    other = 2 * (2 * 100 * 512 + 7 * 512)
    for double, bits in ((False, 4.5), (True, 4 + 8 / 64 + 32 / (64 * 256))):
        quantization = {"load_in_4bit": True, "bnb_4bit_use_double_quant": double}
        estimate = estimate_memory(
            config, args, LENGTH, dtype="bfloat16", peft_config=peft_config, quantization=quantization
        )
        assert estimate.peak["weights"] == pytest.approx(linear * bits / 8 + other, rel=0.01)


def test_llada_8b():
    estimate = estimate_memory(LladaConfig(), args_for("unused", bf16=True), 8, dtype="bfloat16")
    assert estimate.peak["weights"] == 2 * 8_015_581_184


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"strategy": "zero-4"}, "zero-4"),
        ({"num_gpus": 0}, "num_gpus=0"),
        ({"quantization": {"load_in_8bit": True}}, "load_in_8bit"),
        ({"quantization": {"load_in_4bit": True}}, "peft_config"),
    ],
)
def test_errors_come_before_the_work(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        estimate_memory(LLADA, args_for(tmp_path), LENGTH, **kwargs)


def test_unknown_optimizers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="adafactor"):
        estimate_memory(LLADA, args_for(tmp_path, optim="adafactor"), LENGTH)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak from Linux's /proc")
def test_estimate_is_within_15_percent_of_the_measured_peak(tmp_path):
    name = "LoRA, float32"
    run = subprocess.run(
        [sys.executable, check_memory.__file__, "--measure", name],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    settings = check_memory.check_settings(name, tmp_path)
    estimated = estimate(settings, settings["per_device_train_batch_size"]).total
    assert estimated == pytest.approx(json.loads(run.stdout.splitlines()[-1]), rel=0.15)
