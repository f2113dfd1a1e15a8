"""Strategies that rank a draft, by hand-worked examples and a literal loop, and the loop stage of PRISM."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from prism_hf.generation import PathPlanning, RemaskGenerationConfig, StepState, TokenCritic, remask_generate
from prism_hf.models.mdlm import MdlmConfig
from prism_hf.models.prism import PrismConfig, PrismForMaskedDiffusion

MASK = 3
RECORD = {"return_dict_in_generate": True, "output_trajectory": True}


class Table(nn.Module):
    """Posterior and quality of each position, given for each canvas by hand: {canvas: (tokens, probabilities)}."""

    def __init__(self, table):
        super().__init__()
        self.config = SimpleNamespace(mask_token_id=MASK)
        self.table, self.calls = table, 0

    def forward(self, input_ids, attention_mask=None):
        self.calls += 1
        logits = torch.zeros(*input_ids.shape, 4)
        for row, canvas in enumerate(input_ids.tolist()):
            for i, posterior in enumerate(self.table[tuple(canvas)]):
                logits[row, i] = torch.tensor([*posterior, 1.0]).log()
        return SimpleNamespace(logits=logits)


class Critic(nn.Module):
    """Scores of each position, given for each draft by hand."""

    def __init__(self, table):
        super().__init__()
        self.table, self.calls = table, 0

    def forward(self, input_ids, attention_mask=None):
        self.calls += 1
        return SimpleNamespace(quality_logits=torch.tensor([self.table[tuple(draft)] for draft in input_ids.tolist()]))


M = MASK
# Three masks in three steps. The tokens drawn are the likeliest of each posterior.
BY_HAND = {
    (M, M, M): [(0.6, 0.3, 0.1), (0.1, 0.7, 0.2), (0.3, 0.3, 0.4)],  # draft 0 1 2
    (M, 1, M): [(0.8, 0.1, 0.1), (0.5, 0.3, 0.2), (0.2, 0.2, 0.6)],  # draft 0 1 2, with 0.8, 0.3, 0.6
    (0, M, 2): [(0.5, 0.3, 0.2), (0.9, 0.05, 0.05), (0.1, 0.5, 0.4)],  # draft 0 0 2
    (0, 1, M): [(0.5, 0.3, 0.2), (0.4, 0.5, 0.1), (0.9, 0.05, 0.05)],  # draft 0 1 0
}


def test_p2_by_hand():
    """Step 1 keeps the 1 (0.7). Step 2 drops it again: its own probability is now 0.3, the drafts' 0.8 and 0.6."""
    out = remask_generate(Table(BY_HAND), torch.full((1, 3), M), remask_strategy="p2", **RECORD)
    assert out.trajectory.canvas[:, 0].tolist() == [[M, 1, M], [0, M, 2], [0, 0, 2]]
    assert out.trajectory.filled[:, 0].int().tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    assert out.trajectory.remasked[:, 0].int().tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert out.num_forwards == 3


@pytest.mark.parametrize("eta, keeps", [(0.0, True), (0.4, True), (0.5, False), (1.0, False), (3.0, False)])
def test_eta_of_p2_is_the_strength_of_remasking(eta, keeps):
    """0.3 ** eta against 0.8 and 0.6, of which two are kept: 0.3 ** 0.4 = 0.62, 0.3 ** 0.5 = 0.55."""
    out = remask_generate(Table(BY_HAND), torch.full((1, 3), M), remask_strategy="p2", eta=eta, **RECORD)
    assert (0.3**eta > 0.6) == keeps
    assert out.trajectory.canvas[1, 0].tolist() == ([0, 1, M] if keeps else [0, M, 2])


def test_token_critic_by_hand():
    """Of each draft the critic's best are kept: first position 2, then 0 and 1 although 2 was there."""
    model = Table(
        {
            (M, M, M): BY_HAND[M, M, M],  # draft 0 1 2
            (M, M, 2): [(0.6, 0.3, 0.1), (0.7, 0.1, 0.2), (1.0, 0.0, 0.0)],  # draft 0 0 2
            (0, 0, M): [(0.0, 1.0, 0.0), (0.0, 1.0, 0.0), (0.3, 0.6, 0.1)],  # draft 0 0 1
        }
    )
    critic = Critic({(0, 1, 2): [-1.0, 0.5, 3.0], (0, 0, 2): [0.1, 0.2, -4.0]})
    out = remask_generate(model, torch.full((1, 3), M), remask_strategy="token_critic", critic=critic, **RECORD)
    assert out.trajectory.canvas[:, 0].tolist() == [[M, M, 2], [0, 0, M], [0, 0, 1]]
    # No ranking at the last step, so no critic there: three forwards and two.
    assert (model.calls, critic.calls, out.num_forwards) == (3, 2, 5)
    assert out.tokens_per_forward.tolist() == pytest.approx([3 / 5])


