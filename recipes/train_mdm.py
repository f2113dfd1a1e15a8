"""Pre-train a masked diffusion model: on Sudoku, or on source files.

    accelerate launch recipes/train_mdm.py --config recipes/configs/sudoku_mdm_laptop.yaml

Any argument of the YAML file can be given on the command line too. Started again, it goes on from the last
checkpoint; a finished run changes nothing then.
"""

from dataclasses import dataclass, field

from transformers import AutoConfig, AutoModelForMaskedLM

import prism_hf.models  # noqa: F401  (registers LLaDA and MDLM)
from prism_hf import MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments
from prism_hf.data import DataArguments, load_training_data
from prism_hf.training.running import run_training, solve_at_evaluations


@dataclass
class ModelArguments:
    model_name_or_path: str | None = field(default=None, metadata={"help": "Start from these weights, if given."})
    model_type: str = field(
        default="mdlm", metadata={"help": "mdlm, llada, bert, or any type AutoModelForMaskedLM knows."}
    )
    model_config: str | dict | None = field(default=None, metadata={"help": "Fields of the config of a new model."})
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2, ..."})


def build(
    model_args: ModelArguments, data_args: DataArguments, training_args: MaskedDiffusionTrainingArguments
) -> MaskedDiffusionTrainer:
    with training_args.main_process_first(desc="loading the data"):
        train_dataset, eval_dataset, tokenizer = load_training_data(
            data_args, training_args.seed, model_args.model_name_or_path
        )
    attention = {"attn_implementation": model_args.attn_implementation}
    if model_args.model_name_or_path is not None:
        model = AutoModelForMaskedLM.from_pretrained(model_args.model_name_or_path, **attention)
    else:
        special = {name: getattr(tokenizer, name) for name in ("mask_token_id", "eos_token_id", "pad_token_id")}
        fields = {"vocab_size": len(tokenizer)} | special | (model_args.model_config or {})
        model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(model_args.model_type, **fields), **attention)

    trainer = MaskedDiffusionTrainer(
        model, training_args, train_dataset=train_dataset, eval_dataset=eval_dataset, processing_class=tokenizer
    )
    solve_at_evaluations(trainer, data_args)
    return trainer


if __name__ == "__main__":
    run_training(build, (ModelArguments, DataArguments, MaskedDiffusionTrainingArguments))
