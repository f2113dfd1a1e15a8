"""The task text on tiny models, as the recipe loads it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, processors
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import prism_hf
from prism_hf import LladaForMaskedDiffusion, MdlmConfig, MdlmForMaskedDiffusion, PrismConfig, PrismForMaskedDiffusion
from prism_hf.data import python_files, train_byte_level_bpe
from prism_hf.data.prompts import decode_with_ends
from prism_hf.evaluation import (
    as_reader,
    compare,
    comparison_table,
    expand_grid,
    load_task,
    negative_log_likelihood,
    read_samples,
    score_samples,
)
from prism_hf.evaluation.comparison.settings import check_settings, evaluate_settings

CONFIGS = Path(__file__).parents[3] / "recipes" / "configs"
PROMPTS = ["def f(x):", "import torch", "return", "for row in rows", "x = 1", "y", "class Head:"]
STRATEGIES = [{"name": "none"}, {"name": "prism", "num_remask": [1, 2]}]


@pytest.fixture(scope="module")
def tokenizer(text_tokenizer):
    return text_tokenizer


@pytest.fixture(scope="module")
def folder(tokenizer, text_model, tmp_path_factory):
    """A model and a scorer with their tokenizers, each without in `*_bare`, and prompts."""
    folder = tmp_path_factory.mktemp("text")
    backbone = text_model()
    model = PrismForMaskedDiffusion(PrismConfig(backbone_config=backbone.config), backbone)
    shape = {"vocab_size": 300, "n_positions": 32, "n_embd": 32, "n_layer": 1, "n_head": 2, "initializer_range": 0.4}
    scorer = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=tokenizer.eos_token_id))
    for name, saved in (("model", model), ("scorer", scorer)):
        saved.save_pretrained(folder / name)
        saved.save_pretrained(folder / f"{name}_bare")
        tokenizer.save_pretrained(folder / name)
    (folder / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    return folder


def load_model(folder, name="model"):
    return PrismForMaskedDiffusion.from_pretrained(folder / name).eval()


def test_samples_from_nothing_are_all_masks_and_tuned_with_other_random_numbers(folder, tmp_path):
    model = load_model(folder)
    task = load_task("text", model, length=10, num_samples=5, num_tuning_samples=5, scorer=str(folder / "scorer"))
    assert task.examples.shape == task.tuning_examples.shape == (5, 10)
    assert (torch.cat([task.examples, task.tuning_examples]) == model.config.mask_token_id).all()
    points = expand_grid([{"name": "random", "num_remask": [1, 2]}], ["random"], [1.0], [4])
    compare(model, task, points, tmp_path / "rows.jsonl", seed=3)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows] == ["tuning", "tuning", "reported"]
    assert rows[2]["seed"] == 3 and rows[0]["seed"] != 3
    tuned = [row for row in rows[:2] if row["setting"] == rows[2]["setting"]]
    assert set(tuned[0]["scores"]).isdisjoint(rows[2]["scores"])


def test_prompts_are_given_and_those_to_tune_on_follow(folder, tokenizer):
    (folder / "twice.txt").write_text("\n".join([*PROMPTS[:2], *PROMPTS]), encoding="utf-8")
    task = load_task(
        "text",
        load_model(folder),
        length=16,
        num_samples=4,
        num_tuning_samples=3,
        scorer=str(folder / "scorer"),
        prompts_file=str(folder / "twice.txt"),
    )
    for row, prompt in zip(torch.cat([task.examples, task.tuning_examples]).tolist(), PROMPTS, strict=True):
        ids = tokenizer(prompt).input_ids
        assert row == ids + [tokenizer.mask_token_id] * (16 - len(ids))


def test_scores_and_measures_are_those_of_the_texts_without_their_prompts(folder, tokenizer):
    task = load_task(
        "text",
        load_model(folder),
        length=16,
        num_samples=7,
        scorer=str(folder / "scorer"),
        scorer_batch_size=3,
        prompts_file=str(folder / "prompts.txt"),
    )
    generator = torch.Generator().manual_seed(0)
    masked = task.examples == tokenizer.mask_token_id
    drawn = torch.randint(6, 300, task.examples.shape, generator=generator)
    sequences = task.examples.where(~masked, drawn)
    scorer = GPT2LMHeadModel.from_pretrained(folder / "scorer").eval()
    totals, numbers, entropies = [], [], []
    for row, hidden, prompt in zip(sequences, masked, PROMPTS, strict=True):
        text = tokenizer.decode(row[hidden])
        total, number = negative_log_likelihood([text], scorer, tokenizer, prompts=[prompt])
        totals.append(total.item())
        numbers.append(number.item())
        entropies.append(torch.special.entr(torch.bincount(row[hidden]) / hidden.sum()).sum().item())
    scores, _, measures, *_ = task.judge(sequences, task.examples)
    expected = [-total / number for total, number in zip(totals, numbers, strict=True)]
    assert scores.tolist() == pytest.approx(expected, rel=1e-4)
    expected = {"generative perplexity": math.exp(sum(totals) / sum(numbers)), "entropy": sum(entropies) / 7}
    assert {name: measures[name] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_a_sample_without_tokens_is_scored_as_a_guess_and_weighs_nothing(folder, tokenizer):
    task = load_task("text", load_model(folder), length=8, num_samples=2, scorer=str(folder / "scorer"))
    sequences = torch.full((2, 8), tokenizer.eos_token_id)
    sequences[1, :3] = torch.tensor([70, 71, 72])
    scores, _, measures, *_ = task.judge(sequences, task.examples)
    assert scores[0].item() == pytest.approx(-math.log(300))
    assert measures["generative perplexity"] == pytest.approx(math.exp(-scores[1].item()))


def test_an_end_of_text_becomes_that_of_the_scorer(tokenizer):
    ids = [tokenizer.bos_token_id, *tokenizer("a b").input_ids, tokenizer.eos_token_id, *tokenizer("c").input_ids]
    assert decode_with_ends([*ids, tokenizer.eos_token_id], tokenizer, "</s>") == "a b</s>c</s>"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"length": 1}, "length=1 .* at least 2"),
        ({"num_samples": 0}, "num_samples=0 .* at least 1"),
        ({"length": 33}, "reads 32 tokens, fewer than length=33"),
        ({"length": 3, "prompts_file": "prompts.txt"}, "Prompt 1 has .* leaves none of length=3"),
        ({"num_samples": 8, "prompts_file": "prompts.txt"}, "7 different prompts, fewer .* = 8"),
        ({"prompts_file": "prompt.txt"}, "Did you mean .*prompts.txt"),
        ({"scorer": "scorer_bare"}, "scorer_bare has no tokenizer: name a scorer that has one"),
        ({"tokenizer": "model_bare"}, "model_bare has no tokenizer: set the task's tokenizer"),
        ({"tokenizer": "larger"}, "larger has 301 tokens, the model 300"),
        ({"tokenizer": "other"}, "The tokenizer has mask 299, the model 5"),
        ({"scorers": "scorer"}, "Did you mean 'scorer'"),
    ],
)
def test_what_cannot_be_scored_is_refused(folder, tokenizer, arguments, message):
    for name, mask in (("larger", None), ("other", 299)):
        other = train_byte_level_bpe(python_files(prism_hf.__path__[0] + "/diffusion", held_out=0)[0], 300)
        if mask is None:
            other.add_tokens(["neverseen"])
        else:
            other.mask_token = other.convert_ids_to_tokens(mask)
        other.save_pretrained(folder / name)
    paths = ("prompts_file", "scorer", "tokenizer")
    arguments = {name: str(folder / value) if name in paths else value for name, value in arguments.items()}
    defaults = {"length": 16, "num_samples": 4, "scorer": str(folder / "scorer")}
    with pytest.raises(ValueError, match=message):
        load_task("text", load_model(folder), **(defaults | arguments))


def test_another_scorer_is_not_taken_for_the_same(folder, tokenizer, tmp_path):
    model, points = load_model(folder), expand_grid([{"name": "none"}], ["random"], [1.0], [4])
    other = GPT2LMHeadModel.from_pretrained(folder / "scorer")
    other.transformer.wte.weight.data *= 1.1
    other.save_pretrained(tmp_path / "scorer")
    tokenizer.save_pretrained(tmp_path / "scorer")
    rows = []
    for place in (folder, tmp_path, folder):
        task = load_task("text", model, length=8, num_samples=3, scorer=str(place / "scorer"))
        rows += compare(model, task, points, tmp_path / "rows.jsonl")
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2
    assert torch.equal(rows[0]["scores"], rows[2]["scores"]) and not torch.equal(rows[0]["scores"], rows[1]["scores"])


def forwards_of(model):
    """A list that grows with the model's forwards."""
    seen = []
    model.register_forward_pre_hook(lambda *_: seen.append(1))
    return seen


