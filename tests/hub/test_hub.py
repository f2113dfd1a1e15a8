"""Pushing to and loading from a Hub on this machine, each in a process of its own, by what the files then do."""

import json
import re
from pathlib import Path

import pytest
import yaml

import prism_hf
from prism_hf.resources import resource_path

FIXTURE = Path(__file__).parents[1] / "fixtures" / "llada_tiny"

# Trains three kinds of models for a step, pushes them all, and tells what they gave before they were pushed.
PUSH = """
import json, os, sys, torch
from huggingface_hub import HfApi
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast
from prism_hf import (
    MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments, PrismForMaskedDiffusion, PrismTrainer,
    PrismTrainingArguments, RemaskGenerationConfig, TokenCriticTrainer, TokenCriticTrainingArguments, remask_generate,
)
from prism_hf.data import SudokuTokenizer, read_sudoku_csv, to_grid, to_sequence
from prism_hf.resources import resource_path

common = dict(
    max_steps=1, per_device_train_batch_size=2, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no",
    learning_rate=1e-2, hub_token="hf_owner",
)
told = {}

def place(name):
    return os.path.abspath(name)

# An adapter on a published checkpoint that lies in a private repository, at a revision of its own.
words = {word: i for i, word in enumerate(["[PAD]", "Write", "a", "function", "that", "adds", "two", "numbers", "."])}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="[PAD]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")
tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
model = PrismForMaskedDiffusion.from_pretrained("user/llada-tiny", revision="v1", head_type="linear")
model.generation_config = RemaskGenerationConfig(remask_strategy="prism", num_remask=2, steps=8)
rows = [{"input_ids": torch.arange(24) + i} for i in range(4)]
args = PrismTrainingArguments(place("adapter"), hub_private_repo=True, **common)
lora = LoraConfig(target_modules=["q_proj", "v_proj"], revision="v1", task_type="CAUSAL_LM")
trainer = PrismTrainer(
    model, args, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer, peft_config=lora
)
trainer.train()
told["metrics"] = trainer.evaluate()
trainer.push_to_hub(dataset_tags="user/sums", license="mit")
trainer.model.push_to_hub("user/by-model", private=True)
trainer.model.eval()
input_ids = tokenizer("Write a function that adds two numbers.", return_tensors="pt").input_ids
with torch.no_grad():
    output = trainer.model(input_ids=input_ids)
told["input_ids"], told["logits"] = input_ids.tolist(), output.logits.tolist()
told["quality_logits"] = output.quality_logits.tolist()
told["user/adapter"] = tokenizer.decode(trainer.model.generate(input_ids, max_new_tokens=64)[0])
told["user/by-model"] = told["user/adapter"]

# Another adapter on the same base, pushed while it trains.
saving = common | dict(save_strategy="steps", save_steps=1)
args = PrismTrainingArguments(place("every-save"), push_to_hub=True, hub_strategy="all_checkpoints", **saving)
model = PrismForMaskedDiffusion.from_pretrained("user/llada-tiny", revision="v1")
lora = LoraConfig(target_modules=["q_proj"], revision="v1")
trainer = PrismTrainer(model, args, train_dataset=rows, peft_config=lora)
trainer.train()
trainer.push_in_progress.wait_until_done()

# A whole model with a quality head; its card is then edited, and the model pushed again.
model = PrismForMaskedDiffusion.from_pretrained(resource_path("sudoku_prism"))
grids = to_sequence(to_grid(read_sudoku_csv(resource_path("sudoku/solutions.csv"))), 81)[:4]
sudoku = dict(train_dataset=[{"input_ids": grid} for grid in grids], processing_class=SudokuTokenizer())
trainer = PrismTrainer(model, PrismTrainingArguments(place("sudoku-prism"), **common), **sudoku)
trainer.train()
trainer.push_to_hub(model_name="Sudoku that corrects itself", dataset="Solved grids")
told["user/sudoku-prism"] = SudokuTokenizer().decode(model.eval().generate(torch.zeros(1, 81, dtype=torch.long))[0])
model.push_to_hub("user/edited")
HfApi().upload_file(repo_id="user/edited", path_or_fileobj=b"# My own words", path_in_repo="README.md")
model.push_to_hub("user/edited", commit_message="Again")
model.push_to_hub("user/edited", revision="branch")

# A masked diffusion model without a quality head, of a class that is not ours.
model = AutoModelForMaskedLM.from_pretrained(resource_path("sudoku_mdm"))
trainer = MaskedDiffusionTrainer(model, MaskedDiffusionTrainingArguments(place("sudoku-mdm"), **common), **sudoku)
trainer.train()
trainer.push_to_hub()
canvas = torch.zeros(1, 81, dtype=torch.long)
told["user/sudoku-mdm"] = SudokuTokenizer().decode(remask_generate(model.eval(), canvas, mask_token_id=0)[0])

# An adapter on a folder of this machine, and a critic of the model in one.
model.save_pretrained(place("denoiser"))
model = PrismForMaskedDiffusion.from_pretrained(resource_path("sudoku_prism"))
model.save_pretrained(place("base"))
model = PrismForMaskedDiffusion.from_pretrained(place("base"))
args = PrismTrainingArguments(place("local-base"), **common)
trainer = PrismTrainer(model, args, peft_config=LoraConfig(target_modules=["query"]), **sudoku)
trainer.train()
trainer.push_to_hub()
trainer.model.push_to_hub("user/local-base-by-model")
model = PrismForMaskedDiffusion.from_pretrained(place("base"))
denoiser = AutoModelForMaskedLM.from_pretrained(place("denoiser"))
trainer = TokenCriticTrainer(
    model, TokenCriticTrainingArguments(place("critic"), **common), denoiser=denoiser, **sudoku
)
trainer.train()
trainer.push_to_hub()

print("told:", json.dumps(told))
"""

