"""A short LoRA run of a tiny LLaDA, for tests that break it from outside: peft_run.py OUTPUT_DIR [options]."""

import argparse
import builtins
import os
import resource
import signal

import safetensors.torch
import torch
from peft import LoraConfig

from prism_hf.models.llada import LladaConfig
from prism_hf.models.prism import PrismConfig, PrismForMaskedDiffusion
from prism_hf.training import PrismTrainer, PrismTrainingArguments, last_checkpoint

parser = argparse.ArgumentParser()
parser.add_argument("output_dir")
parser.add_argument("--kill-while-writing", metavar="FILE")
parser.add_argument("--largest-file", type=int, metavar="BYTES")
parser.add_argument("--save-only", action="store_true")
options = parser.parse_args()

torch.manual_seed(0)
torch.set_num_threads(1)
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
model = PrismForMaskedDiffusion(PrismConfig(backbone_config=llada))
half = torch.randint(48, (64, 8), generator=torch.Generator().manual_seed(0))
dataset = [{"input_ids": ids} for ids in torch.cat([half, half], dim=1)]
args = PrismTrainingArguments(
    options.output_dir,
    max_steps=6,
    save_steps=2,
    logging_steps=2,
    per_device_train_batch_size=8,
    learning_rate=1e-2,
    num_draft_tokens=4,
    use_cpu=True,
    report_to="none",
    disable_tqdm=True,
)
lora = LoraConfig(r=8, lora_alpha=8, lora_dropout=0.1, target_modules=["q_proj", "v_proj"])
trainer = PrismTrainer(model, args, train_dataset=dataset, peft_config=lora)


def die_within(folder, name):
    """Write half of what would be in the file, and be killed."""
    with builtins.open(os.path.join(folder, name), "wb") as file:
        file.write(b"{" * 1000)
    os.kill(os.getpid(), signal.SIGKILL)


if options.kill_while_writing == "adapter_model.safetensors":
    written = []

    def save_file(tensors, path, *args, **kwargs):
        written.append(path)
        if len(written) == 2:
            die_within(*os.path.split(path))
        safetensors.torch.save_file(tensors, path, *args, **kwargs)

    import peft.peft_model

    peft.peft_model.safe_save_file = save_file
elif options.kill_while_writing:
    method = {"optimizer.pt": "_save_optimizer_and_scheduler", "trainer_state.json": "_save_rng_state"}
    name = method[options.kill_while_writing]
    original = getattr(trainer, name)

    def interrupted(folder):
        if trainer.state.global_step == 4:
            die_within(folder, options.kill_while_writing)
        original(folder)

    setattr(trainer, name, interrupted)
if options.largest_file:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (options.largest_file, options.largest_file))
if not options.save_only:
    start = last_checkpoint(options.output_dir)
    if start:
        print(f"resuming from {os.path.basename(start)}", flush=True)
    trainer.train(resume_from_checkpoint=start)
trainer.save_model()
