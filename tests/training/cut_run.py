"""Trains on random rows, cut into batches in several ways: cut_run.py OUTPUT NUMBER_OF_CASES.

Alone, it takes each global batch whole, and in small batches accumulated; as one of several processes, in small batches
shared, and some runs are broken off there and resumed. OUTPUT gets, for each cut and case, what was logged, the
gradients of each step, and what `predict` returns.
"""

import random
import sys

import torch
from torch.utils.data import IterableDataset
from transformers import BertConfig, BertForMaskedLM, TrainerCallback
from transformers.trainer_utils import PredictionOutput

from prism_hf.models.prism import PrismConfig, PrismForMaskedDiffusion
from prism_hf.training import (
    MaskedDiffusionCollator,
    MaskedDiffusionTrainer,
    MaskedDiffusionTrainingArguments,
    PrismTrainer,
    PrismTrainingArguments,
    TokenCriticTrainer,
    TokenCriticTrainingArguments,
)

MASK, PAD, VOCAB, PROCESSES = 0, 1, 9, 2
KINDS = {
    "masked_diffusion": (MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments),
    "prism": (PrismTrainer, PrismTrainingArguments),
    "token_critic": (TokenCriticTrainer, TokenCriticTrainingArguments),
}
# The last is of the steps of the last process only, where training was resumed.
NOT_COMPARED = ("runtime", "per_second", "preparation_time", "flos", "train_loss")


class Stream(IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        yield from self.rows


class Gradients(TrainerCallback):
    def __init__(self):
        self.of_steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        # DDP gives a gradient of 0 to what has none.
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        self.of_steps.append(torch.cat([gradient.flatten() for gradient in gradients]))


def backbone(seed):
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=10,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        mask_token_id=MASK,
        pad_token_id=PAD,
        initializer_range=0.3,
    )
    return BertForMaskedLM(config)


def rows_of(case, number, equal_lengths):
    rows = []
    for _ in range(number):
        length = 8 if equal_lengths else case.randint(2, 10)
        maskable = torch.tensor([case.random() < 0.8 for _ in range(length)])
        maskable[case.randrange(length)] = True
        rows.append({"input_ids": torch.tensor(case.choices(range(2, VOCAB), k=length)), "maskable": maskable})
    return rows


def packed(case, rows):
    """The rows, up to three of them to a row."""
    packs = []
    while rows:
        number = case.randint(1, 3)
        pack, rows = rows[:number], rows[number:]
        columns = {name: torch.cat([row[name] for row in pack]) for name in pack[0]}
        packs.append(columns | {"seq_lengths": [len(row["input_ids"]) for row in pack]})
    return packs


class Stop(TrainerCallback):
    """Ends training after a step, as if it were broken off."""

    def __init__(self, last_step):
        self.last_step = last_step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.last_step


def prism_settings(case, number):
    return {
        "quality_normalizer": ("filled", "draft")[number // 2 % 2],
        "num_drafts": case.randint(1, 2),
        "num_draft_tokens": 3,
        "draft_selection": case.choice(["random", "semi_autoregressive"]),
        "draft_window": case.choice([2, 5]),
        "draft_steps": case.randint(1, 2),
        "unmasking_weight": 0.7,
    }


def models_of(kind, seed):
    model = backbone(seed)
    if kind == "masked_diffusion":
        return {"model": model}
    model = PrismForMaskedDiffusion(PrismConfig(backbone_config=model.config), model)
    torch.nn.init.normal_(list(model.quality_head.parameters())[-2], std=0.5)
    return {"model": model} | ({"denoiser": backbone(seed + 1)} if kind == "token_critic" else {})


def run(kind, number, cut, world, folder):
    """One case; all that is random in it depends on its number alone."""
    case = random.Random(number)
    batch, accumulation = case.randint(1, 5), case.randint(1, 3)
    # As a list, as a stream that one process reads for all, and as one that each process reads.
    source = ("list", "dispatched", "read by each")[number % 3]
    is_packed = number == 4
    source = "read by each" if is_packed else source
    rows, held_out = (rows_of(case, case.randint(1, 40), source == "dispatched") for _ in range(2))
    if is_packed:
        rows, held_out = packed(case, rows), packed(case, held_out)
    settings = {
        "loss_normalizer": ("sequence", "masked")[number % 2],
        "noise_schedule": case.choice(["linear", "cosine"]),
        "num_eval_masks": 1 + number % 3,
    }
    settings |= prism_settings(case, number) if kind == "prism" else {}
    global_batch = batch * accumulation * PROCESSES
    if cut == "whole":
        batch, accumulation = global_batch, 1
    elif world == 1:
        accumulation *= PROCESSES
    trainer_class, arguments_class = KINDS[kind]
    as_source = list if source == "list" else Stream
    gradients = Gradients()

    def trainer(*callbacks, save_steps):
        args = arguments_class(
            folder,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            per_device_eval_batch_size=batch,
            max_steps=2 * -(-len(rows) // global_batch),
            logging_steps=1,
            optim="sgd",
            learning_rate=0.1,
            max_grad_norm=0.0,
            save_strategy="steps",
            save_steps=save_steps,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            seed=number,
            accelerator_config={"dispatch_batches": False if source == "read by each" else None},
            **settings,
        )
        return trainer_class(
            args=args,
            train_dataset=as_source(rows),
            eval_dataset=as_source(held_out),
            **models_of(kind, number),
            callbacks=[gradients, *callbacks],
            data_collator=MaskedDiffusionCollator(PAD),
        )

    broken_off = 0
    if cut == "shared" and kind == "prism":
        broken_off = max(1, -(-len(rows) // global_batch) - 1)
        trainer(Stop(broken_off), save_steps=broken_off).train()
    trained = trainer(save_steps=1000)
    trained.train(resume_from_checkpoint=f"{folder}/checkpoint-{broken_off}" if broken_off else None)
    trained.evaluate()
    # Packed, a process may have more documents than another, of which no predictions are gathered.
    predicted = trained.predict(as_source(held_out)) if not is_packed else PredictionOutput(None, None, {})
    return {
        "settings": str(settings | {"source": source, "rows": len(rows), "batch": global_batch}),
        "logs": [compared(entry) for entry in trained.state.log_history],
        "gradients": torch.stack(gradients.of_steps),
        "predictions": predicted.predictions,
        "labels": predicted.label_ids,
        "tested": compared(predicted.metrics),
    }


def compared(metrics):
    return {name: value for name, value in metrics.items() if not name.endswith(NOT_COMPARED)}


if __name__ == "__main__":
    from accelerate import PartialState

    output, cases = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    state = PartialState(cpu=True)
    cuts = ["shared"] if state.num_processes > 1 else ["whole", "accumulated"]
    results = {
        (cut, kind, number): run(kind, number, cut, state.num_processes, f"{output}-{cut}-{kind}-{number}")
        for cut in cuts
        for kind in KINDS
        for number in range(cases)
    }
    if state.is_main_process:
        torch.save(results, output)
    state.destroy_process_group()