def test_neither_half_is_done_twice(folder, tmp_path):
    """Killed amid the judging; asked with references, and for what was sampled by the version before."""
    model, points = load_model(folder), expand_grid([{"name": "none"}], ["random"], [1.0], [4])
    path, forwards = tmp_path / "rows.jsonl", forwards_of(model)
    settings = {"length": 8, "num_samples": 5, "scorer": str(folder / "scorer")}
    task = load_task("text", model, **settings)

    def interrupted(sequences, examples):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        compare(model, replace(task, judge=interrupted), points, path, batch_size=2)
    assert len(forwards) == 3 * 4 and not path.exists()
    (row,) = compare(model, task, points, path, batch_size=2)
    (tmp_path / "people.txt").write_text("x\ny\n")
    more = load_task("text", model, **settings, references_file=str(tmp_path / "people.txt"))
    (other,) = compare(model, replace(more, judge=task.judge), points, path, batch_size=2)
    assert len(forwards) == 3 * 4 and len(path.read_text().splitlines()) == 2
    assert other["samples"] == row["samples"] and torch.equal(other["scores"], row["scores"])
    # The version before named unfinished parts by the scorer too, and kept them beside the results.
    whole = compare(model, replace(task, writing=None), points, tmp_path / "before" / "rows.jsonl", batch_size=2)
    assert torch.equal(whole[0]["scores"], row["scores"]) and len(forwards) == 2 * 3 * 4
    before = tmp_path / "rest" / "rows.jsonl"
    with pytest.raises(InterruptedError):
        compare(model, replace(task, writing=None, judge=interrupted), points, before, batch_size=2)
    assert list(before.parent.glob("*.shard-*"))
    (rest,) = compare(model, task, points, before, batch_size=2)
    assert torch.equal(rest["scores"], row["scores"]) and len(forwards) == 3 * 3 * 4
    assert not list(before.parent.glob("*.shard-*"))


