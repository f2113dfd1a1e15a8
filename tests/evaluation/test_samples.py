"""Files of samples: what they are called, what each scores, and that no half of the work is done twice."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from prism_hf import generate_to_jsonl
from prism_hf.evaluation import (
    as_reader,
    generative_perplexity,
    mauve,
    negative_log_likelihood,
    plot_samples,
    read_samples,
    samples_table,
    score_samples,
    unigram_entropy,
)
from prism_hf.evaluation.samples.files import in_style_of
from prism_hf.evaluation.samples.report import labels_of, lines_of


@pytest.fixture(scope="module")
def made(text_model, text_tokenizer, tmp_path_factory):
    """Files of samples of three strategies, each at two numbers of steps, and a scorer."""
    folder, paths = tmp_path_factory.mktemp("samples"), []
    rows = [{"prompt": ""}] * 6
    from_nothing = {"add_special_tokens": False, "eos_token_id": None, "max_new_tokens": 16, "do_sample": True}
    for strategy in ({"remask_strategy": "none"}, {"remask_strategy": "random", "num_remask": 2}):
        for steps in (4, 8):
            path = folder / f"{strategy['remask_strategy']}_{steps}.jsonl"
            generate_to_jsonl(text_model(), text_tokenizer, rows, path, steps=steps, **strategy, **from_nothing)
            paths.append(path)
    torch.manual_seed(1)
    shape = {"vocab_size": 300, "n_positions": 48, "n_embd": 32, "n_layer": 1, "n_head": 2, "initializer_range": 0.4}
    scorer = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=text_tokenizer.eos_token_id)).eval()
    return SimpleNamespace(paths=paths, reader=as_reader(scorer, text_tokenizer, 4), scorer=scorer)


@pytest.fixture
def forwards(made):
    """The forwards of the scorer, as they come."""
    seen = []
    hook = made.scorer.register_forward_pre_hook(lambda *_: seen.append(1))
    yield seen
    hook.remove()


def test_a_file_scores_what_its_texts_and_tokens_score(made, tmp_path):
    files = [read_samples(path) for path in made.paths]
    for file, scores in zip(files, score_samples(files, made.reader, tmp_path / "results.jsonl"), strict=True):
        totals, numbers = negative_log_likelihood(file.completions, *made.reader)
        torch.testing.assert_close(scores.totals, totals, atol=1e-4, rtol=1e-5)
        assert scores.perplexity == pytest.approx(generative_perplexity(totals, numbers))
        assert torch.equal(scores.entropy, unigram_entropy(torch.tensor(file.tokens)))
        assert len(scores.distinct) == 4 and scores.mauve == []


def test_a_scored_file_is_not_scored_again_whatever_it_is_called(made, forwards, tmp_path):
    path = tmp_path / "out" / "results.jsonl"
    files = [read_samples(each) for each in made.paths]
    score_samples(files[:2], made.reader, path)
    text, number = path.read_text(), len(forwards)
    (tmp_path / "renamed.jsonl").write_bytes(made.paths[0].read_bytes())
    again = score_samples([read_samples(tmp_path / "renamed.jsonl"), files[1]], made.reader, path)
    assert len(forwards) == number and path.read_text() == text and len(again) == 2
    score_samples(files[:3], made.reader, path)
    assert path.read_text().startswith(text) and len(forwards) == number + number // 2
    score_samples(files[:1], made.reader, path, max_length=5)  # is another score
    assert len(path.read_text().splitlines()) == 4


def test_mauve_is_that_of_its_seeds_and_reads_each_text_once(made, forwards, tmp_path):
    file, references = read_samples(made.paths[0]), read_samples(made.paths[1]).completions
    settings = {"references": references, "num_seeds": 3, "num_buckets": 2}
    (scores,) = score_samples([file], made.reader, tmp_path / "results.jsonl", **settings)
    assert len(forwards) == 2 + 2 + 2  # for the likelihood, and the states of both, in batches of four
    expected = [mauve(file.completions, references, *made.reader, seed=seed, num_buckets=2) for seed in range(3)]
    assert scores.mauve == pytest.approx(expected)
    number = len(forwards)
    score_samples([file], made.reader, tmp_path / "results.jsonl", **settings)
    assert len(forwards) == number
    shown = f"{sum(expected) / 3:.3f} [{min(expected):.3f}, {max(expected):.3f}]"
    assert shown in samples_table([scores])


def test_files_are_called_by_what_differs(made):
    files = [read_samples(path) for path in made.paths]
    assert labels_of(files) == ["none", "none", "random (num_remask=2)", "random (num_remask=2)"]
    assert lines_of(files) == ["none", "none", "random", "random"]
    hot = files[0].manifest | {"generation": files[0].manifest["generation"] | {"temperature": 1.5}, "seed": 7}
    other = type(files[0])("hot", [""], ["a"], None, hot)
    assert labels_of([files[0], other]) == ["none (seed=0)", "none (seed=7, temperature=1.5)"]
    assert lines_of([files[0], other]) == ["none (seed=0)", "none (seed=7, temperature=1.5)"]
    people = in_style_of(["a b"], made.reader.tokenizer)
    assert labels_of([files[0], people]) == ["none", "references"]


def test_the_table_sets_files_side_by_side_and_against_one(made, tmp_path):
    files = [read_samples(path) for path in made.paths]
    scores = score_samples(files, made.reader, tmp_path / "results.jsonl")
    rows = [[cell.strip() for cell in line.split("|")] for line in samples_table(scores, "none").splitlines()]
    head, body = rows[0], rows[2:]
    assert [row[head.index("forward passes")] for row in body] == ["4", "4", "8", "8"]
    by_name = {(row[1], row[2]): row for row in body}
    row = by_name["random (num_remask=2)", "8"]
    difference = math.log(scores[1].perplexity) - math.log(scores[3].perplexity)
    assert row[head.index("log-likelihood against none")].startswith(f"{difference:+.3f} [")
    difference = (scores[3].entropy.mean() - scores[1].entropy.mean()).item()
    assert row[head.index("entropy against none")].startswith(f"{difference:+.3f} [")
    assert by_name["none", "8"][head.index("entropy against none")] == ""
    with pytest.raises(ValueError, match="'prism' is neither"):
        samples_table(scores, "prism")
    plot_samples(tmp_path / "samples.png", scores, "none")
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_an_end_of_text_is_that_of_the_scorer_and_other_special_tokens_are_none(made, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"prompt": "<s>", "completion": "a</s>b", "tokens": [1, 2, 3]}) + "\n")
    told = {"tokenizer": {"eos_token": "</s>", "special_tokens": ["<s>", "</s>"]}}
    (tmp_path / "mine.jsonl.manifest.json").write_text(json.dumps(told))
    translated = read_samples(path).with_end_of_text("<|end|>")
    assert (translated.prompts, translated.completions) == ([""], ["a<|end|>b"])


def test_files_of_others_need_no_more_than_text(made, tmp_path):
    path = tmp_path / "theirs.jsonl"
    path.write_text('{"text": "for row in rows"}\n{"completion": ""}\n')
    (scores,) = score_samples([read_samples(path)], made.reader, tmp_path / "results.jsonl")
    assert scores.entropy is None and scores.num_tokens[1] == 0 and math.isfinite(scores.perplexity)
    table = samples_table([scores])
    assert "| theirs | 2 |" in table and "entropy" not in table
    for text, message in (('{"prompt": "a"}', "line 1: 'completion' must be text"), ("", "has no samples")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_samples(path)


def test_references_take_the_style_of_a_lower_case_tokenizer():
    words = {word: number for number, word in enumerate(["[UNK]", "the", "cat", "sat", "##s"])}
    backend = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    people = in_style_of(["The CATS  sat", "Cat"], tokenizer, length=3)
    assert people.completions == ["the cats", "cat"] and people.tokens == [[1, 2, 4], [2]]
