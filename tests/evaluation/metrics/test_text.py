"""Scores of text against a token at a time, closed forms, and the package that defines MAUVE."""

import math
import sys

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import prism_hf
from prism_hf.data import python_files, train_byte_level_bpe
from prism_hf.evaluation import (
    count_scored_tokens,
    distinct_n,
    generative_perplexity,
    mauve,
    negative_log_likelihood,
    repetition,
    unigram_entropy,
)

TEXTS = ["def f(x): return x", "import", "a", "", "for row in rows:\n    yield row, 1 + 2\n", "Zürich 漢字"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_bpe(python_files(prism_hf.__path__[0] + "/diffusion", held_out=0)[0], 300)


@pytest.fixture(scope="module")
def scorer(tokenizer):
    torch.manual_seed(0)
    shape = {"vocab_size": 300, "n_positions": 48, "n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.4}
    return GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=tokenizer.eos_token_id)).eval()


def one_by_one(scorer, context, ids):
    """The cross-entropy of each token of `ids`, given all that comes before it, read in a forward of its own."""
    losses = []
    for place, token in enumerate(ids):
        before = context + ids[:place]
        if before:
            with torch.no_grad():
                logits = scorer(torch.tensor([before])).logits[0, -1].double()
            losses.append((logits.logsumexp(-1) - logits[token]).item())
    return losses


def test_each_token_costs_what_it_costs_alone(scorer, tokenizer):
    totals, numbers = negative_log_likelihood(TEXTS, scorer, tokenizer, batch_size=4)
    assert totals.dtype == torch.float64 and numbers.dtype == torch.int64
    losses = [one_by_one(scorer, [], tokenizer(text).input_ids) for text in TEXTS]
    assert numbers.tolist() == [len(each) for each in losses] and numbers[2:4].tolist() == [0, 0]
    torch.testing.assert_close(totals, torch.tensor([sum(each) for each in losses]).double(), atol=1e-4, rtol=1e-5)
    assert torch.equal(count_scored_tokens(TEXTS, scorer, tokenizer), numbers)
    every = [loss for each in losses for loss in each]
    assert generative_perplexity(totals, numbers) == pytest.approx(math.exp(sum(every) / len(every)), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_neighbours_and_their_padding_change_nothing(scorer, tokenizer, batch_size):
    alone = negative_log_likelihood(TEXTS, scorer, tokenizer, batch_size=1)
    totals, numbers = negative_log_likelihood(TEXTS[::-1], scorer, tokenizer, batch_size=batch_size)
    torch.testing.assert_close(totals.flip(0), alone[0], atol=1e-4, rtol=1e-5)
    assert torch.equal(numbers.flip(0), alone[1])


def test_prompts_are_read_and_not_scored(scorer, tokenizer):
    prompts = ["def f(x", "", "import torch, ", "x", "y = 3\n", "z"]
    totals, numbers = negative_log_likelihood(TEXTS, scorer, tokenizer, prompts=prompts)
    for prompt, text, total, number in zip(prompts, TEXTS, totals.tolist(), numbers.tolist(), strict=True):
        losses = one_by_one(scorer, tokenizer(prompt).input_ids, tokenizer(text).input_ids)
        assert number == len(losses) == len(tokenizer(text).input_ids) - (prompt == "") * bool(text)
        assert total == pytest.approx(sum(losses), rel=1e-5, abs=1e-4)


def test_only_the_first_end_of_text_is_scored(scorer, tokenizer):
    end = tokenizer.eos_token
    text = f"a b{end}c{end}{end}"
    total, number = negative_log_likelihood([text], scorer, tokenizer)
    ids = tokenizer(text).input_ids
    losses, first = one_by_one(scorer, [], ids), ids.index(tokenizer.eos_token_id)
    kept = [loss for place, loss in enumerate(losses, start=1) if ids[place] != ids[first] or place == first]
    assert ids.count(ids[first]) == 3 and number.item() == len(kept) == len(losses) - 2
    assert total.item() == pytest.approx(sum(kept), rel=1e-5)


def test_a_text_is_cut_at_what_is_read(scorer, tokenizer):
    long = "x = y + " * 40
    ids = tokenizer(long).input_ids
    for max_length, read in ((None, 48), (10, 10)):
        total, number = negative_log_likelihood([long], scorer, tokenizer, max_length=max_length)
        assert number.item() == read - 1
        assert total.item() == pytest.approx(sum(one_by_one(scorer, [], ids[:read])), rel=1e-5)
    with pytest.raises(ValueError, match="max_length=49 is more than the 48 tokens"):
        negative_log_likelihood([long], scorer, tokenizer, max_length=49)
    with pytest.raises(ValueError, match="Prompt 2 has .* shorter prompts"):
        negative_log_likelihood(["a", "b"], scorer, tokenizer, prompts=["", long])


def test_entropy_has_its_closed_forms():
    ids = torch.tensor([[1, 2, 3, 4, 5, 6], [7, 7, 7, 7, 7, 7], [0, 0, 0, 9, 9, 4]])
    mixed = -(1 / 2 * math.log(1 / 2) + 1 / 3 * math.log(1 / 3) + 1 / 6 * math.log(1 / 6))
    expected = torch.tensor([math.log(6), 0, mixed]).double()
    torch.testing.assert_close(unigram_entropy(ids), expected, atol=1e-6, rtol=1e-6)
    counted = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0]]).bool()
    expected = torch.tensor([math.log(4), 0, math.log(2)]).double()
    torch.testing.assert_close(unigram_entropy(ids, counted), expected, atol=1e-6, rtol=1e-6)


