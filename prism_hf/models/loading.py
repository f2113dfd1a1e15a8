"""Loading that refuses a checkpoint which does not hold the whole model."""

import os
from collections.abc import Iterable

from transformers.utils import (
    ADAPTER_SAFE_WEIGHTS_NAME,
    ADAPTER_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

# Files of which one makes a folder a whole model, or an adapter.
MODEL_WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
ADAPTER_WEIGHTS = (ADAPTER_SAFE_WEIGHTS_NAME, ADAPTER_WEIGHTS_NAME)


class WholeCheckpointMixin:
    """Makes `from_pretrained` fail where transformers only warns. List it before `PreTrainedModel`.

    A weight that is missing would silently be drawn at random, and one that is left over means another architecture.
    """

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *model_args,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        **kwargs,
    ):
        """As transformers'. Raises ValueError naming the weights that are missing, left over or of another size."""
        model, info = super().from_pretrained(
            pretrained_model_name_or_path,
            *model_args,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **kwargs,
        )
        mismatched = [
            f"{name} ({tuple(found)}, the config says {tuple(expected)})"
            for name, found, expected in info["mismatched_keys"]
        ]
        if not ignore_mismatched_sizes:
            refuse_weights(pretrained_model_name_or_path, cls.__name__, "of another size", mismatched)
        refuse_weights(pretrained_model_name_or_path, cls.__name__, "missing", info["missing_keys"])
        refuse_weights(pretrained_model_name_or_path, cls.__name__, "left over", info["unexpected_keys"])
        return (model, info) if output_loading_info else model


REMEDIES = {
    "of another size": "check vocabulary and widths in config.json",
    "missing": "the checkpoint is incomplete or of another architecture",
    "left over": "check model_type and the number of layers in config.json",
}


def refuse_weights(checkpoint: str | os.PathLike, kind: str, problem: str, names: Iterable[str]) -> None:
    """Raise ValueError if a checkpoint of a `kind` of model has weights with a `problem`, one of `REMEDIES`."""
    if names := sorted(names):
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise ValueError(f"{checkpoint} is no whole {kind}; weights {problem}: {shown}. Remedy: {REMEDIES[problem]}.")
