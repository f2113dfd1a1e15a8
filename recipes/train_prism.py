"""Fine-tune a masked diffusion model with PRISM: on Sudoku, on source files, or on instructions and code.

    accelerate launch recipes/train_prism.py --config recipes/configs/sudoku_prism_laptop.yaml
    accelerate launch recipes/train_prism.py --config recipes/configs/llada_8b_opc.yaml

Any argument of the YAML file can be given on the command line too. Started again, it goes on from the last
checkpoint; a finished run changes nothing then.
"""

from dataclasses import dataclass, field

from trl import get_peft_config

from prism_hf import PrismForMaskedDiffusion, PrismTrainer, PrismTrainingArguments, RemaskGenerationConfig
from prism_hf.data import DataArguments
from prism_hf.evaluation import prediction_metrics
from prism_hf.fields import Count
from prism_hf.models.prism import QUALITY_HEADS
from prism_hf.resources import model_path
from prism_hf.training.model_arguments import ModelArguments, loading_arguments
from prism_hf.training.running import recipe_data, run_training


@dataclass
class PrismArguments(ModelArguments):
    """Without model_name_or_path, the Sudoku model that ships."""

    head_type: str | None = field(
        default=None,
        metadata={
            "help": "New quality head, mlp if not given; dit: MDLM only. A model that has one keeps it.",
            "choices": tuple(QUALITY_HEADS),
        },
    )
    head_num_blocks: Count | None = field(default=None, metadata={"help": "Extra blocks of a new dit head."})
    generation: dict | None = field(
        default=None, metadata={"help": "Fields of the RemaskGenerationConfig saved with the model."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        RemaskGenerationConfig(**(self.generation or {}))  # a misspelt field is to fail before data are read


def build(model_args: PrismArguments, data_args: DataArguments, training_args: PrismTrainingArguments) -> PrismTrainer:
    name_or_path = model_args.model_name_or_path or model_path("sudoku_mdm")
    data = recipe_data(data_args, training_args, name_or_path)
    head = {"head_type": model_args.head_type, "head_num_blocks": model_args.head_num_blocks}
    model = PrismForMaskedDiffusion.from_pretrained(
        name_or_path,
        **{name: value for name, value in head.items() if value is not None},
        **loading_arguments(model_args, training_args),
    )
    model.generation_config = RemaskGenerationConfig(**(model_args.generation or {}))

    compute_metrics = prediction_metrics(
        data_args.dataset, training_args.predict_with_generate, data["processing_class"], model_args.eval_scorer
    )
    return PrismTrainer(
        model,
        training_args,
        **data,
        peft_config=get_peft_config(model_args),
        compute_metrics=compute_metrics,
    )


if __name__ == "__main__":
    run_training(build, (PrismArguments, DataArguments, PrismTrainingArguments))
