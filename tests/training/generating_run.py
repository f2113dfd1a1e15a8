"""Evaluates with generations, in the processes of a launch, and prints them: generating_run.py OUTPUT_DIR."""

import copy
import json
import sys

import torch

from prism_hf import PrismConfig, PrismForMaskedDiffusion, PrismTrainer, PrismTrainingArguments, RemaskGenerationConfig
from prism_hf.models.llada import LladaConfig
from prism_hf.training import LogCompletionsCallback, MaskedDiffusionCollator

LLADA = LladaConfig(
    vocab_size=9,
    d_model=16,
    n_layers=2,
    n_heads=2,
    mlp_hidden_size=32,
    mask_token_id=0,
    eos_token_id=None,
    pad_token_id=None,
    init_std=0.5,
)
TRAINING = {"max_steps": 1, "learning_rate": 0.0, "save_strategy": "no", "eval_strategy": "steps", "eval_steps": 1}
GREEDY = {"order": "margin", "steps": 3, "remask_strategy": "prism"}


def rows_of(number):
    """Rows of 6 to 8 tokens whose first two are a prompt."""
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(1, 9, (6 + i % 3,), generator=generator).tolist() for i in range(number)]
    return [{"input_ids": row, "completion_mask": [0, 0] + [1] * (len(row) - 2)} for row in ids]


def model_of():
    torch.manual_seed(0)
    model = PrismForMaskedDiffusion(PrismConfig(backbone_config=copy.deepcopy(LLADA)))
    model.generation_config = RemaskGenerationConfig(max_new_tokens=4, **GREEDY)  # which counts for prompts only
    return model


def main(output_dir, **settings):
    """What was evaluated: metrics, predictions, labels and the rows of completions that were logged."""
    args = PrismTrainingArguments(
        output_dir, **{"per_device_eval_batch_size": 2, "use_cpu": True, "report_to": "none"} | settings
    )
    seen = []

    def compute_metrics(prediction):
        seen.append(prediction)
        right = prediction.predictions == prediction.label_ids
        return {"right": float(right[prediction.label_ids != -100].mean())}

    trainer = PrismTrainer(
        model_of(),
        args,
        MaskedDiffusionCollator(pad_token_id=1),
        rows_of(8),
        rows_of(5),
        compute_metrics=compute_metrics if args.predict_with_generate else None,
    )
    logged = LogCompletionsCallback(trainer, num_prompts=3)
    trainer.add_callback(logged)
    metrics = trainer.evaluate() if args.max_steps < 0 else trainer.train() and trainer.state.log_history[-2]
    arrays = [[array.tolist() for array in (each.predictions, each.label_ids)] for each in seen]
    return {"metrics": metrics, "arrays": arrays, "logged": logged.rows}, trainer


if __name__ == "__main__":
    # FSDP2 shards a model for training only; this one leaves it as it is.
    found, _ = main(sys.argv[1], predict_with_generate=True, **TRAINING)
    print(json.dumps(found))