def test_a_model_may_have_a_mask_that_its_tokenizer_lacks(folder, tmp_path):
    """As MDLM's: GPT-2's vocabulary and one more, and no tokenizer beside the weights."""
    torch.manual_seed(0)
    config = MdlmConfig(
        vocab_size=257, hidden_dim=32, cond_dim=8, n_blocks=1, n_heads=2, model_length=16, initializer_range=0.3
    )
    backbone = MdlmForMaskedDiffusion(config)
    PrismForMaskedDiffusion(PrismConfig(backbone_config=config, head_type="dit"), backbone).save_pretrained(
        tmp_path / "mdlm"
    )
    letters = Tokenizer(models.BPE({letter: n for n, letter in enumerate(sorted(ByteLevel.alphabet()))}, []))
    letters.pre_tokenizer, letters.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=letters).save_pretrained(tmp_path / "letters")
    model = load_model(tmp_path, "mdlm")
    task = load_task(
        "text",
        model,
        length=16,
        num_samples=3,
        scorer=str(folder / "scorer"),
        tokenizer=str(tmp_path / "letters"),
        prompts_file=str(folder / "prompts.txt"),
    )
    assert (task.examples[:, -1] == 256).all()
    rows = compare(
        model, task, expand_grid([{"name": "prism", "num_remask": 1}], ["random"], [1.0], [4]), tmp_path / "r"
    )
    assert rows[0]["scores"].isfinite().all() and 0 < rows[0]["measures"]["entropy"] < math.log(16)


