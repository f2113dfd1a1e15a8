"""Token-Critic: a second network learns which tokens of a masked diffusion model's drafts are right (2209.04439).

A token critic is a `PrismForMaskedDiffusion` of its own weights, called with `return_logits=False`, so it is saved,
loaded and wrapped by PEFT like the rest. The denoiser is in no checkpoint and no optimizer; its LM head runs at masked
positions, some at a time. The critic does not see which positions were masked, so it learns another probability than
PRISM's head: see `quality_loss`.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import TrainingArguments

from prism_hf._compat import setting, unwrapped
from prism_hf.diffusion.drafting import fill
from prism_hf.diffusion.losses import quality_loss, rows_at_once
from prism_hf.hub import base_model_name, papers

from .arguments import TokenCriticTrainingArguments
from .masked_diffusion_trainer import T
from .masking import Noised
from .quality_trainer import JudgedDrafts, QualityTrainer, touching_all


def check_pair(critic: Any, denoiser: Any) -> None:
    """Raise ValueError unless `critic` can read what `denoiser`, of a known family, writes, with weights of its own."""
    from prism_hf.generation.denoising.reading import family_of

    for name in ("vocab_size", "mask_token_id"):
        values = [setting(unwrapped(model).config, name) for model in (critic, denoiser)]
        if None not in values and values[0] != values[1]:
            raise ValueError(
                f"The critic has {name}={values[0]}, the denoiser {name}={values[1]}: they must read the same tokens. "
                "Build the critic with the denoiser's."
            )
    family_of(denoiser)
    own = {id(parameter) for parameter in critic.parameters()}
    if any(id(parameter) in own for parameter in denoiser.parameters()):
        raise ValueError("The critic shares weights with the denoiser, which must stay as it is: load them apart.")


def check_finite(output: torch.Tensor) -> None:
    """Raise FloatingPointError if the denoiser's output, of which no loss tells, has NaN in it."""
    if output.isnan().any():
        raise FloatingPointError(
            "The denoiser's output has NaN in it: check its weights, or load it in bfloat16 or float32 rather than "
            "float16."
        )


