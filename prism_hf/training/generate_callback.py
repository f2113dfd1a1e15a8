"""Samples of a model in training, and their score, at each evaluation."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback

from prism_hf.fields import Positive, Seed, check_arguments
from prism_hf.generation import prepare_generation_config, remask_generate


class GenerateCallback(TrainerCallback):
    """Completes the same prompts at each evaluation and adds the mean score of what comes out to the metrics.

    The model is the one that is evaluated, with the moving average of its weights where there is one. As `eval_<name>`
    the score is logged, stands in the model card, and may be the `metric_for_best_model`.

    Args:
        trainer (`MaskedDiffusionTrainer`): The trainer whose model it is.
        prompts (`torch.LongTensor`): (N, L), with masks to be filled, or to go on from with `max_new_tokens`.
        score (`Callable`): Given completed prompts (B, L') and the prompts (B, L), the scores (B,).
        name (`str`, *optional*, defaults to `"score"`): What the score is called.
        batch_size (`int`, *optional*, defaults to 64): Prompts in a batch; processes share the batches.
        seed (`int`, *optional*, defaults to 0): Of what is drawn; the same at each evaluation.
        **generation: Fields of `RemaskGenerationConfig`, over the model's own.

    Example:
        ```python
        trainer.add_callback(GenerateCallback(trainer, puzzles, is_solved, name="success", order="margin"))
        ```
    """

    def __init__(
        self,
        trainer: Any,
        prompts: torch.Tensor,
        score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        name: str = "score",
        batch_size: Positive = 64,
        seed: Seed = 0,
        **generation: Any,
    ) -> None:
        check_arguments(GenerateCallback.__init__, locals(), "GenerateCallback")
        if len(prompts) == 0:
            raise ValueError("There are no prompts to complete: give one at least.")
        self.trainer, self.batches, self.score = trainer, prompts.split(batch_size), score
        self.name, self.seed = f"eval_{name}", seed
        self.generation = {"mask_token_id": trainer.mask_token_id} | generation
        prepare_generation_config(trainer.model, None, **self.generation)  # what is wrong fails before training

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        own = range(len(self.batches))
        # Processes that share the weights of a model take every forward together.
        is_shared = self.trainer.is_fsdp_enabled or self.trainer.is_deepspeed_enabled
        if not is_shared:
            own = own[args.process_index :: args.world_size]
        scores = [score for number in own for score in self.scores(number)]
        if not is_shared:
            scores = gather_object(scores)
        metrics[self.name] = sum(scores) / len(scores)
        self.trainer.log({self.name: metrics[self.name]})

    def scores(self, number: int) -> list[float]:
        """Those of a batch."""
        prompts = self.batches[number]
        generator = torch.Generator().manual_seed(self.seed + number)
        prompts_there = prompts.to(self.trainer.args.device)
        completed: Any = remask_generate(self.trainer.model, prompts_there, generator=generator, **self.generation)
        return self.score(completed.cpu(), prompts).double().tolist()
