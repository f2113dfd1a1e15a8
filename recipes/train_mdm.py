"""Pre-train a masked diffusion model: on Sudoku, or on source files.

    accelerate launch recipes/train_mdm.py --config recipes/configs/sudoku_mdm_laptop.yaml

Any argument of the YAML file can be given on the command line too. Started again, it goes on from the last checkpoint.
"""

from dataclasses import dataclass, field

from accelerate import PartialState
from transformers import AutoConfig, AutoModelForMaskedLM, set_seed

import prism_hf.models  # noqa: F401  (registers LLaDA and MDLM)
from prism_hf import MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments
from prism_hf.data import DataArguments, load_training_data
from prism_hf.training import last_checkpoint, parse_arguments


@dataclass
class ModelArguments:
    model_name_or_path: str | None = field(default=None, metadata={"help": "Start from these weights, if given."})
    model_type: str = field(
        default="mdlm", metadata={"help": "mdlm, llada, bert, or any type AutoModelForMaskedLM knows."}
    )
    model_config: str | dict | None = field(default=None, metadata={"help": "Fields of the config of a new model."})
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2, ..."})


def main() -> None:
    model_args, data_args, training_args = parse_arguments(
        (ModelArguments, DataArguments, MaskedDiffusionTrainingArguments)
    )
    set_seed(training_args.seed)
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
    trainer.train(resume_from_checkpoint=last_checkpoint(training_args.output_dir))
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)
    trainer.save_model()  # after the evaluation, which the model card reports
    trainer.accelerator.wait_for_everyone()


if __name__ == "__main__":
    main()
    PartialState().destroy_process_group()  # not in main: DDP must be gone before
