"""Memory of PRISM fine-tuning on each GPU, before there is a GPU: what it holds at the peak, and which cards it fits.

    python scripts/estimate_memory.py --recipe recipes/configs/llada_8b_opc.yaml --batch-size 1 4 12
    python scripts/estimate_memory.py --lora-r 64 --load-in-4bit --gradient-checkpointing --length 1024

Takes the shape of LLaDA-8B unless told otherwise; what is given here wins over the recipe. `check_memory.py` sets the
peak memory that Linux saw beside the estimate.

The model is built on the `meta` device and wrapped by PEFT itself, so that its parameters are counted. Its weights then
become tensors that have a shape and no data, and `PrismTrainer.training_step` runs on them while every storage that is
allocated and freed is watched: what autograd saves for the backward, what gradient checkpointing computes again, the
chunks of logits and the gradients. The peak of what is alive at once is the estimate. No formula of an architecture is
in it, so any backbone will do.

Kernels are taken as they are on GPUs: attention under `sdpa` saves query, key, value, output and one float32 a row,
dropout saves one byte an element. Formulas remain for what is not part of one process' forwards and backwards:
optimiser states, 4-bit storage, and the buffers of DDP, FSDP2 and DeepSpeed. Not counted: the CUDA context, what
libraries take for themselves, and fragmentation of the allocator.
"""

import argparse
import copy
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Annotated, Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from peft import PeftConfig, PeftModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedConfig
from trl import get_peft_config, get_quantization_config

from prism_hf import PrismConfig, PrismForMaskedDiffusion, PrismTrainer, PrismTrainingArguments
from prism_hf._compat import unwrapped
from prism_hf.diffusion.losses import CHUNK_ELEMENTS
from prism_hf.fields import Allowed, Positive, check_arguments
from prism_hf.jobs.yaml_files import read_yaml
from prism_hf.models.attention import available_attention
from prism_hf.models.llada import LladaConfig
from prism_hf.training.adapters import adapt
from prism_hf.training.model_arguments import ModelArguments
from prism_hf.training.muon import hidden_matrices
from prism_hf.training.quality_trainer import QUALITY_HEAD, freeze_backbone

STRATEGIES = ("ddp", "fsdp2", "zero-2", "zero-3")
# DeepSpeed's defaults, in elements: reduce_bucket_size and stage3_max_live_parameters.
ZERO_BUCKET, ZERO_3_LIVE = 500_000_000, 1_000_000_000
# Kernels that hold a whole copy of their input for a while, which the dispatcher does not see.
COPYING_KERNELS = {torch.ops.aten.logsumexp.default}
ATEN = torch.ops.aten
INDEXING = {ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default, ATEN._index_put_impl_.default}

GIB = 2**30
CARDS = (24, 80)  # GiB
# What a card must have to spare: the CUDA context with the libraries' workspaces, and a share lost to fragmentation.
CONTEXT, FRAGMENTATION = 1.0 * GIB, 0.05
LLADA_8B = ("GSAI-ML/LLaDA-8B-Base", "GSAI-ML/LLaDA-8B-Instruct")
ATTENTION = ["q_proj", "k_proj", "v_proj"]
# The fields of PrismTrainingArguments that memory depends on.
ARGUMENTS = (
    *("per_device_train_batch_size", "bf16", "activation_checkpointing", "activation_checkpointing_kwargs", "optim"),
    *("num_draft_tokens", "num_drafts", "draft_steps", "draft_do_sample", "draft_top_p", "unmasking_weight"),
    *("freeze_backbone", "use_muon", "ema_decay"),
)
# What the storages of a step are booked under.
BOOKED = ("gradients", "activations", "logits", "backward")


