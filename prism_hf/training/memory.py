"""How much memory PRISM fine-tuning takes on each GPU, rehearsed on tensors that have a shape and no data.

The model is built on the `meta` device and wrapped by PEFT itself, so that its parameters are counted. One training
step then runs on fake tensors while every storage that is allocated and freed is watched: what autograd saves for the
backward, what gradient checkpointing computes again, the chunks of logits and the gradients, in the order of
`PrismTrainer`. The peak of what is alive at once is the estimate. No formula of an architecture is in it, so
any backbone will do.

Kernels are taken as they are on GPUs: attention under `sdpa` saves query, key, value, output and one float32 a row,
dropout saves one byte an element. Formulas remain for what is not part of one process' forwards and backwards:
optimiser states, 4-bit storage, and the buffers of DDP, FSDP2 and DeepSpeed. Not counted: the CUDA context, what
libraries take for themselves, and fragmentation of the allocator.
"""

import copy
import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from peft import PeftConfig, PeftModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForMaskedLM, PreTrainedConfig

from prism_hf.diffusion.drafting import exclude_token, invert_cdf, nucleus
from prism_hf.diffusion.losses import linear_unmasking_loss, quality_loss
from prism_hf.fields import Allowed, Positive, check_arguments
from prism_hf.hub import unwrapped
from prism_hf.models.prism import PrismConfig, PrismForMaskedDiffusion

from .arguments import PrismTrainingArguments
from .muon import hidden_matrices
from .quality_trainer import QUALITY_HEAD, adapt, freeze_backbone

STRATEGIES = ("ddp", "fsdp2", "zero-2", "zero-3")
# DeepSpeed's defaults, in elements: reduce_bucket_size and stage3_max_live_parameters.
ZERO_BUCKET, ZERO_3_LIVE = 500_000_000, 1_000_000_000
# Kernels that hold a whole copy of their input for a while, which the dispatcher does not see.
COPYING_KERNELS = {torch.ops.aten.logsumexp.default}


# What the storages of a step are booked under.
BOOKED = ("gradients", "activations", "logits", "backward")


class MemoryTracker(TorchDispatchMode):
    """Within, counts the bytes of all storages that are allocated; works on fake tensors and on real ones alike.

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
        outputs = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, torch.Tensor) and id(tensor.untyped_storage()) not in self.label_of:
                self.book(tensor.untyped_storage(), self.label)
        self.record(args[0].nbytes if func in COPYING_KERNELS else 0)
        return outputs

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
    with FakeTensorMode():
        materialise(model, torch.bfloat16 if casts else None)
        constant["communication"] = communication_bytes(model, strategy, num_gpus)
        # FSDP2 keeps gradients in the dtype of the shards.
        gradient_share = share * (stored(trained) / num_bytes(p for p in model.parameters() if p.requires_grad))
        tracker = MemoryTracker([*model.parameters(), *model.buffers()], shares={"gradients": gradient_share})
        with tracker:
            # Accelerate casts what a model under autocast returns; DeepSpeed's model is cast and returns what it has.
            rehearse_step(model, args, length, tracker, float32_outputs=args.bf16 and not is_zero)
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


def materialise(model: nn.Module, dtype: torch.dtype | None) -> None:
    """Give every tensor a fake one on the CPU for its own, in `dtype` where that is given; tied ones stay tied."""
    fakes = {}

    def fake(tensor):
        if id(tensor) not in fakes:
            cast = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
            fakes[id(tensor)] = torch.empty(tensor.shape, dtype=cast)
            if isinstance(tensor, nn.Parameter):
                fakes[id(tensor)] = nn.Parameter(fakes[id(tensor)], tensor.requires_grad)
        return fakes[id(tensor)]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: fake(tensor) for name, tensor in tensors.items() if tensor is not None})


def rehearse_step(model, args: PrismTrainingArguments, length: int, tracker: MemoryTracker, float32_outputs: bool):
    """What `PrismTrainer.training_step` computes, on sequences that are masked throughout; it must change with that."""
    prism = unwrapped(model)
    decoder, mask = prism.decoder, prism.config.mask_token_id
    batch_size, autocast = args.per_device_train_batch_size, torch.autocast("cpu", torch.bfloat16, enabled=args.bf16)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda parameter: tracker.move(parameter.grad, "gradients"))
    canvas = torch.empty(batch_size, length, dtype=torch.int64)
    every = torch.empty(canvas.numel(), dtype=torch.int64)

    def prediction_states():
        outputs = prism.adapter.body(prism.backbone)(canvas)
        kept = outputs.last_hidden_state.flatten(0, 1)[every]
        states = prism.adapter.prediction_states(prism.backbone, kept, outputs)
        return (states.float() if float32_outputs else states).to(decoder.weight.dtype)

    with torch.set_grad_enabled(args.trains_posterior), autocast:
        states = prediction_states()
        tracker.label = "logits"
        targets, weights = torch.empty_like(every), torch.empty(every.shape)
        loss, _ = linear_unmasking_loss(states, decoder, targets, weights, 1.0, mask)
        drafted = torch.empty(min(length, args.num_draft_tokens) * batch_size, dtype=torch.int64)
        for _ in range(args.num_drafts):
            draw_tokens(args, decoder, states.detach()[drafted], mask)
        tracker.label = "backward"
        if args.trains_posterior:
            loss.backward()
        del states, loss

    tracker.label = "activations"
    with autocast:
        quality_logits = model(input_ids=canvas.repeat(args.num_drafts, 1), return_logits=False).quality_logits
    loss = quality_loss(quality_logits, torch.empty(quality_logits.shape, dtype=torch.bool), 1.0)
    tracker.label = "backward"
    loss.backward()


@torch.no_grad()
def draw_tokens(args: PrismTrainingArguments, decoder: nn.Module, states: torch.Tensor, mask_token_id: int) -> None:
    logits = exclude_token(decoder(states).float(), mask_token_id)
    if args.draft_do_sample:
        logits = nucleus(logits, args.draft_top_p) if args.draft_top_p < 1 else logits
        invert_cdf(logits, torch.empty(len(logits), dtype=torch.float64))
    else:
        logits.argmax(dim=-1)


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