# Each snippet as a program of its own.
SNIPPETS = """
import contextlib, io, json, sys
told = {}
for repo, snippet in json.loads(sys.argv[1]).items():
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(snippet, repo, "exec"), {"__name__": "__main__"})
    told[repo] = printed.getvalue()
print("told:", json.dumps(told))
"""

LOAD = """
import json, sys, torch
from prism_hf import AutoPeftModelForPrism

def load(**settings):
    model = AutoPeftModelForPrism.from_pretrained("user/adapter", **settings)
    with torch.no_grad():
        output = model(input_ids=torch.tensor(json.loads(sys.argv[1])))
    base = model.get_base_model()
    trained = {part for name, p in model.named_parameters() if p.requires_grad for part in name.split(".")}
    return {
        "logits": output.logits.float().tolist(), "quality_logits": output.quality_logits.float().tolist(),
        "head": sorted({str(p.dtype) for name, p in model.named_parameters() if "quality_head" in name}),
        "backbone": str(base.get_input_embeddings().weight.dtype), "trained": sorted(trained),
        "strategy": base.generation_config.remask_strategy, "steps": base.generation_config.steps,
        "class": type(model).__name__, "training": model.training,
    }

told = {"plain": load(token="hf_owner")}
told["base"] = load(token="hf_owner", dtype="bfloat16", device_map="cpu", is_trainable=True, revision="main")
try:
    load(force_download=True)
except Exception as error:
    told["refused"] = type(error).__name__ + str(error)
print("told:", json.dumps(told))
"""

CUSTOM_GENERATE = """
import json, sys, torch
if sys.argv[1] == "without":
    sys.modules["prism_hf"] = None  # what an import meets where the package is not installed
from transformers import BertForMaskedLM, GenerationMixin

class BertThatGenerates(GenerationMixin, BertForMaskedLM):
    pass

custom = {"custom_generate": "user/sudoku-prism", "trust_remote_code": True}
canvas = torch.zeros(1, 81, dtype=torch.long)
model = BertThatGenerates.from_pretrained(sys.argv[2])
told = {"foreign": model.generate(canvas, mask_token_id=0, steps=9, **custom).tolist()}

from prism_hf import PrismForMaskedDiffusion
model = PrismForMaskedDiffusion.from_pretrained("user/sudoku-prism")
told["prism"] = [model.generate(canvas, steps=9, **kwargs).tolist() for kwargs in ({}, custom)]
print("told:", json.dumps(told))
"""

WEIGHTS = {"adapter_config.json", "adapter_model.safetensors"}
EXTRAS = {"README.md", "generation_config.json", "training_args.json", "custom_generate/generate.py"}


def told(printed: str):
    return json.loads(printed.rpartition("told:")[2])


def metadata_of(card: str) -> dict:
    return yaml.safe_load(re.match(r"---\n(.*?)\n---", card, re.DOTALL)[1])


@pytest.fixture(scope="module")
def pushed(hub, run):
    files = {name: (FIXTURE / name).read_bytes() for name in ("config.json", "model.safetensors")}
    base = hub.create("user/llada-tiny", private=True)
    base.commit({"config.json": files["config.json"]})  # without weights: only the revision can be loaded
    base.commit(files, "v1")
    return told(run(PUSH))


def test_adapter_repository_is_complete(hub, pushed):
    for repo in ("user/adapter", "user/by-model"):
        files = set(hub.repositories[repo].files)
        assert files >= WEIGHTS | EXTRAS | {"tokenizer.json", "tokenizer_config.json"}
        assert "config.json" not in files and "model.safetensors" not in files
        assert hub.repositories[repo].private


def test_adapter_card(hub, pushed):
    card = hub.text("user/adapter", "README.md")
    metadata = metadata_of(card)
    assert metadata["base_model"] == "user/llada-tiny" and metadata["base_model_relation"] == "adapter"
    assert metadata["library_name"] == "peft" and metadata["license"] == "mit"
    assert metadata["datasets"] == ["user/sums"]
    assert {"prism", "masked-diffusion", "lora", "custom_generate"} <= set(metadata["tags"])
    rows = dict(re.findall(r"\| `(eval_\w+)` \| (\S+) \|", card))
    kept = {name: value for name, value in pushed["metrics"].items() if "runtime" not in name and "second" not in name}
    assert kept.keys() - {"epoch"} == rows.keys() and "eval_quality_auroc" in rows
    for name, value in rows.items():
        assert float(value) == pytest.approx(kept[name], rel=1e-5, nan_ok=True)
    assert "2510.01384" in card and "```bibtex" in card
    by_model = hub.text("user/by-model", "README.md")
    assert dict(re.findall(r"\| `(eval_\w+)` \| (\S+) \|", by_model)) == rows
    assert metadata_of(by_model)["base_model"] == "user/llada-tiny"


