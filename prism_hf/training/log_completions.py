"""Completions of a model in training, at each evaluation: to be looked at, and scored.

It has the place and the name of TRL's callback, which completes prompts of text with a decoder's `generate`.
"""

import html
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from typing import Any

import torch
from accelerate.utils import gather_object
from pandas import DataFrame
from transformers import GenerationConfig, TrainerCallback
from transformers.integrations.integration_utils import TensorBoardCallback

from prism_hf._compat import tokenizer_of
from prism_hf.data.prompts import decode_completions, encode_prompts
from prism_hf.fields import Positive, Seed, check_arguments
from prism_hf.generation import prepare_generation_config
from prism_hf.generation.configuration_remask import fitted_to_tokenizer
from prism_hf.generation.trajectory import Trajectory
from prism_hf.jobs.completions import batch_seed

from .ema import averaged
from .generating import IN_PLACE, generate, padded_prompts, shares_weights

Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Prompts = torch.Tensor | Sequence[str] | Sequence[list[dict[str, Any]]]
TABLE = "completions"  # as TRL calls it
TRACKERS = ("wandb", "trackio")  # which have `log` and `Table` alike


class LogCompletionsCallback(TrainerCallback):
    """Completes the same prompts at each evaluation and logs them as a table; a score of them is a metric.

    The model is the one that is evaluated, with the moving average of its weights where there is one, and corrects
    itself as its generation config says. The table, called `completions`, goes to those of wandb, trackio and
    tensorboard that `report_to` names, and is printed without any of them. Its columns: `step`, `prompt`, `completion`,
    the numbers of tokens `remasked` and `corrected` on the way, the mean `quality` that the last forward read of the
    tokens generated before it, and the score. As `eval_<name>` the mean score is logged, stands in the model card, and
    may be the `metric_for_best_model`.

    Args:
        trainer (`MaskedDiffusionTrainer`): The trainer whose model it is.
        prompts (`torch.LongTensor` or `list`, *optional*): (N, L), with masks to be filled, or to go on from with
            `max_new_tokens`; a canvas of masks alone is a sample without a prompt. Or texts, or conversations for the
            tokenizer's chat template. If not given, rows of the evaluation dataset, whose tokens to learn are masked.
        score (`Callable`, *optional*): Given completed prompts (B, L') and the prompts (B, L), padded on the left if
            they are texts, the scores (B,).
        name (`str`, *optional*, defaults to `"score"`): What the score is called.
        batch_size (`int`, *optional*, defaults to 64): Prompts in a batch at most; processes share them.
        seed (`int`, *optional*, defaults to 0): Of what is drawn; the same at each evaluation.
        generation_config (`GenerationConfig`, *optional*): The settings; the model's own if not given.
        num_prompts (`int`, *optional*, defaults to 8): How many of the prompts are in the table, or how many rows of
            the evaluation dataset are taken. All prompts are scored.
        freq (`int`, *optional*): Every so many steps instead of at evaluations.
        **generation: Fields of `RemaskGenerationConfig`, over the config's.

    Raises:
        ValueError: if there is nothing to complete, or settings are wrong.

    Example:
        ```python
        trainer.add_callback(LogCompletionsCallback(trainer, ["Once upon a time"], max_new_tokens=64))
        trainer.add_callback(LogCompletionsCallback(trainer, puzzles, is_solved, name="success", order="margin"))
        ```
    """

    def __init__(
        self,
        trainer: Any,
        prompts: Prompts | None = None,
        score: Score | None = None,
        name: str = "score",
        batch_size: Positive = 64,
        seed: Seed = 0,
        generation_config: GenerationConfig | None = None,
        num_prompts: Positive = 8,
        freq: Positive | None = None,
        **generation: Any,
    ) -> None:
        check_arguments(LogCompletionsCallback.__init__, locals(), "LogCompletionsCallback")
        self.trainer, self.score, self.name, self.seed = trainer, score, name, seed
        self.num_prompts, self.freq = num_prompts, freq
        self.tokenizer = tokenizer_of(trainer.processing_class)
        if prompts is None:
            generation = IN_PLACE | generation
        self.generation = self._checked(generation_config, generation, prompts)
        self.prompts = self._encoded(prompts)[: num_prompts if score is None else None]
        if not self.prompts:
            raise ValueError("There are no prompts to complete: give one at least.")
        self.batch_size = min(batch_size, -(-len(self.prompts) // trainer.args.world_size))
        self.rows: list[dict[str, Any]] = []  # that were logged

    def _checked(self, config: GenerationConfig | None, generation: dict[str, Any], prompts: Any) -> dict[str, Any]:
        """The settings as keyword arguments; what is wrong with them fails before training."""
        model, told = self.trainer.generator
        given = told | {"num_return_sequences": 1, "return_dict_in_generate": True} | generation
        given |= {} if config is None else {"generation_config": config}
        if prompts is not None and not isinstance(prompts, torch.Tensor) and self.tokenizer is not None:
            given = fitted_to_tokenizer(model, self.tokenizer, given)
        self.config, _ = prepare_generation_config(model, **{"generation_config": None, **given})
        return {name: value for name, value in given.items() if name not in told}

    def _encoded(self, prompts: Any) -> list[list[int]]:
        """The token ids of each prompt."""
        if isinstance(prompts, torch.Tensor):
            return prompts.tolist()
        if prompts is not None:
            if self.tokenizer is None and prompts:
                raise ValueError("Prompts of text need a tokenizer: give the trainer a processing_class.")
            is_chat = bool(prompts) and not isinstance(prompts[0], str)
            appends = bool(self.config.max_new_tokens)
            return encode_prompts(prompts, self.tokenizer, is_chat, appends, self.trainer.mask_token_id)
        dataset = self.trainer.eval_dataset
        if dataset is None:
            raise ValueError("There are no prompts to complete: give prompts, or the trainer an eval_dataset.")
        dataset = next(iter(dataset.values())) if isinstance(dataset, Mapping) else dataset
        batches = (self.trainer.data_collator([row]) for row in islice(dataset, self.num_prompts))
        masked = (batch["input_ids"].masked_fill(batch["maskable"], self.trainer.mask_token_id) for batch in batches)
        return [ids for batch in masked for ids in batch.tolist()]

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        if self.freq is None:
            metrics.update(self.complete())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.freq is not None and state.global_step % self.freq == 0:
            with averaged(self.trainer.callback_handler.callbacks, self.trainer.model):
                self.complete()

    def complete(self) -> dict[str, float]:
        """Complete the prompts and log them. Returns the mean score."""
        trainer, args = self.trainer, self.trainer.args
        own: Sequence[int] = range(0, len(self.prompts), self.batch_size)
        shares = shares_weights(trainer)
        if not shares:
            own = own[args.process_index :: args.world_size]
        numbered = [row for start in own for row in enumerate(self.completed(start), start)]
        rows = [row for _, row in sorted(numbered if shares else gather_object(numbered), key=lambda each: each[0])]
        shown = [{"step": trainer.state.global_step, **row} for row in rows[: self.num_prompts]]
        self.rows += shown
        if trainer.is_world_process_zero():
            log_rows(self.rows, shown, args, trainer.callback_handler.callbacks)
        if self.score is None:
            return {}
        mean = {f"eval_{self.name}": sum(row[self.name] for row in rows) / len(rows)}
        trainer.log(dict(mean))
        return mean

    def completed(self, start: int) -> list[dict[str, Any]]:
        """What is told of the prompts of a batch."""
        prompts, mask = padded_prompts(self.prompts[start : start + self.batch_size])
        is_shown = start < self.num_prompts
        with evaluating(self.trainer):
            seed, record = batch_seed(self.seed, start), {"output_trajectory": is_shown}
            output = generate(self.trainer, prompts, mask, seed, **self.generation | record)
        completed = output.sequences.cpu()
        columns: dict[str, list[Any]] = {}
        if is_shown:
            columns |= texts_of(prompts, mask, completed, self.tokenizer, self.config.eos_token_id)
            columns |= corrections_of(output.trajectory, self.config.mask_token_id)
        if self.score is not None:
            columns[self.name] = self.score(completed, prompts).double().tolist()
        names = list(columns)
        return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@contextmanager
def evaluating(trainer: Any) -> Iterator[None]:
    """Within, the model that is trained is in evaluation mode, be it what generates or what judges."""
    was_training = trainer.model.training
    trainer.model.eval()
    try:
        yield
    finally:
        trainer.model.train(was_training)


def texts_of(
    prompts: torch.Tensor, mask: torch.Tensor, completed: torch.Tensor, tokenizer: Any, eos_token_id: Any
) -> dict[str, list[str]]:
    """Texts of prompts (B, L), and of what was appended to them or, with their masks filled in place, of the whole."""
    width, real = prompts.shape[1], mask.bool()
    given = [row[kept].tolist() for row, kept in zip(prompts, real, strict=True)]
    new = completed[:, width:].tolist()
    whole = [row[kept].tolist() for row, kept in zip(completed[:, :width], real, strict=True)]
    if tokenizer is None:
        told = [" ".join(map(str, ids)) for ids in given + (new if new[0] else whole)]
        return {"prompt": told[: len(given)], "completion": told[len(given) :]}
    completions = decode_completions(new, tokenizer, eos_token_id) if new[0] else tokenizer.batch_decode(whole)
    return {"prompt": tokenizer.batch_decode(given), "completion": completions}


def corrections_of(trajectory: Trajectory, mask_token_id: int) -> dict[str, list[Any]]:
    """How many tokens of each row were remasked and corrected; and their mean quality in the end, if it was read."""
    columns: dict[str, list[Any]] = {
        "remasked": trajectory.remasked.sum((0, 2)).tolist(),
        "corrected": trajectory.corrections().sum((0, 2)).tolist(),
    }
    if trajectory.quality is not None and len(trajectory.canvas) > 1:
        held = trajectory.filled.any(0) & (trajectory.canvas[-2] != mask_token_id)
        quality = trajectory.quality[-1].float().masked_fill(~held, math.nan).nanmean(-1)
        columns["quality"] = [None if math.isnan(mean) else round(mean, 4) for mean in quality.tolist()]
    return columns


def log_rows(
    rows: list[dict[str, Any]], new: list[dict[str, Any]], args: Any, callbacks: list[TrainerCallback]
) -> None:
    """Show rows where a training is reported: a tracker gets all there are so far, others the new ones."""
    step = new[0]["step"]
    trackers = [name for name in TRACKERS if name in args.report_to]
    writers = [each.tb_writer for each in callbacks if isinstance(each, TensorBoardCallback) and each.tb_writer]
    for name in trackers:
        tracker = import_module(name)
        table = tracker.Table(dataframe=DataFrame(rows))
        tracker.log({TABLE: table, "train/global_step": step})
    for writer in writers:
        writer.add_text(TABLE, _markdown(new), step)
    if not trackers and not writers:
        print(f"Completions at step {step}:", *map(_lines, new), sep="\n")


def _markdown(rows: list[dict[str, Any]]) -> str:
    """Rows as a table, in whose cells text stays as it is."""
    cells = [[html.escape(str(value)).replace("|", "&#124;") for value in row.values()] for row in rows]
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [["<br>".join(cell.splitlines()) for cell in row] for row in cells]  # \r and \x85 too
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _lines(row: dict[str, Any]) -> str:
    """A row as lines: its texts, and its numbers in one."""
    numbers = ", ".join(f"{name} {value}" for name, value in row.items() if not isinstance(value, str | None))
    return "\n".join(
        [*(f"  {name}: {value!r}" for name, value in row.items() if isinstance(value, str)), f"  {numbers}"]
    )
