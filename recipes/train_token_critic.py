"""Train a token critic: a second network that judges the drafts of a masked diffusion model (arXiv 2209.04439).

    accelerate launch recipes/train_token_critic.py --config recipes/configs/sudoku_token_critic_laptop.yaml

Any argument of the YAML file can be given on the command line too. Started again, it goes on from the last
checkpoint; a finished run changes nothing then.
"""

from dataclasses import dataclass, field

from prism_hf import PrismConfig, PrismForMaskedDiffusion, TokenCriticTrainer, TokenCriticTrainingArguments, load_model
from prism_hf.data import DataArguments, load_training_data
from prism_hf.fields import check_fields
from prism_hf.models.auto import new_config
from prism_hf.models.prism import QUALITY_HEADS
from prism_hf.resources import resource_path
from prism_hf.training.running import run_training


@dataclass
class ModelArguments:
    denoiser_name_or_path: str | None = field(
        default=None, metadata={"help": "Whose drafts are judged; the Sudoku PRISM model that ships if not given."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Start the critic from these weights, if given."}
    )
    model_type: str = field(default="mdlm", metadata={"help": "Of a new critic: mdlm, llada, bert, ..."})
    model_config: dict | None = field(default=None, metadata={"help": "Fields of the config of a new critic."})
    head_type: str = field(
        default="linear", metadata={"help": "Output of a new critic; dit: MDLM only.", "choices": tuple(QUALITY_HEADS)}
    )
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2, ..."})

    __post_init__ = check_fields


def build(
    model_args: ModelArguments, data_args: DataArguments, training_args: TokenCriticTrainingArguments
) -> TokenCriticTrainer:
    attention = {"attn_implementation": model_args.attn_implementation}
    denoiser_name = model_args.denoiser_name_or_path or resource_path("sudoku_prism")
    with training_args.main_process_first(desc="loading the data"):
        train_dataset, eval_dataset, tokenizer = load_training_data(data_args, training_args.seed, denoiser_name)
    denoiser = load_model(denoiser_name, **attention)
    if model_args.model_name_or_path is not None:
        critic = PrismForMaskedDiffusion.from_pretrained(model_args.model_name_or_path, **attention)
    else:
        backbone_config = new_config(model_args.model_type, tokenizer, model_args.model_config or {})
        critic = PrismForMaskedDiffusion(PrismConfig(backbone_config=backbone_config, head_type=model_args.head_type))
        if model_args.attn_implementation is not None:
            critic.set_attn_implementation(model_args.attn_implementation)

    return TokenCriticTrainer(
        critic,
        training_args,
        denoiser=denoiser,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
    )


if __name__ == "__main__":
    run_training(build, (ModelArguments, DataArguments, TokenCriticTrainingArguments))