def test_entropy_is_that_of_the_frequencies_of_draws():
    ids = torch.randint(50, (7, 200), generator=torch.Generator().manual_seed(0))
    for row, entropy in zip(ids, unigram_entropy(ids), strict=True):
        shares = torch.bincount(row).double() / len(row)
        assert entropy.item() == pytest.approx(torch.special.entr(shares).sum().item())


def test_mauve_without_its_package_says_what_to_install(scorer, tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "mauve", None)
    with pytest.raises(ImportError, match=r"pip install mauve-text, or prism_hf\[mauve\]"):
        mauve(TEXTS, TEXTS, scorer, tokenizer)


def test_mauve_tells_the_same_texts_from_others(scorer, tokenizer):
    package = pytest.importorskip("mauve")
    words = [f"x{number} = {number * 7 % 13}" for number in range(30)]
    others = [f"while True: pass  # {'z' * (number % 9)}!" for number in range(30)]
    settings = {"num_buckets": 4, "kmeans_num_redo": 1}
    same = mauve(words, words, scorer, tokenizer, **settings)
    different = mauve(others, words, scorer, tokenizer, **settings)
    assert same == pytest.approx(1, abs=1e-3) and different < 0.5
    states = [
        torch.stack(
            [
                scorer(torch.tensor([tokenizer(text).input_ids]), output_hidden_states=True).hidden_states[-1][0, -1]
                for text in texts
            ]
        )
        .detach()
        .numpy()
        for texts in (words, others)
    ]
    whole = package.compute_mauve(p_features=states[0], q_features=states[1], **settings)
    assert different == pytest.approx(whole.mauve, abs=1e-3)
    with pytest.raises(ValueError, match="no tokens"):
        mauve([""], words, scorer, tokenizer)


def test_ngrams_are_counted_as_by_hand():
    samples = [[1, 2, 1, 2, 1], [1, 2, 3], [7], []]
    # 12 21 12 21, 12 23: of six bigrams three differ; of four in the first sample two come again.
    assert distinct_n(samples, 2) == 3 / 6 and distinct_n(samples, 1) == 4 / 9
    assert repetition(samples, 2).tolist() == [0.5, 0, 0, 0]
    assert repetition(samples, 1).tolist() == [3 / 5, 0, 0, 0]
    assert math.isnan(distinct_n(samples, 6)) and repetition(samples).tolist() == [0, 0, 0, 0]
    row = torch.randint(3, (60,), generator=torch.Generator().manual_seed(0)).tolist()
    seen_before = [row[i : i + 4] in [row[j : j + 4] for j in range(i)] for i in range(57)]
    assert repetition([row]).item() == pytest.approx(sum(seen_before) / 57)
    with pytest.raises(ValueError, match="n=0"):
        distinct_n(samples, 0)