class MemoryTracker(TorchDispatchMode):
    """Within, counts the bytes of all storages that are allocated, by fake tensors and by real ones alike.

    Masks are real where weights are fake, so that the number of positions that they choose is known.

    Args:
        known: tensors that exist already and are not counted, such as the parameters.
        shares: label -> part of its bytes that counts; 1 where nothing is given.

    Attributes:
        label: under which allocations are booked from now on.
        live, peak, highest: label -> bytes: now, when their sum was largest, and the most that each had at any time.
    """

    def __init__(self, known: Iterable[torch.Tensor], shares: dict[str, float] | None = None):
        super().__init__()
        self.shares = shares or {}
        self.label = "activations"
        self.live, self.peak, self.highest = Counter(), Counter(), Counter()
        self.label_of: dict[int, str | None] = {}
        for tensor in known:
            self.book(tensor.untyped_storage(), None)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in INDEXING:
            args = (args[0], places(args[1]), *args[2:])
        outputs = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, torch.Tensor) and id(tensor.untyped_storage()) not in self.label_of:
                self.book(tensor.untyped_storage(), self.label)
        self.record(args[0].nbytes if func in COPYING_KERNELS else 0)
        return outputs

    def book_under(self, label: str) -> None:
        """Book allocations under `label` from now on."""
        self.label = label

    def book(self, storage: torch.UntypedStorage, label: str | None) -> None:
        key, size = id(storage), storage.nbytes()
        self.label_of[key] = label
        if label is not None:
            self.live[label] += size

        def free():
            label = self.label_of.pop(key)
            if label is not None:
                self.live[label] -= size

        weakref.finalize(storage, free)

    def move(self, tensor: torch.Tensor, label: str) -> None:
        """Book a tensor's storage under another label."""
        storage = tensor.untyped_storage()
        before = self.label_of[id(storage)]
        self.label_of[id(storage)] = label
        self.live[before] -= storage.nbytes()
        self.live[label] += storage.nbytes()
        self.highest[label] = max(self.highest[label], self.live[label])

    def total(self, counter: Counter) -> float:
        return sum(size * self.shares.get(label, 1) for label, size in counter.items())

    def counted(self, counter: Counter) -> dict[str, float]:
        """The part that counts of the bytes of each of `BOOKED`."""
        return {label: counter[label] * self.shares.get(label, 1) for label in BOOKED}

    def record(self, workspace: int = 0) -> None:
        self.highest[self.label] = max(self.highest[self.label], self.live[self.label] + workspace)
        if self.total(self.live) + workspace > self.total(self.peak):
            self.peak = self.live.copy()
            self.peak[self.label] += workspace


