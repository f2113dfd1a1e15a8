"""PRISM fine-tuning: a masked diffusion model learns which of its own tokens are right (arXiv 2510.01384).

The two forwards of a step are backpropagated one after the other, the first within `compute_loss`, so that one graph
lives at a time. Under DDP the first is not synchronised, and the second touches every parameter, as DDP waits there for
the LM head too. The decoder is used outside of the model's forward, so `sharding` gathers it under FSDP2 and ZeRO-3.

The quality is learned at filled positions only. Its value at a masked position means nothing, and nothing reads it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from prism_hf._compat import without_gradient_sync
from prism_hf.diffusion.drafting import draft
from prism_hf.diffusion.losses import linear_unmasking_loss, mapped_unmasking_loss, quality_loss
from prism_hf.hub import papers

from .arguments import PrismTrainingArguments
from .masked_diffusion_trainer import T
from .masking import Noised
from .quality_trainer import JudgedDrafts, QualityTrainer, freeze_backbone, surenesses, touching_all
from .sharding import gathered


class PrismTrainer(QualityTrainer):
    """Fine-tunes a `PrismForMaskedDiffusion`: quality loss on its own drafts, plus lambda times the unmasking loss.

    Each step masks the batch, lets the model fill K masked positions, and trains the quality head to tell at those
    positions whether the token is the clean one. The two forwards are backpropagated one after the other, so that one
    graph lives at a time. Batches are those of `MaskedDiffusionTrainer`.

    Where the model's generation config names no remask strategy, it becomes `"prism"`, so that the trained model
    corrects itself without being told.

    Metrics: `unmasking_loss` and `quality_loss`, of which `loss` is made (with a frozen backbone it is the latter), the
    `perplexity` of an evaluation as of `MaskedDiffusionTrainer`, and those of `QualityTrainer`.

    Args:
        model (`PrismForMaskedDiffusion` or `str`, *optional*): A model with a quality head, or what
            `PrismForMaskedDiffusion.from_pretrained` loads.
        args (`PrismTrainingArguments`, *optional*): The arguments.
        *trainer_args, **kwargs: As for [`MaskedDiffusionTrainer`]. With a `peft_config`, the quality head joins its
            `modules_to_save`.

    Raises:
        ValueError: if the model has no quality head, or is a `PeftModel` and a `peft_config` is given.

    Example:
        ```python
        from datasets import load_dataset
        from peft import LoraConfig
        from transformers import AutoTokenizer

        from prism_hf import PrismForMaskedDiffusion, PrismTrainer, PrismTrainingArguments

        name = "GSAI-ML/LLaDA-8B-Base"
        trainer = PrismTrainer(
            PrismForMaskedDiffusion.from_pretrained(name, dtype="bfloat16"),
            PrismTrainingArguments("runs/prism", bf16=True, max_steps=1000),
            train_dataset=load_dataset("roneneldan/TinyStories", split="train[:1%]"),  # rows of text
            processing_class=AutoTokenizer.from_pretrained(name),
            peft_config=LoraConfig(r=64, target_modules=["q_proj", "k_proj", "v_proj"]),
        )
        trainer.train()
        ```
    """

    _tag_names = ("masked-diffusion", "prism")
    _name = "PRISM"
    _paper = papers.PRISM

    args: PrismTrainingArguments
    arguments_class = PrismTrainingArguments

    def take_model(self) -> None:
        """As the parent's; the backbone is frozen if the arguments say so, and the model will correct itself."""
        from prism_hf.generation import RemaskGenerationConfig

        super().take_model()
        generation_config = self.model.generation_config
        if isinstance(generation_config, RemaskGenerationConfig) and generation_config.remask_strategy is None:
            generation_config.remask_strategy = "prism"  # "none" would be somebody's choice
        if self.args.freeze_backbone:
            freeze_backbone(self.model)

    # Loss

    @property
    def drafting_draws(self) -> int:
        return 2 * self.args.num_drafts

    def loss_counts(self, masked: torch.Tensor, maskable: torch.Tensor, num_rows: int) -> dict[str, torch.Tensor]:
        args = self.args
        if args.quality_normalizer == "draft":
            judged = masked.new_full((), num_rows * args.num_draft_tokens, dtype=torch.int64)
        else:
            most = args.num_draft_tokens
            if args.draft_selection == "semi_autoregressive":
                most = min(most, args.draft_window)
            judged = masked.sum(-1).clamp(max=most).sum()
        return {"unmasking_loss": self.num_learned(masked, maskable), "quality_loss": args.num_drafts * judged}

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Quality loss + lambda * unmasking loss; the second forward maps nothing to the vocabulary.

        Of a model in training mode the second term is backpropagated here, before the second forward is built, and only
        its value is part of the loss that is returned. The outputs are `JudgedDrafts`.
        """
        noised = self.noised(inputs, model.training)
        unmasking, of_tokens, y, filled = self.unmask_and_draft(model, noised)
        read = {"return_logits": False} if model.training else {"logits_to_keep": noised.rows.places(filled)}
        judged = model(**noised.rows.inputs(y, self.model), **read)
        correct = y == inputs["input_ids"].repeat(self.args.num_drafts, 1)
        outputs = JudgedDrafts(noised.rows.by_row(judged.quality_logits), filled, correct)
        quality_logits, correct = outputs.judgements()
        quality = quality_loss(quality_logits, correct, noised.denominators["quality_loss"])
        losses = {"unmasking_loss": unmasking, "quality_loss": quality}
        self.add_losses(model.training, noised, losses, of_tokens)
        rivals = None if model.training else surenesses(judged.logits, y[filled], self.mask_token_id)
        self.add_judgements(model.training, quality_logits, correct, rivals)
        loss = touching_all(self.total_loss(losses), model)
        return (loss, outputs) if return_outputs else loss

    def total_loss(self, losses: Mapping[str, T]) -> T:
        if self.args.freeze_backbone:
            return losses["quality_loss"]
        return losses["quality_loss"] + self.args.unmasking_weight * losses["unmasking_loss"]

    def unmask_and_draft(
        self, model: Any, noised: Noised
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The first forward: the unmasking loss, its terms (N,), the drafts `y` and `filled`, (num_drafts * B, L)."""
        has_gradient = torch.is_grad_enabled() and self.args.trains_posterior
        decoder = self.accelerator.unwrap_model(model).decoder
        with torch.set_grad_enabled(has_gradient), self.first_backward(model), self.accelerator.autocast():
            states = model(
                **noised.rows.inputs(noised.z, self.model),
                logits_to_keep=noised.rows.places(noised.masked),
                return_logits=False,
                return_quality=False,
            ).prediction_states
            with gathered(model, decoder) as gather:
                states = states.to(decoder.weight.dtype)
                # With an adapter on the decoder, its weight alone is not the map that the model computes.
                adapted = isinstance(decoder, BaseTunerLayer | AuxiliaryTrainingWrapper)
                loss_of = mapped_unmasking_loss if adapted else linear_unmasking_loss
                denominator = noised.denominators["unmasking_loss"]
                unmasking, confidence, of_tokens = loss_of(
                    states, decoder, noised.targets, noised.weights, denominator, self.mask_token_id
                )
                if has_gradient and model.training:
                    # As Trainer.training_step does with the loss that compute_loss returns.
                    kwargs = {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}
                    self.accelerator.backward(self.args.unmasking_weight * unmasking, **kwargs)
                    unmasking = unmasking.detach()
                    gather()
                y, filled = self.draft(model, noised, decoder, states.detach(), confidence)
        return unmasking, of_tokens, y, filled

    def draft(
        self, model: Any, noised: Noised, decoder: nn.Module, states: torch.Tensor, confidence: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The drafts `y` and `filled`, (num_drafts * B, L), from the decoder's input (N, D) at masked positions."""
        args = self.args

        def reread(y: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            at = noised.rows.places(positions)
            return model(**noised.rows.inputs(y, self.model), logits_to_keep=at, return_quality=False).logits

        return draft(
            noised.z,
            noised.masked,
            lambda index: decoder(states[index]),
            self.mask_token_id,
            args.num_draft_tokens,
            noised.uniform.unflatten(1, (args.num_drafts, 2)).permute(1, 2, 0, 3),
            confidence=confidence,
            selection=args.draft_selection,
            sample=args.draft_do_sample,
            top_p=args.draft_top_p,
            window=args.draft_window,
            num_steps=args.draft_steps,
            reread=reread,
        )

    @contextmanager
    def first_backward(self, model: nn.Module) -> Iterator[None]:
        """A backward that another one follows: DDP keeps its gradients local, DeepSpeed takes no step."""
        local = model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()
        with without_gradient_sync(self.accelerator), local:
            yield
