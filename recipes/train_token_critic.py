"""Train a token critic: a second network that judges the drafts of a masked diffusion model (arXiv 2209.04439).

    accelerate launch recipes/train_token_critic.py --config recipes/configs/sudoku_token_critic_laptop.yaml

Any argument of the YAML file can be given on the command line too. Started again, it goes on from the last
checkpoint; a finished run changes nothing then.
"""

from dataclasses import dataclass, field

from transformers import AutoModelForMaskedLM
from trl import get_peft_config

from prism_hf import PrismConfig, PrismForMaskedDiffusion, TokenCriticTrainer, TokenCriticTrainingArguments, load_model
from prism_hf.data import DataArguments
from prism_hf.evaluation import prediction_metrics
from prism_hf.models.attention import available_attention
from prism_hf.models.auto import new_config
from prism_hf.models.prism import QUALITY_HEADS
from prism_hf.resources import model_path
from prism_hf.training.model_arguments import ModelArguments, building_arguments, loading_arguments
from prism_hf.training.running import recipe_data, run_training


@dataclass
class CriticArguments(ModelArguments):
    denoiser_name_or_path: str | None = field(
        default=None, metadata={"help": "Whose drafts are judged; the Sudoku PRISM model that ships if not given."}
    )
    model_type: str = field(
        default="mdlm", metadata={"help": "Of a new critic, without model_name_or_path: mdlm, llada, bert, ..."}
    )
    model_config: dict | None = field(default=None, metadata={"help": "Fields of the config of a new critic."})
    head_type: str = field(
        default="linear", metadata={"help": "Output of a new critic; dit: MDLM only.", "choices": tuple(QUALITY_HEADS)}
    )


def build(
    model_args: CriticArguments, data_args: DataArguments, training_args: TokenCriticTrainingArguments
) -> TokenCriticTrainer:
    denoiser_name = model_path(model_args.denoiser_name_or_path or "sudoku_prism")
    data = recipe_data(data_args, training_args, denoiser_name)
    attention = available_attention(model_args.attn_implementation, training_args.use_cpu)
    denoiser = load_model(denoiser_name, dtype=model_args.dtype, attn_implementation=attention)
    if model_args.model_name_or_path is not None:
        critic = PrismForMaskedDiffusion.from_pretrained(
            model_args.model_name_or_path, **loading_arguments(model_args, training_args)
        )
    else:
        backbone_config = new_config(model_args.model_type, data["processing_class"], model_args.model_config or {})
        config = PrismConfig(backbone_config=backbone_config, head_type=model_args.head_type)
        critic = AutoModelForMaskedLM.from_config(config, **building_arguments(model_args, training_args))

    compute_metrics = prediction_metrics(
        data_args.dataset, training_args.predict_with_generate, data["processing_class"], model_args.eval_scorer
    )
    return TokenCriticTrainer(
        critic,
        training_args,
        denoiser=denoiser,
        **data,
        peft_config=get_peft_config(model_args),
        compute_metrics=compute_metrics,
    )


if __name__ == "__main__":
    run_training(build, (CriticArguments, DataArguments, TokenCriticTrainingArguments))
