"""Short digests by which a file of results tells examples, trained weights and settings from others."""

import hashlib
import json
from typing import Any

from torch import Tensor, nn


def digest(*tensors: Tensor) -> str:
    """Sixteen digits that tell these tensors from others."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(str(tuple(tensor.shape)).encode())
        sha.update(tensor.detach().double().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


def weights_digest(model: nn.Module) -> str:
    """The same for a model, from the first entries of each weight: another training changes them all.

    What PEFT keeps aside is left out: a quality head that the adapter's replaces is random where the base has none.

    Example:
        ```python
        name = f"my model {weights_digest(model)}"
        ```
    """
    used = (parameter for name, parameter in model.named_parameters() if ".original_module." not in name)
    return digest(*(parameter.flatten()[:64] for parameter in used))


def json_digest(value: Any) -> str:
    """The same for what JSON can hold; the order of a dict's entries does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
