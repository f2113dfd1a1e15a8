"""Pre-train a masked diffusion model: on Sudoku, or on source files.

    accelerate launch recipes/train_mdm.py --config recipes/configs/sudoku_mdm_laptop.yaml

Any argument of the YAML file can be given on the command line too. Started again, it goes on from the last
checkpoint; a finished run changes nothing then.
"""

from dataclasses import dataclass, field

from transformers import AutoModelForMaskedLM
from trl import get_peft_config

import prism_hf.models  # noqa: F401  (registers LLaDA and MDLM)
from prism_hf import MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments, RemaskGenerationConfig
from prism_hf.data import DataArguments
from prism_hf.evaluation import prediction_metrics
from prism_hf.models.auto import new_config
from prism_hf.training.model_arguments import ModelArguments, building_arguments, loading_arguments
from prism_hf.training.running import recipe_data, run_training


@dataclass
class MdmArguments(ModelArguments):
    model_type: str = field(
        default="mdlm",
        metadata={"help": "Of a new model, without model_name_or_path: mdlm, llada, bert, or any type of masked LM."},
    )
    model_config: dict | None = field(default=None, metadata={"help": "Fields of the config of a new model."})
    generation: dict | None = field(
        default=None, metadata={"help": "Fields of the RemaskGenerationConfig that evaluations generate with."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        RemaskGenerationConfig(**(self.generation or {}))  # a misspelt field is to fail before data are read


def build(
    model_args: MdmArguments, data_args: DataArguments, training_args: MaskedDiffusionTrainingArguments
) -> MaskedDiffusionTrainer:
    name_or_path = model_args.model_name_or_path
    data = recipe_data(data_args, training_args, name_or_path)
    if name_or_path is not None:
        model = AutoModelForMaskedLM.from_pretrained(name_or_path, **loading_arguments(model_args, training_args))
    else:
        config = new_config(model_args.model_type, data["processing_class"], model_args.model_config or {})
        model = AutoModelForMaskedLM.from_config(config, **building_arguments(model_args, training_args))
    if model_args.generation is not None:
        model.generation_config = RemaskGenerationConfig(**model_args.generation)

    compute_metrics = prediction_metrics(
        data_args.dataset, training_args.predict_with_generate, data["processing_class"], model_args.eval_scorer
    )
    return MaskedDiffusionTrainer(
        model,
        training_args,
        **data,
        peft_config=get_peft_config(model_args),
        compute_metrics=compute_metrics,
    )


if __name__ == "__main__":
    run_training(build, (MdmArguments, DataArguments, MaskedDiffusionTrainingArguments))
