"""The model `prism_hf` of lm-evaluation-harness: any masked diffusion model, with all that `generate` can do.

Importing this module registers it; `prism-hf lm-eval` does that and calls the harness. Answers and likelihoods are as
the published evaluations of LLaDA and Dream have them: an answer is decoded with special tokens, cut at each of the
task's strings, tokenized anew and decoded without special tokens; a likelihood is a Monte-Carlo bound.

What a request gets does not depend on what is beside it: random numbers come from a seed of the request itself. Greedy
answers and likelihoods are the same for any batch size and number of processes, as far as rounding lets them; where
tokens are drawn, that holds for a batch size of 1, since the rows of a batch share their random numbers.

The harness hands each process its documents, and repeats the last request of those that have fewer, for models that
need to go in step. This one does not: it generates as many answers as a request asks for, and gives the last again.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple, cast

import torch
from accelerate import PartialState
from accelerate.utils import gather
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from lm_eval.api.model import CacheHook, TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from prism_hf.data.prompts import encode_texts, up_to_end
from prism_hf.data.tokenizers import check_chat_template, read_tokenizer
from prism_hf.evaluation.metrics.likelihood import (
    LIKELIHOODS,
    Continuation,
    check_copies,
    is_greedy,
    log_likelihood_bound,
)
from prism_hf.fields import Allowed, Positive, Seed, check_arguments
from prism_hf.generation.configuration_remask import fitted_to_tokenizer, prepare_generation_config
from prism_hf.generation.denoising.canvas import longest_canvas
from prism_hf.generation.denoising.reading import check_quality
from prism_hf.generation.denoising.stopping import as_ids
from prism_hf.generation.generation_remask import remask_generate
from prism_hf.hub.portable import portable
from prism_hf.jobs.digests import json_digest, weights_digest
from prism_hf.jobs.launching import wait_for_slowest
from prism_hf.models.attention import available_attention
from prism_hf.models.auto import Dtype, load_model
from prism_hf.resources import model_path

from .counts import Counts, merged
from .settings import read_settings, settings_of_request

logger = logging.get_logger(__name__)

AUTO = "auto"
MAX_BATCH_SIZE = 64
MAX_LENGTH = 2048  # of a model that knows no limit, as the harness has it
SETTINGS_KEY = "prism_hf settings"

BatchSize = Positive | Annotated[str, Allowed(choices=(AUTO,))]
Likelihood = Annotated[str, Allowed(choices=LIKELIHOODS)]


class Call(NamedTuple):
    """How `remask_generate` is called for some requests, and the tokens that end an answer."""

    settings: dict[str, Any]
    eos: list[int]


class Question(NamedTuple):
    """A request for an answer: which of all, what it says, its tokens, and the seed of its random numbers."""

    number: int
    request: Any
    ids: list[int]
    until: list[str]
    seed: int


@register_model("prism_hf")
class PrismLM(TemplateLM):
    """A masked diffusion model as lm-evaluation-harness asks it.

    Args:
        pretrained (`str` or `PreTrainedModel`): A whole model or an adapter, which names its base model, from a folder,
            the Hub or among those that ship; or the model itself.
        tokenizer (`str` or `PreTrainedTokenizerBase`, *optional*): By default that of `pretrained`.
        revision (`str`, *optional*, defaults to `"main"`): Of the Hub's repository.
        dtype (`str`, *optional*, defaults to `"auto"`): Of the weights.
        attn_implementation (`str`, *optional*): As for `from_pretrained`.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether a repository's own code may run.
        device (`str`, *optional*): Where it runs, by default the accelerator if there is one. With several processes,
            each has its own.
        batch_size (`int` or `"auto"`, *optional*, defaults to 1): Requests generated at once, and rows of a forward
            where likelihoods are asked for. `"auto"` begins with `max_batch_size` and halves it where memory ends.
        max_batch_size (`int`, *optional*, defaults to 64): Where `"auto"` begins.
        max_length (`int`, *optional*): Tokens of a canvas, by default as many as the model has positions for. What of a
            context is too long is cut off at its beginning.
        add_bos_token (`bool`, *optional*): Put BOS before what does not begin with it (True), or let the tokenizer put
            nothing there (False). By default the tokenizer's own way.
        likelihood (`str`, *optional*, defaults to `"llada"`): By whose rule likelihoods are estimated, `"llada"` or
            `"dream"`, see `log_likelihood_bound`. Dream's appends EOS to a text.
        mc_num (`int`, *optional*, defaults to 128): Masked copies of a text.
        mc_batch_size (`int`, *optional*): Copies whose numbers of masks are spread evenly, the batch size of the
            published code. By default the largest divisor of `mc_num` among 8, 4, 2 and 1.
        is_check_greedy (`bool`, *optional*, defaults to `False`): Whether the harness is told if the model would write
            a continuation itself, which takes up to a forward a token. Otherwise it is told that it would not.
        seed (`int`, *optional*, defaults to 0): Of the random numbers.
        **generation: Fields of `RemaskGenerationConfig` and of the remask strategy. They win over what a task says.

    Example:
        ```python
        import lm_eval
        from prism_hf.evaluation.harness.lm_eval import PrismLM

        lm = PrismLM("GSAI-ML/LLaDA-8B-Instruct", dtype="bfloat16", max_new_tokens=256, block_length=32, batch_size=8)
        results = lm_eval.simple_evaluate(lm, tasks=["gsm8k_cot_zeroshot"], apply_chat_template=True)
        ```
    """

    def __init__(
        self,
        pretrained: Any,
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        revision: str = "main",
        dtype: Dtype = "auto",
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        device: str | None = None,
        batch_size: BatchSize = 1,
        max_batch_size: Positive | None = None,
        max_length: Positive | None = None,
        add_bos_token: bool | None = None,
        likelihood: Likelihood = "llada",
        mc_num: Positive = 128,
        mc_batch_size: Positive | None = None,
        is_check_greedy: bool = False,
        seed: Seed = 0,
        **generation: Any,
    ) -> None:
        batch_size = _as_batch_size(batch_size)
        given = {name: value for name, value in locals().items() if name not in ("self", "generation", "__class__")}
        check_arguments(PrismLM.__init__, given)
        _check_generation(generation)
        self.mc_num, self.mc_batch_size = mc_num, mc_batch_size or math.gcd(mc_num, 8)
        check_copies(self.mc_num, self.mc_batch_size)
        super().__init__()
        state = PartialState(cpu=device == "cpu")
        self._rank, self._world_size, self._device = state.process_index, state.num_processes, _device(device, state)
        loading = {"revision": revision, "trust_remote_code": trust_remote_code}
        self.model = _load(pretrained, self._device, dtype=dtype, attn_implementation=attn_implementation, **loading)
        self.tokenizer = _tokenizer(tokenizer, self.model, pretrained, **loading)
        self.is_adaptive = batch_size == AUTO
        self.batch_size = (max_batch_size or MAX_BATCH_SIZE) if batch_size == AUTO else cast(int, batch_size)
        self.max_length = max_length or longest_canvas(self.model) or MAX_LENGTH
        self.add_bos_token, self.is_check_greedy, self.seed = add_bos_token, is_check_greedy, seed
        self.likelihood, self.generation = likelihood, read_settings(generation)
        self.generation_config, strategy = prepare_generation_config(
            self.model, None, **fitted_to_tokenizer(self.model, self.tokenizer, self.generation)
        )
        if "quality" in strategy.needs:
            check_quality(self.model)
        self.counts: dict[str, Counts] = {}
        self.counts_of_all: dict[str, Counts] | None = None

    # What the harness asks of a model that runs in several processes.

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return gather(tensor)

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """The objects of all processes, at `dst`. The harness ends with it, so that the counts go along."""
        if self._world_size == 1:
            return [obj]
        gathered: list[Any] | None = [None] * self._world_size if self._rank == dst else None
        torch.distributed.gather_object((obj, self.counts), gathered, dst)
        if gathered is None:
            return None
        objects, counts = zip(*gathered, strict=True)
        self.counts_of_all = merged(counts)
        return list(objects)

    def barrier(self) -> None:
        wait_for_slowest()

    # Text and tokens.

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context."""
        tokens = (self.tokenizer.bos_token_id, self.tokenizer.cls_token_id, self.tokenizer.eos_token_id)
        return next(token for token in tokens if token is not None)

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.name_or_path.replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation in the tokenizer's template; without a generation prompt its last turn stays open."""
        check_chat_template(self.tokenizer)
        rendered = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return cast(str, rendered)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The tokens of a text, without those that would close it.

        A text that begins with the tokenizer's first token, as a chat template writes it, gets none.
        """
        opening = (self.tokenizer.bos_token, self.tokenizer.cls_token)
        begins = any(token and string.startswith(token) for token in opening)
        bare = add_special_tokens is False or self.add_bos_token is False or begins
        (ids,) = encode_texts([string], self.tokenizer, rendered=bare)
        if self.add_bos_token and add_special_tokens is not False and ids[:1] != [self.prefix_token_id]:
            return [self.prefix_token_id, *ids]
        return ids

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Take the cache of `--use_cache`, which knows requests only: one made with other settings is refused."""
        settings = {**self.settings(), "weights": weights_digest(self.model)}
        found = cache_hook.dbdict.setdefault(SETTINGS_KEY, settings)
        if found != settings:
            changed = sorted(name for name in {*found, *settings} if found.get(name) != settings.get(name))
            raise ValueError(f"The cache was made with other settings, {', '.join(changed)}: name another --use_cache.")
        super().set_cache_hook(cache_hook)

    # Answers.

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """An answer to each request; see the module."""
        groups, numbers = self._questions(requests)
        calls = {key: self._call(group[0].request) for key, group in groups.items()}
        answers: dict[int, str] = {}
        bar = tqdm(total=len({*numbers}), desc="Generating", disable=disable_tqdm or self._rank > 0)
        for key, group in groups.items():
            call = calls[key]
            fitted = [each._replace(ids=self._fit(each.ids, call.settings["max_new_tokens"])) for each in group]

            def answer(batch: Sequence[Question], call: Call = call) -> None:
                for question, text in zip(batch, self._answers(batch, call), strict=True):
                    answers[question.number] = text
                    self.cache_hook.add_partial("generate_until", question.request.args, text)
                bar.update(len(batch))

            self._in_batches(sorted(fitted, key=lambda each: -len(each.ids)), answer)
        bar.close()
        return [answers[number] for number in numbers]

    def _questions(self, requests: list[Any]) -> tuple[dict[str, list[Question]], list[int]]:
        """What is to be asked, by its settings, and the number of the question that answers each request."""
        groups: dict[str, list[Question]] = {}
        numbers: list[int] = []
        asked: dict[int, list[int]] = {}  # by the identity of a request, which stands there once for each repeat
        for number, request in enumerate(requests):
            own = asked.setdefault(id(request), [])
            if len(own) < (request.repeats or 1):
                own.append(number)
                context, gen_kwargs = request.args
                settings, until = settings_of_request(gen_kwargs, self.generation)
                seed = seed_of(self.seed, context, len(own))
                question = Question(number, request, self.tok_encode(context), until, seed)
                groups.setdefault(str(settings), []).append(question)
            numbers.append(own[-1])
        return groups, numbers

    def _call(self, request: Any) -> Call:
        """How `remask_generate` is called for a request. Raises ValueError where it cannot be."""
        settings, _ = settings_of_request(request.args[1], self.generation)
        settings = fitted_to_tokenizer(self.model, self.tokenizer, settings) | {"return_dict_in_generate": True}
        config, strategy = prepare_generation_config(self.model, None, **settings)
        if config.num_return_sequences > 1:
            raise ValueError("num_return_sequences must be 1: a task says in `repeats` how many answers it wants.")
        if self.batch_size > 1 and (strategy.draws or config.order == "random" or config.do_sample):
            logger.warning_once(
                "Something is drawn, and the rows of a batch share their random numbers: answers are the same again "
                "with the same batch_size and number of processes, or with a batch_size of 1."
            )
        return Call(settings, as_ids(config.eos_token_id))

    def _answers(self, batch: Sequence[Question], call: Call) -> list[str]:
        """The answer to each question of a batch; what it took is counted."""
        began = time.perf_counter()
        rows = [torch.tensor(each.ids, dtype=torch.long, device=self._device) for each in batch]
        # The padding is attended by nothing, so that its token does not matter.
        input_ids = pad_sequence(rows, batch_first=True, padding_value=0, padding_side="left")
        real = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
        generator = torch.Generator().manual_seed(seed_of(*(each.seed for each in batch)))
        output: Any = remask_generate(self.model, input_ids, attention_mask=real, generator=generator, **call.settings)
        texts, new = [], output.sequences[:, input_ids.shape[1] :].tolist()
        seconds = (time.perf_counter() - began) / len(batch)
        ends = {*call.eos, self.tokenizer.eos_token_id}
        for question, row, forwards in zip(batch, new, output.forwards_per_row.tolist(), strict=True):
            row = [token for token in up_to_end(row, call.eos) if token not in call.eos]
            text = cast(str, self.tokenizer.decode(row, skip_special_tokens=False))
            for end in question.until:
                text = text.split(end)[0]
            kept = self.tokenizer(text, add_special_tokens=False).input_ids
            texts.append(cast(str, self.tokenizer.decode(kept, skip_special_tokens=True)))
            tokens, generated = (sum(token not in ends for token in ids) for ids in (kept, row))
            took = {str(question.request.task_name): Counts(1, tokens, generated, forwards, seconds)}
            self.counts = merged([self.counts, took])
        return texts

    def _fit(self, ids: list[int], num_new: int) -> list[int]:
        """The tokens of a context, of which the first are cut off where the model cannot read them all."""
        room = self.max_length - num_new
        if room < 1:
            raise ValueError(
                f"{num_new} tokens after a context are more than fit into max_length={self.max_length}: lower "
                "max_new_tokens, or leave out a task whose texts are that long."
            )
        if len(ids) > room:
            logger.warning_once(
                f"A context of {len(ids)} tokens is cut to its last {room}, which leave room to answer."
            )
        return ids[-room:]

    def _in_batches(self, items: Sequence[Any], run: Callable[[Sequence[Any]], None]) -> None:
        """Run `run` on all items, `batch_size` at once; fewer from where memory ended, if that is left to us."""
        start = 0
        while start < len(items):
            batch = items[start : start + self.batch_size]
            try:
                run(batch)
            except Exception as error:
                if not self.is_adaptive or self.batch_size == 1 or not should_reduce_batch_size(error):
                    raise
                self.batch_size //= 2
                clear_device_cache(garbage_collection=True)
                logger.warning(f"Memory ended: batches are of {self.batch_size} now.")
                continue
            start += len(batch)

    # Likelihoods.

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """The bound on each continuation, and whether it is greedy, of (texts, context, continuation)."""
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        bar = tqdm(total=len(requests), desc="Likelihoods", disable=disable_tqdm or self._rank > 0)

        def score(batch: Sequence[int]) -> None:
            asked = [self._continuation(*requests[index]) for index in batch]
            for index, text, bound in zip(batch, asked, self._bounds(asked), strict=True):
                greedy = self.is_check_greedy and is_greedy(
                    self.model, text, self.generation_config.mask_token_id, self.generation_config.cfg_scale
                )
                found[index] = (bound, greedy)
                self.cache_hook.add_partial("loglikelihood", requests[index][0], found[index])
            bar.update(len(batch))

        self._in_batches(sorted(range(len(requests)), key=lambda i: -len(requests[i][1]) - len(requests[i][2])), score)
        bar.close()
        return found

    def _continuation(self, texts: tuple[str, str], context: list[int], target: list[int]) -> Continuation:
        if self.likelihood == "dream":
            target = [*target, self.tokenizer.eos_token_id]
        return Continuation(self._fit(context, len(target)), target, seed_of(self.seed, *texts))

    def _bounds(self, texts: Sequence[Continuation]) -> list[float]:
        return log_likelihood_bound(
            self.model,
            texts,
            self.generation_config.mask_token_id,
            self.likelihood,
            mc_num=self.mc_num,
            mc_batch_size=self.mc_batch_size,
            batch_size=self.batch_size,
            cfg_scale=self.generation_config.cfg_scale,
        )

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The bound on whole texts, in windows that follow one another, each after the last token of the one before.

        Raises:
            ValueError: with Dream's rule, which never scores the last token of a window.
        """
        if self.likelihood == "dream":
            raise ValueError("likelihood='dream' does not score the last token of a window: set likelihood='llada'.")
        found = []
        for request in tqdm(requests, desc="Likelihoods", disable=disable_tqdm or self._rank > 0):
            (text,) = request.args
            windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length - 1, 1)
            pairs = enumerate(map(make_disjoint_window, windows))
            parts = [Continuation(before, window, seed_of(self.seed, text, i)) for i, (before, window) in pairs]
            bounds: list[float] = []

            def score(batch: Sequence[Continuation], bounds: list[float] = bounds) -> None:
                bounds.extend(self._bounds(batch))

            self._in_batches(parts, score)
            found.append(sum(bounds))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, found[-1])
        return found

    # What the harness writes beside its results.

    def settings(self) -> dict[str, Any]:
        """What answers and likelihoods depend on, beside the weights and the requests."""
        return {
            "generation": portable({name: str(value) for name, value in self.generation.items()}),
            "likelihood": self.likelihood,
            "mc_num": self.mc_num,
            "mc_batch_size": self.mc_batch_size,
            "is_check_greedy": self.is_check_greedy,
            "max_length": self.max_length,
            "add_bos_token": self.add_bos_token,
            "seed": self.seed,
        }

    def get_model_info(self) -> dict[str, Any]:
        """The settings, and of each task's answers the forwards, tokens per forward and seconds of all processes."""
        counts = self.counts if self.counts_of_all is None else self.counts_of_all
        parallelism = {task: each.summary() for task, each in counts.items()}
        for task, each in parallelism.items():
            logger.warning(
                f"{task}: {each['answers']} answers in {each['forwards']} forwards of {each['tokens_per_forward']:.2f} "
                f"tokens ({each['generated_tokens_per_forward']:.2f} before the cut) and {each['seconds']} seconds."
            )
        about = {"model_num_parameters": self.model.num_parameters(), "model_dtype": str(self.model.dtype)}
        return {**about, "model_weights": weights_digest(self.model), **self.settings(), "parallelism": parallelism}


