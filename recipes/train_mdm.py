"""Pre-train a masked diffusion model: on Sudoku, or on source files.

    accelerate launch recipes/train_mdm.py --config recipes/configs/sudoku_mdm_laptop.yaml

Any argument of the YAML file can be given on the command line too. Started again, it goes on from the last
checkpoint; a finished run changes nothing then.
"""

from dataclasses import dataclass, field

from transformers import AutoModelForMaskedLM

from prism_hf import MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments
from prism_hf.data import DataArguments, load_training_data
from prism_hf.evaluation import sudoku_prediction_metrics
from prism_hf.fields import check_fields
from prism_hf.models.auto import new_config
from prism_hf.training.running import run_training


@dataclass
class ModelArguments:
    model_name_or_path: str | None = field(default=None, metadata={"help": "Start from these weights, if given."})
    model_type: str = field(
        default="mdlm", metadata={"help": "mdlm, llada, bert, or any type AutoModelForMaskedLM knows."}
    )
    model_config: dict | None = field(default=None, metadata={"help": "Fields of the config of a new model."})
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2, ..."})

    __post_init__ = check_fields


def build(
    model_args: ModelArguments, data_args: DataArguments, training_args: MaskedDiffusionTrainingArguments
) -> MaskedDiffusionTrainer:
    name_or_path, attention = model_args.model_name_or_path, {"attn_implementation": model_args.attn_implementation}
    with training_args.main_process_first(desc="loading the data"):
        train_dataset, eval_dataset, tokenizer = load_training_data(data_args, training_args.seed, name_or_path)
    if name_or_path is not None:
        model = AutoModelForMaskedLM.from_pretrained(name_or_path, **attention)
    else:
        config = new_config(model_args.model_type, tokenizer, model_args.model_config or {})
        model = AutoModelForMaskedLM.from_config(config, **attention)

    solves = data_args.dataset == "sudoku" and training_args.predict_with_generate
    return MaskedDiffusionTrainer(
        model,
        training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        compute_metrics=sudoku_prediction_metrics if solves else None,
    )


if __name__ == "__main__":
    run_training(build, (ModelArguments, DataArguments, MaskedDiffusionTrainingArguments))