class TokenCriticTrainer(QualityTrainer):
    """Trains a critic of another model's drafts (Token-Critic, arXiv 2209.04439), a network apart from that model.

    Each step masks the batch, lets the frozen denoiser fill all masks from its posterior, and trains the critic, which
    reads the full draft, to tell at those positions whether the token is the clean one. `quality_loss` says what it
    learns then. The denoiser is neither trained nor saved. Batches are those of `MaskedDiffusionTrainer`.

    Metrics: `critic_loss`, and `draft_accuracy`, `quality_auroc` and `quality_ece` as of `QualityTrainer`, each masked
    position counted once: where the loss is weighted, the best critic has a small `quality_ece` left.

    Args:
        model (`PrismForMaskedDiffusion` or `str`, *optional*): The critic, of which only body and quality head are
            used: a small one of its own, `head_type="linear"` as published, or one on a pretrained backbone; or what
            `PrismForMaskedDiffusion.from_pretrained` loads.
        args (`TokenCriticTrainingArguments`, *optional*): The arguments.
        *trainer_args, **kwargs: As for [`PrismTrainer`], `peft_config` among them.
        denoiser (`PreTrainedModel` or `str`): The model that drafts, or what `prism_hf.load_model` loads. Put into
            evaluation mode.

    Raises:
        ValueError: if there is no denoiser, if the two differ in vocabulary or mask token or share weights, and as
            `QualityTrainer`.

    Example:
        ```python
        from prism_hf import PrismConfig, PrismForMaskedDiffusion, TokenCriticTrainer, load_model

        denoiser = load_model("runs/mdm")
        critic = PrismForMaskedDiffusion(PrismConfig(backbone_config=denoiser.config, head_type="linear"))
        trainer = TokenCriticTrainer(critic, denoiser=denoiser, train_dataset=rows)
        trainer.train()
        ```
    """

    _tag_names = ("masked-diffusion", "token-critic")
    _name = "Token-Critic"
    _paper = papers.TOKEN_CRITIC

    args: TokenCriticTrainingArguments
    arguments_class = TokenCriticTrainingArguments

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        *trainer_args: Any,
        denoiser: Any = None,
        **kwargs: Any,
    ) -> None:
        if denoiser is None:
            raise ValueError("TokenCriticTrainer needs denoiser=, the model whose drafts the critic is to judge.")
        if isinstance(denoiser, str | os.PathLike):
            from prism_hf.models.auto import load_model

            denoiser = load_model(str(denoiser))
        self.denoiser = denoiser.eval()
        super().__init__(model, args, *trainer_args, **kwargs)
        self._move_model_to_device(self.denoiser, self.args.device)

    def take_model(self) -> None:
        super().take_model()
        check_pair(self.model, self.denoiser)
        name = base_model_name(self.denoiser) or type(self.denoiser).__name__
        unwrapped(self.model).training_record.denoiser = name

    @property
    def generator(self) -> tuple[Any, dict[str, Any]]:
        """The denoiser, whose tokens the critic judges."""
        _, settings = super().generator
        return self.denoiser, settings | {"remask_strategy": "token_critic", "critic": self.model}

    @property
    def drafting_draws(self) -> int:
        return 1

    def loss_counts(self, masked: torch.Tensor, maskable: torch.Tensor, num_rows: int) -> dict[str, torch.Tensor]:
        return {"critic_loss": self.num_learned(masked, maskable)}

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The critic's loss on the denoiser's drafts of a batch. The outputs are `JudgedDrafts`."""
        noised = self.noised(inputs, model.training)
        y = self.draft(noised)
        outputs = model(**noised.rows.inputs(y, self.model), return_logits=False)
        outputs = JudgedDrafts(noised.rows.by_row(outputs.quality_logits), noised.masked, y == inputs["input_ids"])
        quality_logits, correct = outputs.judgements()
        loss = quality_loss(quality_logits, correct, noised.denominators["critic_loss"], noised.weights)
        self.add_losses(model.training, noised, {"critic_loss": loss})
        self.add_judgements(model.training, quality_logits, correct)
        loss = touching_all(loss, model)
        return (loss, outputs) if return_outputs else loss

    def total_loss(self, losses: Mapping[str, T]) -> T:
        return losses["critic_loss"]

    def draft(self, noised: Noised) -> torch.Tensor:
        """`z` with all masks filled from the denoiser's posterior, (B, L)."""
        with torch.no_grad(), self.accelerator.autocast():
            return fill(
                noised.z,
                noised.masked,
                self.read_denoiser(noised),
                self.mask_token_id,
                noised.uniform[:, 0],
                sample=self.args.draft_do_sample,
                top_p=self.args.draft_top_p,
                rows_at_once=rows_at_once(unwrapped(self.denoiser).config.vocab_size, noised.z.device),
            )

    def read_denoiser(self, noised: Noised) -> Callable[[torch.Tensor], torch.Tensor]:
        """The denoiser's logits at given ones of the masked positions: (M,) -> (M, V)."""
        from prism_hf.backbones import forward_parameters, takes_positions
        from prism_hf.generation.denoising.reading import family_of, logits_of

        parameters = forward_parameters(self.denoiser)
        shifted = family_of(self.denoiser).shifted_logits
        inputs, masked = noised.rows.inputs(noised.z, self.denoiser), noised.rows.places(noised.masked)
        kwargs = {"logits_to_keep": masked} if takes_positions(self.denoiser) and not shifted else {}
        if "return_quality" in parameters:
            # The states before the decoder are all that is kept; the logits are built some positions at a time.
            outputs = self.denoiser(**inputs, return_logits=False, return_quality=False, **kwargs)
            decoder, states = unwrapped(self.denoiser).decoder, outputs.prediction_states
            check_finite(states)
            return lambda index: decoder(states[index].to(decoder.weight.dtype))
        logits = self.denoiser(**inputs, **kwargs).logits
        check_finite(logits)
        return (logits if kwargs else logits_of(logits, masked, shifted)).__getitem__
