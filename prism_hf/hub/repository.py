"""What a pushed repository or a saved folder holds beside weights and their config."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, create_branch, create_repo, file_exists, upload_folder

from prism_hf._compat import AnyModel, is_adapter, unwrapped
from prism_hf.resources import resource_path

from .base_model import base_from
from .card import CARD, write_card
from .portable import make_portable
from .record import TRAINING_ARGUMENTS, TrainingRecord, head_settings, record_of

ADAPTER_CONFIG = "adapter_config.json"
CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json")


class HubMixin:
    """Gives a model a `push_to_hub` that uploads the whole repository. List it before the class that it extends.

    Example:
        ```python
        model = PrismForMaskedDiffusion.from_pretrained("runs/prism")
        model.push_to_hub("user/my-prism", private=True)
        ```
    """

    training_record: TrainingRecord | None = None

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
        tags: list[str] | None = None,
    ) -> CommitInfo:
        """Upload weights, configs, model card, `custom_generate` and, after a training, its arguments and tokenizer.

        A model card that the repository has already is kept. The arguments are those of transformers.
        """
        model: Any = self  # of the class that this one extends
        repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder, max_shard_size=max_shard_size)
            write_files(model, folder, public=True)
            write_card(model, folder, repo_id, tags=tags)
            if file_exists(repo_id, CARD, revision=revision, token=token):
                (Path(folder) / CARD).unlink()
            if revision is not None and not revision.startswith("refs/pr"):
                create_branch(repo_id, branch=revision, token=token, exist_ok=True)
            return upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message or "Upload model",
                commit_description=commit_description,
                token=token,
                revision=revision,
                create_pr=create_pr,
            )


def write_files(
    model: AnyModel, folder: str | os.PathLike, location: str | os.PathLike | None = None, public: bool = False
) -> None:
    """Write all but the weights, their config and the model card into `folder`, where the model has been saved.

    Args:
        model (`PreTrainedModel` or `PeftModel`): The model.
        folder (`str` or `os.PathLike`): Where it has been saved.
        location (`str` or `os.PathLike`, *optional*): The folder that `folder` will become, if another.
        public (`bool`, *optional*, defaults to `False`): Whether others will read it, to whom a folder of this machine
            as the base model says nothing.
    """
    folder, location, inner = Path(folder), Path(location or folder), unwrapped(model)
    (folder / "custom_generate").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(resource_path("custom_generate/generate.py"), folder / "custom_generate" / "generate.py")
    if inner.can_generate():
        inner.generation_config.save_pretrained(folder)
    if is_adapter(model):
        for name, peft_config in model.peft_config.items():
            part = "" if name == "default" else name
            base = base_from(peft_config.base_model_name_or_path, location / part, public)
            _complete_adapter_config(folder / part / ADAPTER_CONFIG, inner, base)
    record = record_of(model)
    if record is not None:
        (folder / TRAINING_ARGUMENTS).write_text(json.dumps(record.arguments, indent=2) + "\n", encoding="utf-8")
        if record.tokenizer is not None:
            record.tokenizer.save_pretrained(folder)
    for name in CONFIGS:
        make_portable(folder / name)


def _complete_adapter_config(path: Path, model: AnyModel, base: str | None) -> None:
    """Tell in an adapter's own config its base model, and what head its weights fit, so that the base gets that one.

    A `config.json` beside it would not do: transformers then takes a local folder for a whole model.
    """
    if path.exists():  # one of several adapters may have been left out
        adapter_config = json.loads(path.read_text(encoding="utf-8"))
        adapter_config["base_model_name_or_path"] = base
        if head := head_settings(model):
            adapter_config["auto_mapping"] = (adapter_config["auto_mapping"] or {}) | head
        path.write_text(json.dumps(adapter_config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