def test_nothing_stands_between_a_prompt_and_its_text_and_all_is_text(folder, tokenizer, text_model, tmp_path):
    """Of a tokenizer that ends each text, and of a model with eight tokens more than it."""
    model = text_model(308)
    closing = PreTrainedTokenizerFast.from_pretrained(folder / "model")
    closing.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "$A <e>", special_tokens=[("<e>", tokenizer.eos_token_id)]
    )
    model.save_pretrained(tmp_path)
    closing.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("y").input_ids[-1] == tokenizer.eos_token_id
    model = LladaForMaskedDiffusion.from_pretrained(tmp_path)
    task = load_task(
        "text", model, length=24, num_samples=7, scorer=str(folder / "scorer"), prompts_file=str(folder / "prompts.txt")
    )
    assert not (task.examples == tokenizer.eos_token_id).any() and task.never_drawn == list(range(300, 308))
    model.lm_head.weight.data[300:] = model.lm_head.weight.data[:300].abs().max() * 9 * torch.randn(8, 32).sign()
    seen = []

    def keep(sequences, _):
        seen.append(sequences)
        return torch.zeros(len(sequences))

    task = replace(task, judge=keep)
    compare(model, task, expand_grid([{"name": "none"}], ["random"], [1.0], [4]), tmp_path / "rows.jsonl")
    assert seen[0].max() < 300
    free = evaluate_settings(
        model, task.examples, [{"steps": 4}], tmp_path / "r", lambda s: {"most": s.max().item()}, {}
    )
    assert free[0]["most"] >= 300


def test_the_config_holds_settings_that_run(folder):
    config = yaml.safe_load((CONFIGS / "text_compare.yaml").read_text())
    points = expand_grid(config["strategies"], config["orders"], config["temperatures"], config["budgets"])
    check_settings(load_model(folder), [point.setting for point in points])
    rows = {point.row for point in points}
    assert len(points) == len(rows) == 6 * 4


def test_measures_are_columns_beside_the_score(folder, tmp_path):
    model = load_model(folder)
    task = load_task("text", model, length=8, num_samples=4, num_tuning_samples=2, scorer=str(folder / "scorer"))
    rows = compare(model, task, expand_grid(STRATEGIES, ["random"], [1.0], [4]), tmp_path / "rows.jsonl")
    lines = comparison_table(rows, task.measured).splitlines()
    heads = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    assert heads[6:10] == ["log-likelihood", "95% interval", "generative perplexity", "entropy"]
    assert heads[10:13] == ["distinct-2", "repetition", "seconds"]
    for row in rows:
        (line,) = (line for line in lines[4:6] if line.startswith(f"| {row['label']} "))
        shown = dict(zip(heads, (cell.strip() for cell in line.split("|")[1:-1]), strict=True))
        assert float(shown["log-likelihood"]) == pytest.approx(row["scores"].mean().item(), abs=1e-3)
        for head in ("generative perplexity", "entropy"):
            assert float(shown[head]) == pytest.approx(row["measures"][head], rel=1e-3)
    tried = rows[1]["candidates"][0]["measures"]
    assert f"(generative perplexity {tried['generative perplexity']:.4g}, entropy {tried['entropy']:.4g}, " in lines[-1]


