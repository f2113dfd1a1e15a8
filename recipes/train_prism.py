"""Fine-tune a masked diffusion model with PRISM: on Sudoku, on source files, or on instructions and code.

    accelerate launch recipes/train_prism.py --config recipes/configs/sudoku_prism_laptop.yaml
    accelerate launch recipes/train_prism.py --config recipes/configs/llada_8b_opc.yaml

Any argument of the YAML file can be given on the command line too. Started again, it goes on from the last
checkpoint; a finished run changes nothing then.
"""

from dataclasses import dataclass, field

import torch
from peft import LoraConfig
from transformers import BitsAndBytesConfig

from prism_hf import PrismForMaskedDiffusion, PrismTrainer, PrismTrainingArguments, RemaskGenerationConfig
from prism_hf.data import DataArguments, load_training_data
from prism_hf.resources import resource_path
from prism_hf.training.running import run_training, solve_at_evaluations


@dataclass
class ModelArguments:
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Any masked diffusion model; the Sudoku model that ships if not given."}
    )
    head_type: str = field(default="mlp", metadata={"help": "Quality head: linear, mlp, or dit (MDLM only)."})
    head_num_blocks: int = field(default=0, metadata={"help": "Extra blocks of a dit head."})
    dtype: str = field(default="float32", metadata={"help": "Of the backbone's weights: float32, bfloat16, float16."})
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2, ..."})
    peft: str | dict | None = field(
        default=None, metadata={"help": "Fields of a LoraConfig; all weights if not given."}
    )
    quantization: str | dict | None = field(default=None, metadata={"help": "Fields of a BitsAndBytesConfig."})
    generation: str | dict | None = field(
        default=None, metadata={"help": "Fields of the RemaskGenerationConfig saved with the model."}
    )


def build(model_args: ModelArguments, data_args: DataArguments, training_args: PrismTrainingArguments) -> PrismTrainer:
    name_or_path = model_args.model_name_or_path or resource_path("sudoku_mdm")
    with training_args.main_process_first(desc="loading the data"):
        train_dataset, eval_dataset, tokenizer = load_training_data(data_args, training_args.seed, name_or_path)
    quantization = {}
    if model_args.quantization is not None:
        quantization["quantization_config"] = BitsAndBytesConfig(**model_args.quantization)
    model = PrismForMaskedDiffusion.from_pretrained(
        name_or_path,
        head_type=model_args.head_type,
        head_num_blocks=model_args.head_num_blocks,
        dtype=getattr(torch, model_args.dtype),
        attn_implementation=model_args.attn_implementation,
        **quantization,
    )
    model.generation_config = RemaskGenerationConfig(**(model_args.generation or {}))

    trainer = PrismTrainer(
        model,
        training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        peft_config=None if model_args.peft is None else LoraConfig(**model_args.peft),
    )
    solve_at_evaluations(trainer, data_args)
    return trainer


if __name__ == "__main__":
    run_training(build, (ModelArguments, DataArguments, PrismTrainingArguments))
