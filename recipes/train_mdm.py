"""Pre-train a masked diffusion model on solved Sudoku grids.

    accelerate launch recipes/train_mdm.py --config recipes/configs/sudoku_mdm_laptop.yaml

Any argument of the YAML file can be given on the command line too. Started again, it goes on from the last checkpoint.
"""

from dataclasses import dataclass, field

from transformers import AutoConfig, AutoModelForMaskedLM, set_seed

import prism_hf.models  # noqa: F401  (registers MDLM)
from prism_hf import MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments
from prism_hf.data import SolvedGrids, SudokuGrids, SudokuTokenizer
from prism_hf.training import last_checkpoint, parse_arguments


@dataclass
class ModelArguments:
    model_name_or_path: str | None = field(default=None, metadata={"help": "Start from these weights, if given."})
    model_type: str = field(default="mdlm", metadata={"help": "mdlm, bert, or any type AutoModelForMaskedLM knows."})
    model_config: str | dict | None = field(default=None, metadata={"help": "Fields of the config of a new model."})
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2, ..."})


@dataclass
class DataArguments:
    train_file: str | None = field(default=None, metadata={"help": "CSV of solved grids; random grids if not given."})
    num_train_samples: int = field(default=48_000, metadata={"help": "Random grids, if there is no train_file."})
    num_eval_samples: int = field(default=1_000, metadata={"help": "Random grids held out for evaluation."})
    blanks: int | None = field(
        default=None, metadata={"help": "Random puzzles with so many blanks and one solution, their givens as prompt."}
    )
    layout: int = field(default=89, metadata={"help": "89 tokens with ends of rows, or the 81 cells."})


def main() -> None:
    model_args, data_args, training_args = parse_arguments(
        (ModelArguments, DataArguments, MaskedDiffusionTrainingArguments)
    )
    set_seed(training_args.seed)
    attention = {"attn_implementation": model_args.attn_implementation}
    if model_args.model_name_or_path is not None:
        model = AutoModelForMaskedLM.from_pretrained(model_args.model_name_or_path, **attention)
    else:
        config = AutoConfig.for_model(model_args.model_type, **(model_args.model_config or {}))
        model = AutoModelForMaskedLM.from_config(config, **attention)
    if data_args.train_file is not None:
        train_dataset = SolvedGrids(data_args.train_file)
    else:
        train_dataset = SudokuGrids(
            data_args.num_train_samples, training_args.seed + 1, data_args.layout, data_args.blanks
        )
    eval_dataset = SudokuGrids(data_args.num_eval_samples, training_args.seed, data_args.layout, data_args.blanks)

    trainer = MaskedDiffusionTrainer(
        model, training_args, train_dataset=train_dataset, eval_dataset=eval_dataset, processing_class=SudokuTokenizer()
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(training_args.output_dir))
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)
    trainer.save_model()  # after the evaluation, which the model card reports


if __name__ == "__main__":
    main()