def test_what_was_written_is_kept_and_compared_with_texts_of_people(folder, tmp_path):
    pytest.importorskip("mauve")
    references = tmp_path / "people.jsonl"
    references.write_text("".join(json.dumps({"text": prompt + " 1"}) + "\n" for prompt in PROMPTS * 3))
    more = {"references_file": str(references), "prompts_file": str(folder / "prompts.txt")}
    task = load_task("text", load_model(folder), length=16, num_samples=7, scorer=str(folder / "scorer"), **more)
    points = expand_grid([{"name": "none"}], ["random"], [1.0], [4])
    (row,) = compare(load_model(folder), task, points, tmp_path / "rows.jsonl")
    assert 0 < row["measures"]["MAUVE"] <= 1 and "| MAUVE |" in comparison_table([row], task.measured)
    kept = [json.loads(line) for line in (tmp_path / row["samples"]).read_text().splitlines()]
    assert [each["prompt"] for each in kept] == PROMPTS
    file = read_samples(tmp_path / row["samples"])
    assert (file.strategy, file.forward_passes, file.settings["steps"]) == ("none", 4, 4)
    (scores,) = score_samples([file], as_reader(str(folder / "scorer")), tmp_path / "scored.jsonl")
    torch.testing.assert_close(-scores.totals / scores.num_tokens, row["scores"], atol=1e-4, rtol=1e-4)
    assert scores.perplexity == pytest.approx(row["measures"]["generative perplexity"], rel=1e-4)
    assert scores.entropy.mean().item() == pytest.approx(row["measures"]["entropy"])
    assert scores.distinct[1] == row["measures"]["distinct-2"]
    assert scores.repetition.mean().item() == pytest.approx(row["measures"]["repetition"])
    references.write_text('{"txt": "x"}\n')
    with pytest.raises(ValueError, match="people.jsonl, line 1 must have a field 'text'"):
        load_task("text", load_model(folder), length=16, num_samples=7, scorer=str(folder / "scorer"), **more)


def test_without_its_package_mauve_is_left_out_and_that_is_said(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("prism_hf.evaluation.tasks.text.find_spec", lambda name: None)
    (tmp_path / "people.txt").write_text("x\ny\n")
    task = load_task(
        "text",
        load_model(folder),
        length=8,
        num_samples=2,
        scorer=str(folder / "scorer"),
        references_file=str(tmp_path / "people.txt"),
    )
    assert "MAUVE is left out" in task.origin
    measures = task.judge(task.examples.fill_(7), task.examples).measures
    assert set(measures) == {"generative perplexity", "entropy", "distinct-2", "repetition"}


def write_gguf(path, tokenizer, width=32, hidden=64):
    """A LLaMA of one layer and random weights, with the tokenizer; its embedding."""
    gguf = pytest.importorskip("gguf")
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer, generator = gguf.GGUFWriter(path, "llama"), torch.Generator().manual_seed(0)
    for name, value in {
        **{"context_length": 48, "embedding_length": width, "block_count": 1, "feed_forward_length": hidden},
        **{"head_count": 2, "head_count_kv": 2, "rope_dimension_count": width // 2, "vocab_size": len(words)},
        **{"layer_norm_rms_eps": 1e-5, "tokenizer_model": "gpt2", "token_list": words},
        **{"token_types": [1] * len(words), "token_merges": [" ".join(pair) for pair in model["merges"]]},
        **{"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id},
    }.items():
        getattr(writer, f"add_{name}")(value)
    square = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (width, width))
    layer = square | {"ffn_gate": (hidden, width), "ffn_up": (hidden, width), "ffn_down": (width, hidden)}
    layer |= dict.fromkeys(("attn_norm", "ffn_norm"), (width,))
    shapes = {f"blk.0.{name}": shape for name, shape in layer.items()}
    shapes |= dict.fromkeys(("token_embd", "output"), (len(words), width)) | {"output_norm": (width,)}
    weights = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name, weight in weights.items():
        writer.add_tensor(f"{name}.weight", weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights["token_embd"]


def test_a_gguf_file_scores_as_what_it_holds_does(tokenizer, tmp_path):
    embedding = write_gguf(tmp_path / "tiny.gguf", tokenizer)
    reader = as_reader(str(tmp_path), gguf_file="tiny.gguf", dtype=torch.float32)
    assert torch.equal(reader.scorer.get_input_embeddings().weight.cpu(), embedding)
    texts = ["def f(x): return x", "for row in rows"]
    assert reader.tokenizer(texts).input_ids == tokenizer(texts).input_ids
    plain = type(reader.scorer)(reader.scorer.config).to(reader.scorer.device).eval()
    plain.load_state_dict(reader.scorer.state_dict())
    totals, numbers = negative_log_likelihood(texts, *reader)
    expected, same = negative_log_likelihood(texts, plain, tokenizer)
    torch.testing.assert_close(totals, expected)
    assert numbers.tolist() == same.tolist() == [len(each) - 1 for each in tokenizer(texts).input_ids]
