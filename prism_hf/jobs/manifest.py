"""What made an output, told beside it: the model, and the versions of what ran it.

`<output>.settings.json` holds what an output depends on, and a run with others does not go on with it. The manifest
tells that and the rest, which a finished output alone has: forward passes, seconds, versions. No path and no token is
in it.
"""

from typing import Any

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME
from transformers.utils.hub import extract_commit_hash

import prism_hf
from prism_hf._compat import config_of, is_adapter, setting, unwrapped
from prism_hf.hub.base_model import base_model_name, hub_id
from prism_hf.hub.portable import portable

from .digests import weights_digest


def describe_model(model: nn.Module) -> dict[str, Any]:
    """What a loaded model tells of itself: name, commit on the Hub, digest and dtype of its weights, its adapter.

    Example:
        ```python
        print(describe_model(load_model("kuleshov-group/mdlm-owt", trust_remote_code=True))["commit_hash"])
        ```
    """
    inner = unwrapped(model)
    told: dict[str, Any] = {
        "model": portable(setting(inner, "name_or_path")),
        "commit_hash": setting(config_of(inner), "_commit_hash"),
        "weights": weights_digest(model),
        "dtype": ", ".join(sorted({str(each.dtype).removeprefix("torch.") for each in model.parameters()})),
        "adapter": None,
    }
    if is_adapter(model):
        config = model.active_peft_config
        told["adapter"] = {
            "peft_type": str(config.peft_type.value),
            "base_model": portable(base_model_name(model)),
            "base_commit_hash": told["commit_hash"],
        }
    return told


def describe_source(name: str, revision: str | None = None) -> dict[str, Any]:
    """What a model was asked for by: its name, the revision, and the commit that this is, of which the cache tells.

    Args:
        name (`str`): On the Hub, or a folder, of which the last part is told, and no commit.
        revision (`str`, *optional*): A branch, tag or commit of the Hub.

    Example:
        ```python
        >>> describe_source("/models/mine")
        {'model': 'mine', 'revision': None, 'commit_hash': None}
        ```
    """
    if hub_id(name) is None:
        return {"model": portable(name), "revision": None, "commit_hash": None}
    files = [try_to_load_from_cache(name, file, revision=revision) for file in (ADAPTER_CONFIG_NAME, CONFIG_NAME)]
    found = next((file for file in files if isinstance(file, str)), None)
    return {"model": name, "revision": revision, "commit_hash": extract_commit_hash(found, None)}


def describe_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What is to be known of the tokenizer of samples: how an end of text looks, and what is no text.

    Example:
        ```python
        print(describe_tokenizer(AutoTokenizer.from_pretrained("gpt2"))["eos_token"])
        ```
    """
    return {
        "name": portable(tokenizer.name_or_path),
        "eos_token": tokenizer.eos_token,
        "special_tokens": tokenizer.all_special_tokens,
    }


def versions() -> dict[str, str]:
    """The versions of what makes an output what it is."""
    return {"prism_hf": prism_hf.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
