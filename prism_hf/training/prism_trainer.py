"""PRISM fine-tuning: a masked diffusion model learns which of its own tokens are right (arXiv 2510.01384)."""

import torch

from prism_hf.diffusion.drafting import draft
from prism_hf.diffusion.losses import linear_unmasking_loss, quality_loss
from prism_hf.evaluation.calibration import auroc, expected_calibration_error

from .masked_diffusion_trainer import MaskedDiffusionTrainer
from .training_arguments import PrismTrainingArguments


class PrismTrainer(MaskedDiffusionTrainer):
    """Fine-tunes a `PrismForMaskedDiffusion`: quality loss on its own drafts, plus lambda times the unmasking loss.

    Each step masks the batch, lets the model fill K masked positions, and trains the quality head to tell at those
    positions whether the token is the clean one. Batches are those of `MaskedDiffusionTrainer`.

    Metrics: `unmasking_loss`, `quality_loss`, `draft_accuracy` (share of drafted tokens that are right),
    `quality_auroc` and `quality_ece` (expected calibration error in 15 bins), each over all that was drafted since the
    last log, on all processes.
    """

    _tag_names = ("masked-diffusion", "prism")

    def __init__(self, model=None, args: PrismTrainingArguments | None = None, **kwargs):
        if args is None:
            args = PrismTrainingArguments("trainer_output")
        super().__init__(model=model, args=args, **kwargs)
        if not any("quality_head" in name for name, _ in self.model.named_parameters()):
            raise ValueError(
                f"{type(self.model).__name__} has no quality head: load the model with "
                "PrismForMaskedDiffusion.from_pretrained."
            )
        if args.freeze_backbone:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_("quality_head" in name)
        self.judged = {True: [], False: []}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Quality loss + lambda * unmasking loss; the second forward maps nothing to the vocabulary."""
        args, training = self.args, model.training
        noised = self.noise(inputs, training, drafting_draws=2 * args.num_drafts)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not args.freeze_backbone):
            states = model(
                input_ids=noised.z,
                attention_mask=noised.attention_mask,
                logits_to_keep=noised.masked,
                return_logits=False,
                return_quality=False,
            ).prediction_states
            decoder = self.accelerator.unwrap_model(model).get_output_embeddings()
            unmasking, confidence = linear_unmasking_loss(
                states, decoder, noised.targets, noised.weights, noised.denominator, self.mask_token_id
            )
        states = states.detach()
        y, filled = draft(
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
        )
        attention_mask = noised.attention_mask
        if attention_mask is not None:
            attention_mask = attention_mask.repeat(args.num_drafts, 1)
        outputs = model(input_ids=y, attention_mask=attention_mask, return_logits=False)
        quality_logits = outputs.quality_logits[filled]
        correct = y[filled] == inputs["input_ids"].repeat(args.num_drafts, 1)[filled]
        num_filled = self.mean_over_processes(filled.sum())
        denominator = num_filled if args.quality_normalizer == "filled" else len(y) * args.num_draft_tokens
        quality = quality_loss(quality_logits, correct, denominator)

        count = correct.new_tensor(correct.numel(), dtype=torch.float64)
        self.add_mean(training, "unmasking_loss", unmasking * noised.denominator, noised.denominator)
        self.add_mean(training, "quality_loss", quality * denominator, count)
        self.add_mean(training, "draft_accuracy", correct.sum(), count)
        self.judged[training].append(torch.stack([quality_logits.detach().float().sigmoid(), correct.float()], dim=1))
        loss = quality if args.freeze_backbone else quality + args.unmasking_weight * unmasking
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model=None):
        """As the parent's, with the head's parameters in groups of their own at `head_learning_rate`."""
        optimizer = super().create_optimizer(model)
        if self.args.head_learning_rate is None:
            return optimizer
        named = (self.model if model is None else model).named_parameters()
        head = {id(parameter) for name, parameter in named if "quality_head" in name}
        for group in list(optimizer.param_groups):
            heads = [parameter for parameter in group["params"] if id(parameter) in head]
            if heads and group["lr"] != self.args.head_learning_rate:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in head]
                optimizer.add_param_group({**group, "params": heads, "lr": self.args.head_learning_rate})
        return optimizer

    def pop_metrics(self, training: bool) -> dict[str, float]:
        metrics = super().pop_metrics(training)
        if self.judged[training]:
            judged = self.accelerator.pad_across_processes(torch.cat(self.judged[training]), dim=0, pad_index=-1)
            judged = self.accelerator.gather(judged).cpu()
            quality, correct = judged[judged[:, 1] >= 0].unbind(dim=1)
            self.judged[training].clear()
            if len(quality):
                metrics["quality_auroc"] = auroc(quality, correct)
                metrics["quality_ece"] = expected_calibration_error(quality, correct)
        return metrics

    def evaluation_loop(self, *args, **kwargs):
        self.judged[False].clear()
        return super().evaluation_loop(*args, **kwargs)