def prism(**kwargs):
    torch.manual_seed(0)
    config = MdlmConfig(vocab_size=20, hidden_dim=16, cond_dim=8, n_blocks=1, n_heads=2)
    model = PrismForMaskedDiffusion(PrismConfig(backbone_config=config, mask_token_id=19, **kwargs)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


def literal(model, critic, ids, steps, eta):
    """One row: fill, score, keep the best, in plain loops. Without a critic, P2."""
    ids, mask = ids.clone(), 19
    free = [i for i in range(len(ids)) if ids[i] == mask]
    for step in range(steps):
        logits = model(ids[None]).logits[0].clone()
        logits[:, mask] = -torch.inf
        probs, draft = logits.softmax(-1), ids.clone()
        for i in free:
            if ids[i] == mask:
                draft[i] = logits[i].argmax()
        if critic is None:
            score = [math.log(probs[i, draft[i]]) * (eta if ids[i] != mask else 1) for i in free]
        else:
            score = [critic(draft[None]).quality_logits[0, i].item() for i in free]
        keep = math.ceil(len(free) * (step + 1) / steps)
        best = [i for _, i in sorted(zip(score, free, strict=True), key=lambda pair: -pair[0])[:keep]]
        ids = draft.clone()
        for i in free:
            if i not in best:
                ids[i] = mask
    return ids


@pytest.mark.parametrize("with_critic", [False, True])
def test_equal_to_the_literal_loop_with_prompts_and_infilling(with_critic):
    model, critic = prism(), prism(head_type="linear") if with_critic else None
    torch.manual_seed(1)
    ids = torch.randint(0, 19, (12, 14))
    for row, count in enumerate((5, 10, 14) * 4):
        ids[row, torch.randperm(14)[:count]] = 19
    settings = {"remask_strategy": "token_critic", "critic": critic} if with_critic else {"remask_strategy": "p2"}
    with torch.no_grad():
        expected = torch.stack([literal(model, critic, row, 5, 1.0) for row in ids])
    out = remask_generate(model, ids, steps=5, **settings, **RECORD)
    assert torch.equal(out.sequences, expected)
    assert out.trajectory.remasked.any() and (out.sequences[ids != 19] == ids[ids != 19]).all()
    assert torch.equal(out.sequences, model.generate(ids, steps=5, **settings))


@pytest.mark.parametrize("name", ["p2", "token_critic", "remdm_cap"])
def test_blocks_padding_and_caches(name):
    """A padded batch gives what each row gives alone, in blocks; with an exact cache too."""
    model = prism()
    settings = {"remask_strategy": name, "max_new_tokens": 12, "block_length": 4, "steps": 12}
    if name == "token_critic":
        settings["critic"] = prism(head_type="linear")
    if name == "remdm_cap":
        settings |= {"eta": 0.0, "steps": 3}  # a step a block, so that nothing is random
    prompts = torch.arange(10).view(2, 5)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    together = model.generate(prompts, attention_mask=mask, **settings)
    alone = [model.generate(prompts[:1, 2:], **settings), model.generate(prompts[1:], **settings)]
    assert torch.equal(together[0, 2:], alone[0][0]) and torch.equal(together[1], alone[1][0])
    for cache in ("prefix", "dual"):
        cached = settings | {"cache_implementation": cache}
        exact = model.generate(prompts, attention_mask=mask, cache_refresh_interval=1, **cached)
        assert torch.equal(exact, together)
        reused = model.generate(prompts, attention_mask=mask, **cached)
        assert not (reused == 19).any()


def test_forwards_of_rows_that_end_at_different_times():
    """Blocks of 4 in 12 steps: the row with one block asks its critic 11 times, that with three 3 times each."""
    ids = torch.arange(12).repeat(2, 1)
    ids[0, :4] = 19
    ids[1] = 19
    critic = prism(head_type="linear")
    out = remask_generate(
        prism(), ids, steps=12, block_length=4, remask_strategy="token_critic", critic=critic, **RECORD
    )
    assert out.num_forwards == 12 + 11
    # The first has 12 steps for 4 tokens; all are there from the tenth on: 9 drafts are ranked.
    assert out.tokens_per_forward.tolist() == pytest.approx([4 / (12 + 9), 12 / (12 + 9)])


def test_a_critic_is_neither_saved_nor_copied(tmp_path):
    critic = prism(head_type="linear")
    config = RemaskGenerationConfig(remask_strategy=TokenCritic(critic), steps=4)
    config.save_pretrained(tmp_path)
    assert RemaskGenerationConfig.from_pretrained(tmp_path).remask_strategy == "token_critic"
    model, ids = prism(), torch.full((1, 6), 19)
    expected = model.generate(ids, steps=4, remask_strategy="token_critic", critic=critic)
    assert torch.equal(model.generate(ids, config), expected)
    assert config.remask_strategy.critic is critic
    model.generation_config = config
    assert torch.equal(model.generate(ids), expected)
    model.save_pretrained(tmp_path / "model")


def test_a_missing_critic_is_named_before_any_forward():
    model = Table(BY_HAND)
    with pytest.raises(ValueError, match="critic=model"):
        remask_generate(model, torch.full((1, 3), M), remask_strategy="token_critic")
    with pytest.raises(ValueError, match="critic"):
        remask_generate(model, torch.full((1, 3), M), remask_strategy="p2", critic=model)
    assert model.calls == 0


def test_prism_loop_by_hand():
    """The loop before step 2: one random token goes, the one of lowest quality too, and both holes are filled."""

    class Prism(Table):
        def forward(self, input_ids, attention_mask=None, return_quality=True):
            logits = torch.tensor([0.5, 0.3, 0.2, 1.0]).log().expand(*input_ids.shape, 4)
            quality = torch.arange(input_ids.shape[1]).float().expand(input_ids.shape)  # the leftmost is the worst
            return SimpleNamespace(logits=logits, quality_logits=quality)

    settings = {"num_remask": 1, "steps": 6, "order": "left_to_right", **RECORD}
    loop = {"loop_start": 4, "loop_steps": 3, "num_remask_loop": 1}
    out = remask_generate(
        Prism({}),
        torch.full((1, 6), M),
        remask_strategy="prism_loop",
        **settings,
        **loop,
        generator=torch.Generator().manual_seed(0),
    )
    held = (out.trajectory.canvas != M).sum(-1)[:, 0].tolist()
    assert held == [1, 2, 3, 4, 4, 4, 4, 5, 6]
    assert out.trajectory.remasked.sum(-1)[4:7, 0].tolist() == [2, 2, 2]
    same = remask_generate(
        Prism({}),
        torch.full((1, 6), M),
        remask_strategy="prism",
        **settings,
        **loop,
        generator=torch.Generator().manual_seed(0),
    )
    assert torch.equal(out.trajectory.canvas, same.trajectory.canvas)
    with pytest.raises(ValueError, match="loop_steps"):
        remask_generate(
            Prism({}), torch.full((1, 6), M), remask_strategy="prism_loop", loop_start=4, loop_steps=0, **settings
        )


def test_outside_of_its_window_a_ranking_keeps_what_is_there():
    out = remask_generate(Table(BY_HAND), torch.full((1, 3), M), remask_strategy="p2", remask_start=0.9, **RECORD)
    assert out.trajectory.canvas[:, 0].tolist() == [[M, 1, M], [0, 1, M], [0, 1, 0]]


def test_p2_scores_only_where_it_has_a_probability():
    state = StepState(
        torch.tensor([[0, M, 1]]),
        torch.tensor([[True, False, False]]),
        None,
        None,
        0,
        1,
        token_probs=torch.tensor([[0.25, 0.5, 0.0]]),
    )
    score = PathPlanning(eta=2.0)(state)[0].tolist()
    assert score[:2] == pytest.approx([2 * math.log(0.25), math.log(0.5)]) and -90 < score[2] < -80
