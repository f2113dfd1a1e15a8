"""Many prompts to one JSONL file: whole after a kill, and row by row what `remask_generate` gives."""

import json
import os
import shutil
import signal
from importlib.metadata import version
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

import prism_hf
from prism_hf import generate_to_jsonl, remask_generate
from prism_hf.jobs.completions import batch_seed
from prism_hf.jobs.digests import weights_digest
from prism_hf.jobs.manifest import describe_model, describe_source
from prism_hf.jobs.store import ResumableJsonl

ROWS = [{"prompt": "x = " + "1 + " * n, "id": n} for n in range(7)]
SETTINGS = {"batch_size": 2, "max_new_tokens": 6, "steps": 3, "do_sample": True}


@pytest.fixture(scope="module")
def tokenizer(text_tokenizer):
    return text_tokenizer


@pytest.fixture(scope="module")
def model(text_model):
    return text_model()


def killed_after(forwards, model, *args, **kwargs):
    """Run in a forked process that gets SIGKILL in the forward after so many."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # OpenMP's threads do not survive a fork, and a parallel region would wait for them
        left = iter(range(forwards))

        def kill_when_none_is_left(*_):
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        model.register_forward_pre_hook(kill_when_none_is_left)
        try:
            generate_to_jsonl(model, *args, **kwargs)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_killed_run_goes_on_to_the_file_of_an_unbroken_one(model, tokenizer, tmp_path):
    generate_to_jsonl(model, tokenizer, ROWS, tmp_path / "unbroken.jsonl", **SETTINGS)
    expected = (tmp_path / "unbroken.jsonl").read_bytes()
    rows = [json.loads(line) for line in expected.decode().splitlines()]
    assert [{name: row[name] for name in ("prompt", "id")} for row in rows] == ROWS

    path = tmp_path / "killed.jsonl"
    killed_after(8, model, tokenizer, ROWS, path, **SETTINGS)  # in the third of four batches
    shard = ResumableJsonl(path).shard(0)
    assert not path.exists() and shard.read_bytes().count(b"\n") == 2
    with open(shard, "ab") as file:  # killed in the middle of a write
        file.write(b'{"part": 2, "rows": [{"prompt": "x')
    killed_after(4, model, tokenizer, ROWS, path, **SETTINGS)  # one batch more
    assert shard.read_bytes().count(b"\n") == 3 and not path.exists()
    # What a run with more processes left behind counts too.
    shard.rename(ResumableJsonl(path).shard(5))
    forwards = []
    hook = model.register_forward_pre_hook(lambda *_: forwards.append(1))
    generate_to_jsonl(model, tokenizer, ROWS, path, **SETTINGS)
    assert path.read_bytes() == expected and len(forwards) == 3
    generate_to_jsonl(model, tokenizer, ROWS, path, **SETTINGS)
    hook.remove()
    assert path.read_bytes() == expected and len(forwards) == 3  # finished: nothing is computed
    names = sorted(each.name for each in tmp_path.glob("killed*"))
    assert names == ["killed.jsonl", "killed.jsonl.manifest.json", "killed.jsonl.settings.json"]
    manifests = [json.loads((tmp_path / f"{name}.jsonl.manifest.json").read_text()) for name in ("killed", "unbroken")]
    assert all(manifest.pop("seconds") > 0 for manifest in manifests)
    assert manifests[0] == manifests[1]
    for change in ({"seed": 1}, {"steps": 2}, {"settings": {"model_name_or_path": "another"}}):
        with pytest.raises(ValueError, match=next(iter(change)) if "seed" in change else "other settings"):
            generate_to_jsonl(model, tokenizer, ROWS, path, **SETTINGS | change)


@pytest.mark.parametrize("renamed", [{}, {"cache_implementation": "prefix", "block_length": 2}])
def test_an_output_of_the_version_before_goes_on(model, tokenizer, begun_before, renamed):
    """Its settings bear the names of then."""
    path, record = begun_before / "completions.jsonl", begun_before / "completions.jsonl.settings.json"
    kept = json.loads(record.read_text())
    kept["generation"] |= {name.replace("cache_implementation", "cache"): value for name, value in renamed.items()}
    record.write_text(json.dumps(kept))
    generate_to_jsonl(model, tokenizer, ROWS, path, settings={"model": "m"}, **SETTINGS | renamed)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["completion"] for row in rows[:4]] == [f"kept {n}" for n in range(4)]
    assert [row["id"] for row in rows] == list(range(7))
    manifest = json.loads((begun_before / "completions.jsonl.manifest.json").read_text())
    assert manifest["seconds"] is None and manifest["forward_passes"] is None  # of which that version kept nothing
    with pytest.raises(ValueError, match=r"begun with other settings \(generation.steps=3, now 6\)"):
        generate_to_jsonl(model, tokenizer, ROWS, path, settings={"model": "m"}, **SETTINGS | renamed | {"steps": 6})


def test_a_row_is_what_it_is_alone(model, tokenizer, tmp_path):
    path = tmp_path / "out.jsonl"
    settings = {"max_new_tokens": 5, "do_sample": True, "num_return_sequences": 2}
    generate_to_jsonl(model, tokenizer, ROWS[:3], path, batch_size=1, seed=4, apply_chat_template=True, **settings)
    expected = []
    for start, row in enumerate(ROWS[:3]):
        chat = [{"role": "user", "content": row["prompt"]}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
        generator = torch.Generator().manual_seed(batch_seed(4, start))
        eos = tokenizer.eos_token_id
        output = remask_generate(model, ids.input_ids, generator=generator, eos_token_id=eos, **settings)
        for new in output[:, ids.input_ids.shape[1] :]:
            ends = (new == eos).nonzero().flatten().tolist()
            kept = new[: ends[0] + 1 if ends else None]
            given = {"completion": tokenizer.decode(kept, skip_special_tokens=True), "tokens": kept.tolist()}
            expected.append(row | given | {"forward_passes": 5})
    assert [json.loads(line) for line in path.read_text().splitlines()] == expected
    for greedy in ({"max_new_tokens": 5, "steps": 5}, {"max_length": 32, "block_length": 4}):
        name = next(iter(greedy))
        for batch_size in (1, 3):
            path = tmp_path / f"{name}.{batch_size}.jsonl"
            generate_to_jsonl(model, tokenizer, ROWS, path, batch_size=batch_size, **greedy)
        assert path.read_text() == (tmp_path / f"{name}.1.jsonl").read_text()


def test_masks_in_a_prompt_are_filled_in_place(model, tokenizer, tmp_path):
    mask = tokenizer.mask_token
    rows = [{"prompt": f"def f({mask}):"}, {"prompt": f"{mask}{mask} = 1234567"}]
    generate_to_jsonl(model, tokenizer, rows, tmp_path / "out.jsonl")
    filled = [json.loads(line)["completion"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert filled[0].startswith("def f(") and filled[0].endswith("):") and filled[1].endswith(" = 1234567")


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([], {}, "no prompts"),
        ([{"prompt": "a"}], {}, "Prompt 1 has no mask to fill"),
        ([{"prompt": "a"}, {"prompt": "<|mdm_mask|>"}], {"max_new_tokens": 2}, "Prompt 2 holds the mask token"),
        ([{"prompt": "a", "completion": "b"}], {"max_new_tokens": 2}, "'completion'"),
        ([{"prompt": "a", "tokens": [1]}], {"max_new_tokens": 2}, "'tokens'"),
        (
            [{"prompt": "a"}, {"prompt": "abcabcabc"}],
            {"max_length": 1},
            "Prompt 2 has . tokens, more than max_length",
        ),
        ([{"prompt": "a"}], {"max_new_tokens": 2, "batch_size": 0}, "batch_size=0"),
        ([{"prompt": "a"}], {"max_new_tokens": 2, "batch_size": 2.5}, "batch_size=2.5 .*an integer of at least 1"),
        ([{"prompt": "a"}], {"max_new_tokens": 2, "seed": -1}, "seed=-1 .*an integer from 0"),
        ({"prompt": "a"}, {"max_new_tokens": 2}, "rows=.* must be a list"),
        ([{"prompt": "a"}], {"max_new_tokens": 2, "streamer": "text"}, "'streamer' is an argument of generate"),
        ([{"prompt": "a"}], {"max_new_tokens": 2, "apply_chat_template": "no"}, "apply_chat_template='no' must be"),
        (["a"], {"max_new_tokens": 2}, r"rows=\['a'\] must be a list, each a mapping"),
        ([{"prompt": "a"}], {"max_new_tokens": 2, "order": ""}, "order=''"),
        ([{"prompt": "a"}], {"max_new_token": 2}, "'max_new_tokens'"),
    ],
)
def test_mistakes_are_named_before_work_begins(model, tokenizer, tmp_path, rows, settings, message):
    with pytest.raises(ValueError, match=message):
        generate_to_jsonl(model, tokenizer, rows, tmp_path / "out.jsonl", **settings)
    assert list(tmp_path.iterdir()) == []


NOTHING = {"add_special_tokens": False, "eos_token_id": None}


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_samples_from_nothing_are_those_of_a_row_of_masks(model, tokenizer, tmp_path):
    path, eos = tmp_path / "samples.jsonl", tokenizer.eos_token_id
    settings = {"do_sample": True, "steps": 5, "suppress_tokens": [t for t in range(300) if t not in (eos, 70, 71)]}
    generate_to_jsonl(model, tokenizer, [{"prompt": ""}] * 5, path, 2, max_new_tokens=9, **NOTHING | settings)
    rows, expected = read(path), []
    for start, number in ((0, 2), (2, 2), (4, 1)):
        generator = torch.Generator().manual_seed(batch_seed(0, start))
        masks = torch.full((number, 9), tokenizer.mask_token_id)
        expected += remask_generate(model, masks, generator=generator, **settings).tolist()
    assert [row["tokens"] for row in rows] == expected and {row["forward_passes"] for row in rows} == {5}
    assert [row["completion"] for row in rows] == [tokenizer.decode(row) for row in expected]
    assert any(tokenizer.eos_token in row["completion"][:-30] for row in rows)  # after which the text goes on
    bos = [{"prompt": tokenizer.eos_token}]
    generate_to_jsonl(model, tokenizer, bos, tmp_path / "bos.jsonl", max_new_tokens=9, **NOTHING | settings)
    (row,), generator = read(tmp_path / "bos.jsonl"), torch.Generator().manual_seed(batch_seed(0, 0))
    expected = remask_generate(model, torch.tensor([[eos]]), generator=generator, max_new_tokens=9, **settings)
    assert row["tokens"] == expected[0, 1:].tolist()


def test_the_manifest_tells_what_made_an_output(model, tokenizer, tmp_path):
    path = tmp_path / "out.jsonl"
    source = describe_source(str(tmp_path / "mine"), "main")
    settings = {"seed": 3, "bf16": True, "source": source, "max_new_tokens": 4, "remask_strategy": "random", "eta": 0.1}
    generate_to_jsonl(model, tokenizer, ROWS[:2], path, **settings)
    text = (tmp_path / "out.jsonl.manifest.json").read_text()
    manifest = json.loads(text)
    expected = {
        **{"model": "mine", "revision": None, "commit_hash": None, "adapter": None, "dtype": "float32", "bf16": True},
        **{"weights": weights_digest(model), "seed": 3, "num_samples": 2, "forward_passes": 4, "device": "cpu"},
    }
    assert {name: manifest[name] for name in expected} == expected
    assert manifest["versions"] == {
        name: version(name.replace("_", "-")) if name != "prism_hf" else prism_hf.__version__
        for name in ("prism_hf", "torch", "transformers")
    }
    settings_of_call = {name: manifest["generation"][name] for name in ("remask_strategy", "eta", "max_new_tokens")}
    assert settings_of_call == {"remask_strategy": "random", "eta": 0.1, "max_new_tokens": 4}
    assert manifest["seconds"] > 0
    assert str(tmp_path) not in text
    kept = json.loads((tmp_path / "out.jsonl.settings.json").read_text())
    assert not {"seconds", "versions", "forward_passes"} & kept.keys()
    with pytest.raises(ValueError, match="bf16=True, now False"):
        generate_to_jsonl(model, tokenizer, ROWS[:2], path, **settings | {"bf16": False})


def test_the_manifest_of_an_adapter_names_its_base_too(model, tokenizer, text_model, tmp_path):
    adapter = get_peft_model(text_model(), LoraConfig(target_modules=["q_proj"], base_model_name_or_path="a/base"))
    told = describe_model(adapter)
    assert told["adapter"]["peft_type"] == "LORA" and told["weights"] != weights_digest(model)


def test_the_commit_of_a_name_on_the_hub_is_that_of_the_cache(tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--user--mine"
    for file in (repository / "refs" / "main", repository / "snapshots" / commit / "config.json"):
        file.parent.mkdir(parents=True)
        file.write_text(commit if file.name == "main" else "{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for revision in ("main", commit, None):
        assert describe_source("user/mine", revision) == {
            "model": "user/mine",
            "revision": revision,
            "commit_hash": commit,
        }
    assert describe_source("user/mine", "other")["commit_hash"] is None


WORDS = ["[MASK]", "[PAD]", "[CLS]", "[SEP]", "[UNK]", *(f"w{i}" for i in range(5, 40))]


@pytest.fixture(scope="module")
def bert_tokenizer():
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


class Scripted(nn.Module):
    """Prefers the ids of `script` in turn at new positions, and keeps the canvases that it has seen."""

    def __init__(self, script, vocabulary, prompt_length):
        super().__init__()
        self.config = SimpleNamespace(mask_token_id=0, vocab_size=vocabulary, max_position_embeddings=12)
        self.script, self.prompt_length, self.seen = script, prompt_length, []

    def forward(self, input_ids, attention_mask=None):
        self.seen.append(input_ids)
        logits = torch.zeros(*input_ids.shape, self.config.vocab_size)
        for place, tokens in enumerate(self.script, start=self.prompt_length):
            for rank, token in enumerate([tokens] if isinstance(tokens, int) else tokens):
                logits[:, place, token] = 9.0 - rank
        return SimpleNamespace(logits=logits)


def completions(model, tokenizer, folder, prompts, **settings):
    generate_to_jsonl(model, tokenizer, [{"prompt": each} for each in prompts], folder / "out.jsonl", **settings)
    return [json.loads(line)["completion"] for line in (folder / "out.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "eos_token_id, completion",
    [
        ([10, 34], "w17 w20 w10"),
        (20, "w17 w20"),
        ([17], "w17"),
        (None, "w17 w20 w10 w34 w10"),
        ([39, 2], "w17 w20 w10 w34 w10"),
    ],
)
def test_a_completion_ends_where_its_row_does(bert_tokenizer, tmp_path, eos_token_id, completion):
    model = Scripted([17, 20, 10, 34, 10], 40, 3)
    settings = {"max_new_tokens": 5, "eos_token_id": eos_token_id}
    assert completions(model, bert_tokenizer, tmp_path, ["w7 w8"], **settings) == [completion]


def test_ids_that_the_tokenizer_lacks_are_not_drawn(bert_tokenizer, tmp_path):
    """A vocabulary that was padded from 40 to 64; the model likes an id without a word best."""
    model = Scripted([(63, 17), (40, 20), (41, 21)], 64, 3)
    out = completions(model, bert_tokenizer, tmp_path, ["w7 w8"], max_new_tokens=3, suppress_tokens=[21, 5])
    assert out[0].startswith("w17 w20 ") and "w21" not in out[0] and len(out[0].split()) == 3


def test_nothing_closes_the_prompt(bert_tokenizer, tmp_path):
    model = Scripted([], 40, 0)
    completions(model, bert_tokenizer, tmp_path, ["w7 w8", ""], max_new_tokens=2)
    assert model.seen[0][:, :5].tolist() == [[2, 7, 8, 0, 0], [2, 0, 0, 0, 0]]
    model.seen.clear()
    completions(model, bert_tokenizer, tmp_path / "in place", ["w7 [MASK] w8"])
    assert model.seen[0].tolist() == [[2, 7, 0, 8, 3]]


def test_what_cannot_be_completed_is_refused_before_any_row_is(bert_tokenizer, tmp_path):
    model, rows = Scripted([], 40, 0), ["w7", "w7 " * 8, "w7"]
    for prompts, settings, message in (
        (rows, {"max_new_tokens": 5}, "Prompt 2 has 9 tokens and is to get 5 .* the 12 "),
        (["w7 " * 12 + "[MASK]"], {}, "Prompt 1 has 15 tokens, more than the 12"),
        ([["w7"]], {"max_new_tokens": 5}, "Prompt 1 is no text"),
        (rows, {"max_new_tokens": 2, "remask_strategy": "prism"}, "no quality head"),
        (rows, {"max_new_tokens": 2, "block_length": 1, "steps": 1}, "too few"),
        (rows, {"max_new_tokens": 2, "eos_token_id": 40}, "eos_token_id has 40"),
    ):
        with pytest.raises(ValueError, match=message):
            completions(model, bert_tokenizer, tmp_path, prompts, batch_size=1, **settings)
    assert not model.seen and not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="Prompt 2 has no field 'prompt'"):
        generate_to_jsonl(model, bert_tokenizer, [{"prompt": "w7"}, {"text": "w7"}], tmp_path / "o", max_new_tokens=2)


def test_samples_that_would_be_equal_are_refused_before_a_forward(model, tokenizer, tmp_path):
    def write(rows, **settings):
        generate_to_jsonl(model, tokenizer, rows, tmp_path / "out.jsonl", **SETTINGS | settings)

    forwards = []
    hook = model.register_forward_pre_hook(lambda *_: forwards.append(1))
    message = r"The 3 samples of each prompt .* do_sample=False, .* order='margin' draw nothing.*num_samples=1"
    with pytest.raises(ValueError, match=message):
        write(3 * ROWS, do_sample=False, order="margin")
    with pytest.raises(ValueError, match="temperature=0"):
        write(4 * [{"prompt": ""}], temperature=0.0, order="confidence")
    hook.remove()
    assert not forwards and not list(tmp_path.glob("out*"))
    write(2 * ROWS[:1], do_sample=False, order="random")
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    write(2 * ROWS[:1], do_sample=False, order="margin", remask_strategy="random", num_remask=1)
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    write([*ROWS, ROWS[0]], do_sample=False, order="margin")  # a file may have a line twice
