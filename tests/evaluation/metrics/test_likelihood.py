"""The Monte-Carlo bounds, against a distribution that is known and against the published loop written out."""

import importlib.util
import math
import random
from pathlib import Path

import pytest
import torch

from prism_hf.evaluation import Continuation, log_likelihood_bound
from prism_hf.evaluation.metrics.likelihood import dream_masks, is_greedy, llada_masks

SCRIPT = Path(__file__).parents[3] / "scripts" / "toy_distribution.py"
spec = importlib.util.spec_from_file_location("toy_distribution", SCRIPT)
toy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)
MASK, WORDS = toy.MASK, toy.WORDS

VOCAB = 300


@pytest.fixture(scope="module")
def exact():
    joint = toy.joint_table()
    return joint, toy.ExactModel(joint)


def log_probability(joint, prefix, target):
    """log p(target | prefix), from the table."""
    words = WORDS.tolist()
    given = sum(joint[i] for i, word in enumerate(words) if word[: len(prefix)] == prefix)
    return math.log(joint[words.index(prefix + target)] / given)


@pytest.mark.parametrize("given", [0, 1, 2])
def test_for_a_joint_distribution_the_bound_is_the_likelihood(exact, given):
    joint, model = exact
    words = [WORDS[i].tolist() for i in (0, 17, 40, 80)]
    texts = [Continuation(word[:given], word[given:], seed) for seed, word in enumerate(words)]
    bounds = log_likelihood_bound(model, texts, MASK, mc_num=12_000, mc_batch_size=12_000, batch_size=3000)
    for text, bound in zip(texts, bounds, strict=True):
        assert bound == pytest.approx(log_probability(joint, text.prefix, text.target), abs=0.04)


def test_dreams_rule_scores_all_but_the_last_token(exact):
    joint, model = exact
    for word in ([0, 1, 2, 1], [2, 2, 0, 0]):
        # Given the first and, as the end of the text that it is, the last.
        words = WORDS.tolist()
        ends = sum(joint[i] for i, each in enumerate(words) if each[0] == word[0] and each[3] == word[3])
        expected = math.log(joint[words.index(word)] / ends)
        text = Continuation(word[:1], word[1:])
        (bound,) = log_likelihood_bound(model, [text], MASK, "dream", 12_000, 12_000, batch_size=3000)
        assert bound == pytest.approx(expected, abs=0.06)


def test_masks_are_those_of_the_published_rules():
    generator = torch.Generator().manual_seed(0)
    for length, rows in ((1, 1), (5, 8), (12, 4), (7, 1)):
        for _ in range(20):
            state = generator.get_state()
            k = torch.randint(1, length + 1, (), generator=generator).item()
            generator.set_state(state)
            masked, weights = llada_masks(length, rows, generator)
            counts = [(round(k + j * length / rows) - 1) % length + 1 for j in range(rows)]
            assert masked.sum(-1).tolist() == counts
            assert weights.tolist() == pytest.approx([length / count for count in counts])
    masked, weights = dream_masks(1000, 4, generator)
    assert not masked[:, -1].any()
    assert masked.double().mean(-1).tolist() == pytest.approx((1 / weights).tolist(), abs=0.06)
    shares = sorted((1 / weights - 1e-3) / (1 - 1e-3))
    assert [(b - a).item() for a, b in zip(shares, shares[1:], strict=False)] == pytest.approx([0.25] * 3)


def published(model, text, mc_num, mc_batch_size, scale=0.0):
    """LLaDA's loop, one copy and one token at a time, on the masks that the text's seed gives."""
    generator, length, total = torch.Generator().manual_seed(text.seed), len(text.target), 0.0
    for _ in range(mc_num // mc_batch_size):
        masked, _ = llada_masks(length, mc_batch_size, generator)
        losses = []
        for row in masked.tolist():
            noisy = [MASK_ID if hidden else token for token, hidden in zip(text.target, row, strict=True)]
            logits = model(torch.tensor([[*text.prefix, *noisy]])).logits[0].double()
            if scale:
                blind = model(torch.tensor([[*[MASK_ID] * len(text.prefix), *noisy]])).logits[0].double()
                logits = blind + (scale + 1) * (logits - blind)
            log_probs = logits.log_softmax(-1)
            loss = 0.0
            for i, (token, hidden) in enumerate(zip(text.target, row, strict=True)):
                loss -= log_probs[len(text.prefix) + i, token].item() * hidden
            losses.append(loss / (sum(row) / length))
        total += sum(losses) / mc_batch_size
    return -total / (mc_num // mc_batch_size)


MASK_ID = 3


@pytest.fixture(scope="module")
def texts():
    draw = random.Random(0)
    tokens = range(4, VOCAB)
    return [
        Continuation(draw.choices(tokens, k=draw.randint(1, 9)), draw.choices(tokens, k=draw.randint(1, 9)), seed)
        for seed in range(50)
    ]


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_fifty_texts_are_scored_as_by_the_published_loop(texts, text_model, monkeypatch, scale):
    model = text_model(VOCAB)
    model.config.mask_token_id = MASK_ID
    bounds = log_likelihood_bound(model, texts, MASK_ID, mc_num=8, mc_batch_size=4, batch_size=7, cfg_scale=scale)
    assert bounds == pytest.approx([published(model, text, 8, 4, scale) for text in texts], abs=1e-4)
    alone = [
        log_likelihood_bound(model, [text], MASK_ID, mc_num=8, mc_batch_size=4, batch_size=1, cfg_scale=scale)
        for text in texts[:9]
    ]
    assert bounds[:9] == pytest.approx([bound for (bound,) in alone], abs=1e-5)


def test_greedy_is_what_the_model_itself_writes(text_model):
    model = text_model(VOCAB)
    prompt = torch.tensor([[5, 6, 7]])
    model.config.mask_token_id = MASK_ID
    written = model.generate(prompt, max_new_tokens=6, eos_token_id=[], mask_token_id=MASK_ID)[0, 3:].tolist()
    assert is_greedy(model, Continuation([5, 6, 7], written), MASK_ID)
    for place in range(6):
        other = written[:place] + [written[place] % 200 + 20] + written[place + 1 :]
        assert not is_greedy(model, Continuation([5, 6, 7], other), MASK_ID)


def test_faults_are_told(text_model):
    model, text = text_model(VOCAB), Continuation([5], [6])
    for arguments, message in (
        ({"texts": [Continuation([5], [])]}, "no token to score"),
        ({"texts": [text], "mc_num": 10, "mc_batch_size": 4}, "mc_batch_size=4 must divide mc_num=10"),
        ({"texts": [text], "likelihood": "drem"}, "Did you mean 'dream'"),
    ):
        with pytest.raises(ValueError, match=message):
            log_likelihood_bound(model, mask_token_id=MASK_ID, **arguments)