def seed_of(*parts: Any) -> int:
    """A seed of what JSON can hold."""
    return int(json_digest(parts), 16) % 2**63


def _as_batch_size(value: Any) -> Any:
    """The harness passes text on; `auto:4` is its word for trying anew, which is done here whenever memory ends."""
    text = str(value)
    return AUTO if text.startswith("auto:") else int(text) if text.isdecimal() else value


def _check_generation(generation: dict[str, Any]) -> None:
    """Raise ValueError for what other model classes of the harness take, and this one has another way for."""
    if "peft" in generation:
        raise ValueError(f"peft={generation['peft']!r}: name the adapter as pretrained; it names its base model.")


def _device(asked: str | None, state: PartialState) -> torch.device:
    """Where a process runs. The harness asks for cuda:0 where nobody did, so that is taken if there is one."""
    if asked is None or state.num_processes > 1 or state.device.type == "cpu":
        return state.device
    device = torch.device(asked)
    return device if device.type in ("cpu", state.device.type) else state.device


def _load(pretrained: Any, device: torch.device, dtype: Any, attn_implementation: str | None, **loading: Any) -> Any:
    if isinstance(pretrained, torch.nn.Module):
        return pretrained.to(device).eval()
    attention = available_attention(attn_implementation, device.type == "cpu")
    model: Any = load_model(model_path(pretrained), dtype=dtype, attn_implementation=attention, **loading)
    return model.to(device)


def _tokenizer(
    asked: str | PreTrainedTokenizerBase | None, model: Any, pretrained: Any, **loading: Any
) -> PreTrainedTokenizerBase:
    if isinstance(asked, PreTrainedTokenizerBase):
        return asked
    if asked is not None:
        return read_tokenizer(asked, trust_remote_code=loading["trust_remote_code"])
    return read_tokenizer(model.name_or_path if isinstance(pretrained, torch.nn.Module) else pretrained, **loading)
