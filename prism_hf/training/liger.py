"""Liger's kernels for what a trainer trains, where Liger has some for its family.

- `Trainer` gives kernels to the outermost model, whose type Liger does not know where a backbone is under a quality
  head: here they are given to the backbone.
- LLaDA's norms and MLPs are Llama's, and get Llama's kernels. Its positions are turned in float32, for which Liger has
  no kernel.
- The losses are those of the method, so Liger's cross-entropies have nothing to do.
"""

from typing import Any

from transformers import TrainingArguments
from transformers.integrations.liger import apply_liger_kernel
from transformers.utils import is_liger_kernel_available, logging

from prism_hf._compat import unwrapped

logger = logging.get_logger(__name__)

UNUSED = {"cross_entropy": False, "fused_linear_cross_entropy": False}  # kernels of losses that nobody computes


def prepare_liger(args: TrainingArguments) -> None:
    """Leave kernels of losses out, before `Trainer` gives some to a model.

    Raises:
        ValueError: on a CPU, where Liger's kernels cannot run.
        ImportError: without Liger.
    """
    if args.device.type == "cpu":
        raise ValueError("use_liger_kernel=True needs a GPU, for which Liger's kernels are compiled: leave it out.")
    if not is_liger_kernel_available():
        raise ImportError("use_liger_kernel=True needs Liger's kernels: pip install 'prism_hf[liger]'")
    args.liger_kernel_config = {**(args.liger_kernel_config or {}), **UNUSED}


def apply_liger(model: Any, settings: dict[str, bool] | None) -> None:
    """Give Liger's kernels to the backbone of a model, in place; a warning tells where there are none.

    Args:
        model (`PreTrainedModel` or `PeftModel`): What is trained.
        settings (`dict[str, bool]`, *optional*): Which kernels; see `liger_kernel_config` of `TrainingArguments`.

    Example:
        ```python
        apply_liger(model, {"rms_norm": True, "swiglu": False})
        ```
    """
    from liger_kernel.transformers import apply_liger_kernel_to_llama
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    settings = {**(settings or {}), **UNUSED}
    inner = unwrapped(model)
    backbone = inner.backbone if inner.config.model_type == "prism" else inner
    model_type = backbone.config.model_type
    if model_type in MODEL_TYPE_TO_APPLY_LIGER_FN:
        apply_liger_kernel(backbone, settings)
    elif model_type == "llada":
        kernels = {name: settings.get(name, True) for name in ("rms_norm", "swiglu")}
        apply_liger_kernel_to_llama(rope=False, model=backbone, **kernels, **UNUSED)
    else:
        logger.warning(f"use_liger_kernel=True changes nothing: Liger has no kernels for models of {model_type!r}.")