def test_training_arguments_are_text(hub, pushed):
    arguments = json.loads(hub.text("user/adapter", "training_args.json"))
    assert arguments["num_draft_tokens"] == 8 and arguments["learning_rate"] == 1e-2
    assert arguments["output_dir"] == "adapter"


def test_no_token_and_no_place_on_this_machine_is_pushed(hub, pushed, tmp_path_factory):
    private = {
        hub.token,
        str(tmp_path_factory.getbasetemp()),
        str(Path(prism_hf.__file__).parents[1]),
        str(Path.home()),
    }
    pushed_files = [
        (f"{repo}/{path}", content)
        for repo, repository in hub.repositories.items()
        for files in repository.commits.values()
        for path, content in files.items()
    ]
    assert {"user/critic", "user/local-base", "user/local-base-by-model"} <= hub.repositories.keys()
    assert any("checkpoint-1/trainer_state.json" in path for path, _ in pushed_files)
    for path, content in pushed_files:
        found = [secret for secret in private if secret.encode() in content]
        assert not found and not path.endswith("training_args.bin"), path
    for repo in ("user/local-base", "user/local-base-by-model"):
        assert json.loads(hub.text(repo, "adapter_config.json"))["base_model_name_or_path"] == "base"
    card = hub.text("user/critic", "README.md")
    assert "| Judges drafts of | denoiser |" in card and 'load_model("denoiser")' in card


def test_the_cards_snippets_generate_what_the_trained_models_did(hub, run, pushed):
    snippets = {}
    for repo in ("user/adapter", "user/by-model", "user/sudoku-prism", "user/sudoku-mdm"):
        snippets[repo] = re.search(r"```python\n(.*?)```", hub.text(repo, "README.md"), re.DOTALL)[1]
        assert f'from_pretrained("{repo}")' in snippets[repo]
    printed = told(run(SNIPPETS, json.dumps(snippets)))
    assert {repo: text.strip() for repo, text in printed.items()} == {repo: pushed[repo].strip() for repo in snippets}


def test_adapter_loads_in_one_line(run, pushed):
    loaded = told(run(LOAD, json.dumps(pushed["input_ids"]), token=None))
    plain, base = loaded["plain"], loaded["base"]
    assert plain["logits"] == pushed["logits"] and plain["quality_logits"] == pushed["quality_logits"]
    assert (plain["strategy"], plain["steps"]) == ("prism", 8)
    assert plain["class"] == "PeftModelForPrism" and not plain["training"] and plain["trained"] == []

    assert base["backbone"] == "torch.bfloat16" and base["head"] == ["torch.float32"]
    assert {"lora_A", "lora_B", "quality_head"} <= set(base["trained"])
    for row, expected in zip(base["quality_logits"], pushed["quality_logits"], strict=True):
        assert row == pytest.approx(expected, abs=0.05)
    assert "user/adapter" in loaded["refused"]  # private, and no token given


def test_checkpoints_are_pushed_while_training(hub, pushed):
    assert set(hub.repositories["user/every-save"].files) >= WEIGHTS | EXTRAS
    config = json.loads(hub.text("user/every-save", "adapter_config.json"))
    assert config["auto_mapping"]["head_type"] == "mlp" and config["revision"] == "v1"


def test_whole_model_repository(hub, pushed):
    files = set(hub.repositories["user/sudoku-prism"].files)
    assert files >= EXTRAS | {"config.json", "model.safetensors", "tokenizer_config.json"}
    card = hub.text("user/sudoku-prism", "README.md")
    metadata = metadata_of(card)
    # The base is a folder of this machine: the Hub refuses it as a base_model, and its path is nobody's business.
    assert metadata["library_name"] == "transformers" and "base_model" not in metadata
    assert "# Sudoku that corrects itself" in card and "/resources/" not in card
    assert "| Base model | sudoku_prism |" in card and "| Dataset | Solved grids |" in card


def test_a_card_that_was_edited_is_kept(hub, pushed):
    assert hub.text("user/edited", "README.md") == "# My own words"
    assert "model.safetensors" in hub.repositories["user/edited"].files
    assert "branch" in hub.repositories["user/edited"].branches


def test_custom_generate_of_a_repository(run, pushed):
    generated = told(run(CUSTOM_GENERATE, "with", resource_path("sudoku_mdm")))
    (grid,) = generated["foreign"]
    assert len(grid) == 81 and all(1 <= token <= 9 for token in grid)
    plain, custom = generated["prism"]
    assert plain == custom
    error = run(CUSTOM_GENERATE, "without", resource_path("sudoku_mdm"), fails=True).strip().splitlines()[-1]
    assert "prism_hf" in error and "Install prism_hf" in error
