"""Folders with a damaged file, an adapter that does not fit, or two models in one: told by name, with the remedy."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from prism_hf import AutoPeftModelForPrism, PrismForMaskedDiffusion, load_model
from prism_hf.models.prism.peft_model import PeftModelForPrism


def bert(hidden_size=16, num_hidden_layers=1) -> BertForMaskedLM:
    return BertForMaskedLM(
        BertConfig(
            vocab_size=12,
            hidden_size=hidden_size,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=8,
            mask_token_id=0,
        )
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders `bare`, `wide`, `deep`, `sharded` (backbones), `prism`, `parts` (with a head) and `adapter` on `bare`."""
    root = tmp_path_factory.mktemp("made")
    bert().save_pretrained(root / "bare")
    bert(hidden_size=32).save_pretrained(root / "wide")
    bert(num_hidden_layers=2).save_pretrained(root / "deep")
    bert().save_pretrained(root / "sharded", max_shard_size="4KB")
    prism = PrismForMaskedDiffusion.from_pretrained(root / "bare")
    prism.save_pretrained(root / "prism")
    prism.save_pretrained(root / "parts", max_shard_size="4KB")
    lora = LoraConfig(
        r=4, target_modules=["query"], modules_to_save=["quality_head"], base_model_name_or_path=str(root / "bare")
    )
    PeftModelForPrism(prism, lora).save_pretrained(root / "adapter")
    edit(root / "adapter", base_model_name_or_path=str(root / "bare"))  # its copies lie elsewhere
    return root


@pytest.fixture
def copy(made, tmp_path):
    """Copies one of the folders, or several into one, to break it."""

    def copy(*names: str) -> Path:
        for name in names:
            shutil.copytree(made / name, tmp_path / "-".join(names), dirs_exist_ok=True)
        return tmp_path / "-".join(names)

    return copy


