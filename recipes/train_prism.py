"""Fine-tune a masked diffusion model with PRISM: on Sudoku, on source files, or on instructions and code.

    accelerate launch recipes/train_prism.py --config recipes/configs/sudoku_prism_laptop.yaml
    accelerate launch recipes/train_prism.py --config recipes/configs/llada_8b_opc.yaml

Any argument of the YAML file can be given on the command line too. Started again, it goes on from the last
checkpoint; a finished run changes nothing then.
"""

from dataclasses import dataclass, field

from prism_hf import PrismForMaskedDiffusion, PrismTrainer, PrismTrainingArguments, RemaskGenerationConfig
from prism_hf.data import DataArguments, load_training_data
from prism_hf.evaluation import sudoku_prediction_metrics
from prism_hf.fields import DTYPES, Count, check_fields
from prism_hf.models.prism import QUALITY_HEADS
from prism_hf.resources import resource_path
from prism_hf.training.running import lora_config, quantization_config, run_training


@dataclass
class ModelArguments:
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Any masked diffusion model; the Sudoku model that ships if not given."}
    )
    head_type: str = field(
        default="mlp", metadata={"help": "Quality head; dit: MDLM only.", "choices": tuple(QUALITY_HEADS)}
    )
    head_num_blocks: Count = field(default=0, metadata={"help": "Extra blocks of a dit head."})
    dtype: str = field(default="float32", metadata={"help": "Of the backbone's weights.", "choices": DTYPES})
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2, ..."})
    peft: dict | None = field(default=None, metadata={"help": "Fields of a LoraConfig; all weights if not given."})
    quantization: dict | None = field(default=None, metadata={"help": "Fields of a BitsAndBytesConfig."})
    generation: dict | None = field(
        default=None, metadata={"help": "Fields of the RemaskGenerationConfig saved with the model."}
    )

    __post_init__ = check_fields


def build(model_args: ModelArguments, data_args: DataArguments, training_args: PrismTrainingArguments) -> PrismTrainer:
    peft_config, quantization = lora_config(model_args.peft), quantization_config(model_args.quantization)
    generation_config = RemaskGenerationConfig(**(model_args.generation or {}))
    name_or_path = model_args.model_name_or_path or resource_path("sudoku_mdm")
    with training_args.main_process_first(desc="loading the data"):
        train_dataset, eval_dataset, tokenizer = load_training_data(data_args, training_args.seed, name_or_path)
    model = PrismForMaskedDiffusion.from_pretrained(
        name_or_path,
        head_type=model_args.head_type,
        head_num_blocks=model_args.head_num_blocks,
        dtype=model_args.dtype,
        attn_implementation=model_args.attn_implementation,
        quantization_config=quantization,
    )
    model.generation_config = generation_config

    solves = data_args.dataset == "sudoku" and training_args.predict_with_generate
    return PrismTrainer(
        model,
        training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        peft_config=peft_config,
        compute_metrics=sudoku_prediction_metrics if solves else None,
    )


if __name__ == "__main__":
    run_training(build, (ModelArguments, DataArguments, PrismTrainingArguments))