def places(indices: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Indices of a tensor, with numbers in the place of masks that have data, as a tensor without data wants them."""
    found = []
    for index in indices:
        is_mask = index is not None and index.dtype == torch.bool and not isinstance(index, FakeTensor)
        found += index.nonzero().unbind(1) if is_mask else [index]
    return found


class FusedDropout(nn.Dropout):
    """Dropout as CUDA has it, with a mask of one byte an element; CPU's keeps the scaled noise in the input's dtype."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.native_dropout(input, self.p, self.training)[0] if self.training and self.p > 0 else input


class FourBitLinear(nn.Linear):
    """Stands in for a frozen linear map of bitsandbytes: two weights a byte, unpacked for every product.

    The state of blocks of 64 weights is one float32 each; quantised again, one byte each and a float32 for 256 of them.
    """

    def __init__(self, linear: nn.Linear, quantization: dict[str, Any]):
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.compute_dtype = as_dtype(quantization.get("bnb_4bit_compute_dtype", "float32"))
        size, blocks = linear.weight.numel(), -(-linear.weight.numel() // 64)
        state = 4 * (blocks + 16)  # and the 16 values of a code
        if quantization.get("bnb_4bit_use_double_quant", False):
            state = blocks + 4 * (-(-blocks // 256) + 256 + 1 + 16)
        self.weight = nn.Parameter(linear.weight.new_empty((size + 1) // 2, 1, dtype=torch.uint8), requires_grad=False)
        self.register_buffer("quant_state", linear.weight.new_empty(state, dtype=torch.uint8))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        shape = (self.out_features, self.in_features)
        return FourBitProduct.apply(input.to(self.compute_dtype), self.weight, shape).to(input.dtype)


class FourBitProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, packed, shape):
        ctx.shape = shape
        return F.linear(input, packed.new_empty(shape, dtype=input.dtype))

    @staticmethod
    def backward(ctx, gradient):
        return gradient @ gradient.new_empty(ctx.shape), None, None


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one GPU, by what they hold.

    Both dictionaries have the keys `weights` (of the backbone), `adapters`, `quality head` (PEFT keeps the first one
    beside the trained one), `optimizer states`, `moving average` (with `ema_decay`), `communication` (buffers of the
    strategy, and the layers that it has gathered), `gradients`, `activations` (made by a forward), `logits` (made by
    the unmasking loss and the drafts) and `backward` (gradients of activations; layers computed again under gradient
    checkpointing).

    Args:
        peak: when most is alive at once.
        highest: the most of each at any time of the step, which may be another one for each.
    """

    peak: dict[str, float]
    highest: dict[str, float]

    @property
    def total(self) -> float:
        """The peak in bytes."""
        return sum(self.peak.values())


def estimate_memory(
    backbone_config: PreTrainedConfig,
    args: PrismTrainingArguments,
    length: Positive,
    *,
    dtype: str = "float32",
    attn_implementation: str | None = None,
    peft_config: PeftConfig | None = None,
    quantization: dict[str, Any] | None = None,
    strategy: Annotated[str, Allowed(choices=STRATEGIES)] = "ddp",
    num_gpus: Positive = 1,
    **head: Any,
) -> MemoryEstimate:
    """Memory of each GPU in a training step of `PrismTrainer`.

    The step is the heaviest that training meets: every token is masked, and the optimiser has its states already.

    Args:
        backbone_config: of any model that `PrismForMaskedDiffusion` takes.
        args: batch size, precision, drafts, checkpointing and so on, as for `PrismTrainer`.
        length: tokens of a sequence, none of them padding.
        dtype: of the backbone's weights as loaded.
        attn_implementation: as for `from_pretrained`; `flash_attention_2` saves what `sdpa` saves.
        peft_config: as for `PrismTrainer`; all weights are trained if not given.
        quantization: fields of a `BitsAndBytesConfig` with `load_in_4bit`.
        strategy: `ddp`, `fsdp2`, `zero-2` or `zero-3`, as Accelerate sets them up by default.
        num_gpus: that share what the strategy shards.
        head: `head_type`, `head_num_blocks` and `mask_token_id` of `PrismConfig`.

    Raises:
        ValueError: for an unknown strategy, fewer than 1 GPU, a quantisation to something else than 4 bits or of
            weights that are to be trained, or an optimiser other than AdamW and Muon.
    """
    check_arguments(estimate_memory, locals())
    check_counted(args, peft_config, quantization)
    model = build_on_meta(backbone_config, args, dtype, attn_implementation, peft_config, quantization, head)
    is_zero = strategy in ("zero-2", "zero-3")
    casts = args.bf16 and strategy != "ddp"  # the parameters themselves; elsewhere autocast does, product by product

    def stored(tensors: Iterable[torch.Tensor]) -> int:
        """Bytes before sharding. DeepSpeed casts what it is given; FSDP2 keeps what is trained in float32."""
        cast = [
            tensor for tensor in tensors if casts and (tensor.is_floating_point() if is_zero else tensor.requires_grad)
        ]
        return num_bytes(tensors) - num_bytes(cast) + sum(tensor.numel() for tensor in cast) * (2 if is_zero else 4)

    share = 1 if strategy == "ddp" else 1 / num_gpus
    weight_share = share if strategy in ("fsdp2", "zero-3") else 1
    # 4-bit weights are shards only of a floating-point storage: neither FSDP2 nor ZeRO-3 splits bytes.
    packs_bytes = quantization is not None and quantization.get("bnb_4bit_quant_storage", "uint8") == "uint8"
    backbone, adapters, quality_head = split_weights(model)
    packed = [tensor for tensor in backbone if packs_bytes and not tensor.is_floating_point()]
    sharded = [tensor for tensor in backbone if not packs_bytes or tensor.is_floating_point()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if is_zero:  # DeepSpeed's copy of the weights and AdamW's two averages, all in float32
        states = 12 * sum(parameter.numel() for parameter in trained)
    else:
        states = 2 * stored(trained) - (stored(hidden_matrices(model)) if args.use_muon else 0)
    average = sum(max(4, parameter.itemsize) * parameter.numel() for parameter in trained)  # in float32 at least
    constant = {
        "weights": stored(sharded) * weight_share + num_bytes(packed),
        "adapters": stored(adapters) * weight_share,
        "quality head": stored(quality_head) * weight_share,
        "optimizer states": states * share,
        "moving average": 0 if args.ema_decay is None else average * weight_share,
    }
    materialise(model, torch.bfloat16 if casts else None, args.device)
    constant["communication"] = communication_bytes(model, strategy, num_gpus)
    # FSDP2 keeps gradients in the dtype of the shards.
    gradient_share = share * (stored(trained) / num_bytes(p for p in model.parameters() if p.requires_grad))
    tracker = MemoryTracker([*model.parameters(), *model.buffers()], shares={"gradients": gradient_share})
    rehearse_step(model, args, length, tracker, wraps=not is_zero)
    return MemoryEstimate(constant | tracker.counted(tracker.peak), constant | tracker.counted(tracker.highest))


def check_counted(
    args: PrismTrainingArguments, peft_config: PeftConfig | None, quantization: dict[str, Any] | None
) -> None:
    """Raise ValueError for what `estimate_memory` cannot count."""
    if quantization is not None and not quantization.get("load_in_4bit"):
        raise ValueError(f"quantization={quantization} is not supported: only load_in_4bit is.")
    if quantization is not None and peft_config is None:
        raise ValueError("4-bit weights cannot be trained: pass a peft_config.")
    if not args.optim.startswith("adamw_torch"):
        raise ValueError(f"optim={args.optim!r} is not counted: use adamw_torch, adamw_torch_fused or use_muon.")


def build_on_meta(backbone_config, args, dtype, attn_implementation, peft_config, quantization, head) -> nn.Module:
    """The model that `PrismTrainer` trains, on the `meta` device: as from a checkpoint, with a new head in float32."""
    if attn_implementation is not None and attn_implementation.startswith("flash_attention"):
        attn_implementation = "sdpa"
    prism_config = PrismConfig(backbone_config=copy.deepcopy(backbone_config), **head)
    with torch.device("meta"):
        backbone = AutoModelForMaskedLM.from_config(
            copy.deepcopy(backbone_config), dtype=as_dtype(dtype), attn_implementation=attn_implementation
        )
        if quantization is not None:
            backbone.is_quantized = backbone.is_loaded_in_4bit = True
            for name, module in list(backbone.named_modules()):
                if isinstance(module, nn.Linear) and module is not backbone.get_output_embeddings():
                    backbone.set_submodule(name, FourBitLinear(module, quantization))
        model = PrismForMaskedDiffusion(prism_config, backbone)
        if peft_config is not None:
            model = adapt(model, peft_config, args)
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Dropout):
                model.set_submodule(name, FusedDropout(module.p))
    if args.freeze_backbone:
        freeze_backbone(model)
    if args.activation_checkpointing:
        model.activation_checkpointing_enable(args.activation_checkpointing_kwargs)
    return model.train()


def materialise(model: nn.Module, dtype: torch.dtype | None, device: torch.device) -> None:
    """Give every tensor one without data for its own, in `dtype` where that is given; tied ones stay tied."""
    fakes, mode = {}, FakeTensorMode(allow_non_fake_inputs=True)

    def fake(tensor):
        if id(tensor) not in fakes:
            cast = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
            fakes[id(tensor)] = torch.empty(tensor.shape, dtype=cast, device=device)
            if isinstance(tensor, nn.Parameter):
                fakes[id(tensor)] = nn.Parameter(fakes[id(tensor)], tensor.requires_grad)
        return fakes[id(tensor)]

    with mode:
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                tensors.update({name: fake(tensor) for name, tensor in tensors.items() if tensor is not None})


class Rehearsal(PrismTrainer):
    """A trainer that leaves weights without data where they are."""

    def _move_model_to_device(self, model, device) -> None:
        pass


def rehearse_step(model: nn.Module, args: PrismTrainingArguments, length: int, tracker: MemoryTracker, wraps: bool):
    """`PrismTrainer.training_step` on sequences that are masked throughout, with the tracker's labels set on the way.

    wraps: whether Accelerate wraps the model, as it does but for DeepSpeed, and casts what it returns under autocast.
    """
    args = copy.copy(args)
    args.min_timestep, args.gradient_accumulation_steps = 1 - 1e-12, 1
    args.draft_selection = "random"  # the other way needs the data of confidences
    trainer = Rehearsal(model, args, train_dataset=[{"input_ids": length * [0]}])
    if wraps:
        model = trainer.accelerator.prepare_model(model, device_placement=False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda parameter: tracker.move(parameter.grad, "gradients"))
    model.register_forward_pre_hook(lambda *_: tracker.book_under("activations"))
    model.register_forward_hook(lambda *_: tracker.book_under("logits"))
    backward = trainer.accelerator.backward

    def booked_backward(loss: torch.Tensor, **kwargs) -> None:
        tracker.book_under("backward")
        backward(loss, **kwargs)
        tracker.book_under("logits")

    trainer.accelerator.backward = booked_backward
    input_ids = torch.zeros(args.per_device_train_batch_size, length, dtype=torch.int64)
    with tracker, patch.dict(CHUNK_ELEMENTS, cpu=CHUNK_ELEMENTS["cuda"]):  # the logits that a GPU has at a time
        trainer.training_step(model, {"input_ids": input_ids})


def communication_bytes(model: nn.Module, strategy: str, num_gpus: int) -> int:
    """Buffers of a strategy at its defaults, and the weights that it holds whole for a while.

    DDP copies all gradients into buckets. FSDP2 has two layers gathered, one at work and the next one, with all that is
    outside of the layers, and their gradients until they are scattered. DeepSpeed reduces gradients through a buffer,
    and ZeRO-3 keeps up to `stage3_max_live_parameters` gathered.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if strategy == "ddp":
        return num_bytes(trained) if num_gpus > 1 else 0
    itemsize = trained[0].element_size()
    if strategy == "zero-2":
        return ZERO_BUCKET * itemsize
    if strategy == "zero-3":
        return (ZERO_BUCKET + min(ZERO_3_LIVE, sum(parameter.numel() for parameter in parameters))) * itemsize
    kinds = set(unwrapped(model)._no_split_modules)
    layers = [
        [p for p in m.parameters() if p.is_floating_point()] for m in model.modules() if type(m).__name__ in kinds
    ]
    inside = {id(parameter) for layer in layers for parameter in layer}
    outside = [parameter for parameter in parameters if id(parameter) not in inside]
    largest = max(layers, key=num_bytes, default=[])
    gradients = [parameter for parameter in [*outside, *largest] if parameter.requires_grad]
    return num_bytes([*outside, *largest, *largest, *gradients])


def split_weights(model: nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Parameters and buffers of the backbone, of its adapters, and of the quality head."""
    prefix = model.base_model.prefix if isinstance(model, PeftModel) else None
    weights, adapters, head = [], [], []
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if QUALITY_HEAD in name:
            head.append(tensor)
        elif prefix is not None and prefix in name:
            adapters.append(tensor)
        else:
            weights.append(tensor)
    return weights, adapters, head


def num_bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def as_dtype(name: str | torch.dtype) -> torch.dtype:
    return name if isinstance(name, torch.dtype) else getattr(torch, name)


def load_config(name: str | None) -> PreTrainedConfig:
    """The backbone's config from a folder, a `config.json` or the Hub; LLaDA-8B's is known without a download."""
    if name is None or name in LLADA_8B:
        return LladaConfig()
    config = AutoConfig.from_pretrained(name)
    return config.backbone_config if isinstance(config, PrismConfig) else config


def settings_of(args: argparse.Namespace) -> dict:
    """Fields of the recipe, and over them what the command line says.

    Raises:
        ValueError: for a recipe that names no model, without --config.
    """
    if args.recipe is None:
        settings = {"dtype": "bfloat16", "bf16": True}
    else:
        settings = read_yaml(args.recipe)
        if args.config is None and "model_name_or_path" not in settings:
            raise ValueError(f"{args.recipe} names no model_name_or_path: pass --config.")
    if "gradient_checkpointing" in settings:  # transformers' older name
        settings["activation_checkpointing"] = settings.pop("gradient_checkpointing")
    given = {
        "model_name_or_path": args.config,
        "length": args.length,
        "activation_checkpointing": args.gradient_checkpointing,
        "per_device_train_batch_size": args.batch_size,
    }
    settings |= {name: value for name, value in given.items() if value is not None}
    if args.precision is not None:
        settings |= {"dtype": {"bf16": "bfloat16", "fp32": "float32"}[args.precision], "bf16": args.precision == "bf16"}
    if args.lora_r is not None:
        lora = {"lora_target_modules": ATTENTION, "lora_dropout": 0.0, "lora_r": args.lora_r}
        settings = lora | settings | {"use_peft": args.lora_r > 0, "lora_r": args.lora_r or 1}
    if args.load_in_4bit is not None:
        settings = {"use_bnb_nested_quant": True} | settings | {"load_in_4bit": args.load_in_4bit}
    return settings


def model_arguments_of(settings: dict) -> ModelArguments:
    known = [each.name for each in fields(ModelArguments)]
    return ModelArguments(**{name: settings[name] for name in known if name in settings})


def estimate(settings: dict, batch_size: int, strategy: str = "ddp", num_gpus: int = 1) -> MemoryEstimate:
    arguments = {name: settings[name] for name in ARGUMENTS if name in settings}
    arguments |= {"per_device_train_batch_size": batch_size, "use_cpu": True, "report_to": "none"}
    model_args = model_arguments_of(settings)
    quantization = get_quantization_config(model_args)
    head = {name: settings[name] for name in ("head_type", "head_num_blocks") if name in settings}
    with tempfile.TemporaryDirectory() as folder:
        return estimate_memory(
            load_config(settings.get("model_name_or_path")),
            PrismTrainingArguments(folder, **arguments),
            settings.get("length", settings.get("pad_to_multiple_of", 1024)),
            dtype=settings.get("dtype", "float32"),
            attn_implementation=available_attention(settings.get("attn_implementation"), use_cpu=True),
            peft_config=get_peft_config(model_args),
            quantization=None if quantization is None else quantization.to_dict(),
            strategy=strategy,
            num_gpus=num_gpus,
            **head,
        )


def print_estimates(estimates: dict[int, MemoryEstimate]) -> None:
    print("GiB on each GPU when most is in use; in brackets the most of one kind at any time, where that is more.")
    print("| sequences on a GPU |" + "".join(f" {batch_size} |" for batch_size in estimates))
    print("|---|" + "---|" * len(estimates))
    for name in next(iter(estimates.values())).peak:
        cells = []
        for estimate in estimates.values():
            peak, highest = (f"{part[name] / GIB:.2f}" for part in (estimate.peak, estimate.highest))
            cells.append(peak if peak == highest else f"{peak} ({highest})")
        if any(estimate.highest[name] for estimate in estimates.values()):
            print(f"| {name} | " + " | ".join(cells) + " |")
    print("| total | " + " | ".join(f"{estimate.total / GIB:.2f}" for estimate in estimates.values()) + " |")
    for card in CARDS:
        fits = (
            "yes" if CONTEXT + estimate.total * (1 + FRAGMENTATION) <= card * GIB else "no"
            for estimate in estimates.values()
        )
        print(f"| fits {card} GB | " + " | ".join(fits) + " |")
    print(f"To fit, {CONTEXT / GIB:.0f} GiB for the CUDA context and {FRAGMENTATION:.0%} for fragmentation are added.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", help="YAML file of recipes/train_prism.py")
    parser.add_argument("--config", help="folder, config.json or Hub name of the backbone; LLaDA-8B if not given")
    parser.add_argument("--length", type=int, help="tokens of a sequence (1024)")
    parser.add_argument("--batch-size", type=int, nargs="+", help="sequences on a GPU; several give a column each (1)")
    parser.add_argument("--precision", choices=["bf16", "fp32"], help="of the loaded weights and of products (bf16)")
    parser.add_argument("--lora-r", type=int, help="rank of LoRA; 0 trains all weights, the default without a recipe")
    parser.add_argument("--load-in-4bit", action=argparse.BooleanOptionalAction, help="NF4 with double quantisation")
    parser.add_argument("--gradient-checkpointing", action=argparse.BooleanOptionalAction)
    parser.add_argument("--strategy", choices=STRATEGIES, default="ddp")
    parser.add_argument("--num-gpus", type=int, default=1)
    args = parser.parse_args()
    settings = settings_of(args)
    batch_sizes = settings.get("per_device_train_batch_size", 1)
    batch_sizes = batch_sizes if isinstance(batch_sizes, list) else [batch_sizes]
    print_estimates({size: estimate(settings, size, args.strategy, args.num_gpus) for size in batch_sizes})


if __name__ == "__main__":
    main()