def cut(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


SECOND = "model-00002-of-00003.safetensors"
INDEX = "model.safetensors.index.json"
DAMAGES = [
    ("bare", "model.safetensors", lambda path: cut(path)),
    ("bare", "model.safetensors", lambda path: cut(path, 0)),
    ("bare", "model.safetensors", lambda path: path.write_bytes(b"\xff" * 3000)),
    ("bare", "config.json", cut),
    ("prism", "model.safetensors", lambda path: cut(path, 0.99)),
    ("sharded", SECOND, cut),
    ("sharded", SECOND, Path.unlink),
    ("parts", "model-00002-of-", lambda path: cut(next(path.parent.glob("model-00002-of-*")))),
    ("parts", "model-00002-of-", lambda path: next(path.parent.glob("model-00002-of-*")).unlink()),
    ("parts", INDEX, cut),
    ("parts", INDEX, lambda path: path.write_text("{}")),
    ("sharded", INDEX, lambda path: path.write_text('{"weight_map": [1]}')),
    ("adapter", "adapter_model.safetensors", cut),
    ("adapter", "adapter_model.safetensors", Path.unlink),
    ("adapter", "adapter_config.json", cut),
    ("adapter", "generation_config.json", cut),
]


@pytest.mark.parametrize("folder, name, damage", DAMAGES)
def test_a_damaged_file_is_named(copy, folder, name, damage):
    path = copy(folder)
    damage(path / name)
    with pytest.raises((ValueError, OSError), match=rf"{name}.*Remedy"):
        load_model(path)
    loader = AutoPeftModelForPrism if folder == "adapter" else PrismForMaskedDiffusion
    with pytest.raises((ValueError, OSError), match=name):
        loader.from_pretrained(path)


def test_a_damaged_pytorch_file_is_named(copy):
    path = copy("bare")
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    load_model(path)
    cut(path / "pytorch_model.bin")
    with pytest.raises((ValueError, OSError), match=r"pytorch_model\.bin.*Remedy"):
        load_model(path)


class Command:
    """Something that would be run, were it unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit",)


def test_objects_in_a_pytorch_file_are_named_and_not_built(copy):
    path = copy("bare")
    (path / "model.safetensors").unlink()
    torch.save({"cls.predictions.bias": Command()}, path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no weights in pytorch_model.bin; none of them was built. Remedy"):
        load_model(path)


def test_a_damaged_base_of_an_adapter_is_named(copy, made):
    adapter, base = copy("adapter"), copy("bare")
    edit(adapter, base_model_name_or_path=str(base))
    cut(base / "model.safetensors")
    with pytest.raises(ValueError, match=r"/bare/model\.safetensors is cut off or damaged"):
        load_model(adapter)
    shutil.rmtree(base)
    with pytest.raises(OSError, match=r"base model '.*/bare' that .*/adapter names cannot be loaded.*Remedy"):
        load_model(adapter)


def edit(adapter: Path, **settings) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


QUERY = r"layer\.\d\.attention\.self\.query\.lora_A"
FITS = "Remedy: in its adapter_config.json give what it was trained with"


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"r": 8}, rf"of another size: .*{QUERY}.weight \(\(4, 16\), .* say \(8, 16\)\).*{FITS}.*r=8"),
        ({"r": "4"}, "r='4' of .*adapter_config.json must be an integer of at least 1"),
        ({"r": 0}, "r=0 of .*adapter_config.json must be an integer of at least 1"),
        ({"lora_alpha": "8"}, "lora_alpha='8' of .* must be a number"),
        ({"bias": "some"}, "bias='some' of .* must be one of"),
        ({"base_model_name_or_path": "wide"}, rf"of another size: .*{QUERY}.*\(\(4, 16\), .* say \(4, 32\)\).*{FITS}"),
        ({"base_model_name_or_path": "deep"}, rf"missing: .*{QUERY}.*{FITS}"),
        ({"target_modules": ["query", "value"]}, rf"missing: .*value\.lora_A.*{FITS}"),
        ({"target_modules": ["q_proj"]}, "adapter of another model than PrismForMaskedDiffusion .*bare.*Remedy"),
        ({"use_dora": True}, rf"missing: .*lora_magnitude_vector.*{FITS}"),
        ({"peft_type": "NEWEST"}, "none that PEFT knows .*NEWEST.* LORA.*Remedy"),
    ],
)
def test_an_adapter_that_does_not_fit_is_told(copy, made, settings, message):
    if base := settings.get("base_model_name_or_path"):
        settings = {"base_model_name_or_path": str(made / base)}
    path = copy("adapter")
    edit(path, **settings)
    with pytest.raises(ValueError, match=rf"(?s)(?=.*{path}).*{message}"):
        load_model(path)


def test_a_second_adapter_of_another_size_leaves_the_first(copy, made):
    path = copy("adapter")
    weights = load_file(path / "adapter_model.safetensors")
    key = next(key for key in weights if key.endswith("quality_head.dense.weight"))
    save_file(weights | {key: torch.ones(3, 3)}, path / "adapter_model.safetensors", metadata={"format": "pt"})
    model = load_model(made / "adapter")
    with pytest.raises(ValueError, match=r"quality_head\.dense\.weight \(\(3, 3\), .* say \(16, 16\)\)"):
        model.load_adapter(path, "other")
    assert list(model.peft_config) == ["default"]
    model.load_adapter(made / "adapter", "other")


def as_cached(folder: Path, cache: Path) -> None:
    """Put a folder into a cache of the Hub, as the repository user/model."""
    repository = cache / "models--user--model"
    shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)


def test_names_on_the_hub_are_told_the_same(copy, made, tmp_path):
    as_cached(made / "adapter", tmp_path / "whole")
    assert type(load_model("user/model", cache_dir=tmp_path / "whole")) is PeftModelForPrism
    as_cached(copy("adapter", "prism"), tmp_path / "both")
    with pytest.raises(ValueError, match=r"user/model has both an adapter and a whole model \(model\.safetensors\)"):
        load_model("user/model", cache_dir=tmp_path / "both")
    damaged = copy("prism")
    cut(damaged / "model.safetensors")
    as_cached(damaged, tmp_path / "damaged")
    with pytest.raises(ValueError, match=r"snapshots/0+/model\.safetensors is cut off or damaged"):
        load_model("user/model", cache_dir=tmp_path / "damaged")


@pytest.mark.parametrize("name", ["prism", "parts", "bare"])
def test_a_model_and_an_adapter_in_one_folder_are_refused(copy, name):
    path = copy("adapter", name)
    for load in (load_model, PrismForMaskedDiffusion.from_pretrained):
        with pytest.raises(ValueError, match="both an adapter and a whole model .*Remedy"):
            load(path)
    assert type(AutoPeftModelForPrism.from_pretrained(path)) is PeftModelForPrism


def test_the_base_models_config_beside_an_adapter_is_no_model(copy, made):
    path = copy("adapter")
    shutil.copy(made / "bare" / "config.json", path)
    assert type(load_model(path)) is PeftModelForPrism
