"""Caches against attention written out position by position, with the keys and values that a cache would keep."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig, GenerationConfig, GenerationMixin

from prism_hf.generation import ScoreStrategy, as_custom_generate, remask_generate
from prism_hf.generation.denoising.caching import CanvasCache
from prism_hf.models.llada import LladaConfig, LladaForMaskedDiffusion
from prism_hf.models.mdlm import MdlmConfig, MdlmForMaskedDiffusion

MASK = 0
SMALL = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}

LLADA = {"d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "mlp_hidden_size": 48, "vocab_size": 40}
MDLM = {"vocab_size": 40, "hidden_dim": 32, "cond_dim": 16, "n_blocks": 2, "n_heads": 4}
DIT_HEAD = {"head_type": "dit", "head_num_blocks": 1}
BACKBONES = {
    "llada": lambda randomised: randomised(LladaForMaskedDiffusion(LladaConfig(**LLADA, mask_token_id=MASK))),
    "mdlm": lambda randomised: randomised(MdlmForMaskedDiffusion(MdlmConfig(**MDLM, mask_token_id=MASK))),
}
MODELS = {
    "llada": lambda prism: prism(LladaConfig(**LLADA)),
    "mdlm": lambda prism: prism(MdlmConfig(**MDLM), **DIT_HEAD),
}
PROMPTS = [[5, 6, MASK, 7, 8, 9, 10], [12, MASK, 13], [20, 21, 22, MASK, 23]]


def turn(states, position, theta):
    """Rotary position of one token's (heads, head_dim)."""
    half = states.shape[-1] // 2
    angles = position / theta ** (torch.arange(half) / half)
    first, second = states[:, :half], states[:, half:]
    return torch.cat([first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], -1)


def attend(query, kept):
    """One token's query (heads, head_dim) to all kept positions: (heads * head_dim)."""
    keys, values = (torch.stack([kept[position][part] for position in sorted(kept)]) for part in (0, 1))
    mixed = []
    for head, each in enumerate(query):
        group = head * keys.shape[1] // len(query)
        weights = (keys[:, group] @ each / math.sqrt(len(each))).softmax(-1)
        mixed.append(weights @ values[:, group])
    return torch.cat(mixed)


def llada_reference(model, tokens, kept):
    """Logits and qualities of `tokens` {position: token}; updates `kept`, {position: (key, value)} by layer."""
    body, config = model.backbone.model, model.backbone.config
    states = {position: body.embed_tokens.weight[token] for position, token in tokens.items()}
    for number, layer in enumerate(body.layers):
        queries, heads = {}, (-1, config.head_dim)
        for position, state in states.items():
            normed = layer.input_layernorm(state)
            query, key, value = (
                (getattr(layer.self_attn, name).weight @ normed).view(heads) for name in ("q_proj", "k_proj", "v_proj")
            )
            queries[position] = turn(query, position, config.rope_theta)
            kept.setdefault(number, {})[position] = turn(key, position, config.rope_theta), value
        for position, query in queries.items():
            state = states[position] + layer.self_attn.o_proj.weight @ attend(query, kept[number])
            states[position] = state + layer.mlp(layer.post_attention_layernorm(state))
    states = {position: body.norm(state) for position, state in states.items()}
    logits = {position: model.backbone.lm_head(state) for position, state in states.items()}
    return logits, {position: model.quality_head(state) for position, state in states.items()}


def mdlm_reference(model, tokens, kept):
    """The same for the diffusion transformer and a head with blocks of its own."""
    body, head = model.backbone.backbone, model.quality_head
    conditioning = F.silu(body.sigma_map(torch.zeros(1)))

    def output(layer, state):
        shift, scale = layer.adaLN_modulation(conditioning)[0].chunk(2)
        return layer.linear(layer.norm_final(state) * (1 + scale) + shift)

    states = {position: body.vocab_embed.embedding[token] for position, token in tokens.items()}
    for number, block in enumerate([*body.blocks, *head.blocks]):
        if number == len(body.blocks):
            logits = {position: output(body.output_layer, state) for position, state in states.items()}
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = block.adaLN_modulation(conditioning)[0].chunk(6)
        queries = {}
        for position, state in states.items():
            normed = block.norm1(state) * (1 + scale) + shift
            query, key, value = (block.attn_qkv.weight @ normed).view(3, block.config.n_heads, -1)
            queries[position] = turn(query, position, 10000.0)
            kept.setdefault(number, {})[position] = turn(key, position, 10000.0), value
        for position, query in queries.items():
            state = states[position] + gate * (block.attn_out.weight @ attend(query, kept[number]))
            states[position] = state + mlp_gate * block.mlp(block.norm2(state) * (1 + mlp_scale) + mlp_shift)
    return logits, {position: output(head.output_layer, state)[0] for position, state in states.items()}


REFERENCES = {"llada": llada_reference, "mdlm": mdlm_reference}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("lengths", [(9, 6), (9, 9)])
@torch.no_grad()
def test_a_forward_at_some_positions_attends_to_what_was_kept(prism, name, attention, lengths):
    model, generator = MODELS[name](prism), torch.Generator().manual_seed(0)
    model.set_attn_implementation(attention)
    attention_mask = None
    if min(lengths) < 9:
        attention_mask = torch.tensor([[1] * length + [0] * (9 - length) for length in lengths])
    cache, kept = CanvasCache(), [{}, {}]
    for positions in (None, [[2, 3, 7], [0, 4, 5]], [[8, 1], [1, 0]], None, [[6], [3]]):
        ids = torch.randint(40, (2, 9), generator=generator)  # what is not read may change too
        cache.positions = None if positions is None else torch.tensor(positions)
        read = ids if positions is None else ids.gather(1, cache.positions)
        out = model(input_ids=read, attention_mask=attention_mask, cache=cache)
        for row, length in enumerate(lengths):
            columns = list(range(length)) if positions is None else positions[row]
            logits, quality = REFERENCES[name](model, {column: ids[row, column] for column in columns}, kept[row])
            expected = torch.stack([logits[column] for column in columns])
            torch.testing.assert_close(out.logits[row, : len(columns)], expected, rtol=1e-3, atol=1e-4)
            expected = torch.stack([quality[column] for column in columns]).view(-1)
            torch.testing.assert_close(out.quality_logits[row, : len(columns)], expected, rtol=1e-3, atol=1e-4)


@pytest.fixture
def literal_row(shares, middle_shares):
    def of(model, reference, row, steps, block_length, n, cache, interval):
        """One row by Fast-dLLM's text, one token at a time."""
        to_fill, kept = [position for position, token in enumerate(row) if token == MASK], {}
        blocks = [to_fill[i : i + block_length] for i in range(0, len(to_fill), block_length)]
        for block, block_steps in zip(blocks, shares(steps, len(blocks)), strict=True):
            fills, remasks = shares(len(block), block_steps), middle_shares(n, block_steps)
            for step in range(block_steps):
                computed = range(len(row))
                if step % (interval or block_steps):
                    computed = block if cache == "dual" else range(block[0], len(row))
                logits, quality = reference(model, {position: row[position] for position in computed}, kept)
                masked = [position for position in block if row[position] == MASK]
                for position in masked:
                    logits[position][MASK] = -math.inf
                sure = {position: logits[position].softmax(-1).max().item() for position in masked}
                best = sorted(masked, key=lambda position: -sure[position])
                clean = [position for position in block if row[position] != MASK]
                worst = sorted(clean, key=lambda position: quality[position].item())
                last = step == block_steps - 1
                count = 0 if last or step == 0 else remasks[step]
                for position in best if last else best[: fills[step] + remasks[step]]:
                    row[position] = logits[position].argmax().item()
                for position in worst[:count]:
                    row[position] = MASK
        return row

    return of


@pytest.mark.parametrize("interval", [None, 3])
@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_ragged_rows_equal_to_the_literal_loop(prism, pad, literal_row, name, cache, interval):
    model = MODELS[name](prism)
    ids, attention_mask = pad(PROMPTS, "left")
    out = remask_generate(
        model,
        ids,
        attention_mask=attention_mask,
        max_new_tokens=8,
        block_length=4,
        steps=14,
        cache_implementation=cache,
        cache_refresh_interval=interval,
        remask_strategy="prism",
        num_remask=2,
    )
    for row, prompt in zip(out.tolist(), PROMPTS, strict=True):
        length = len(prompt) + 8
        expected = literal_row(model, REFERENCES[name], prompt + [MASK] * 8, 14, 4, 2, cache, interval)
        assert row[-length:] == expected


SETTINGS = {
    "plain": {},
    "random": {"order": "random", "do_sample": True, "temperature": 0.8},
    "remasked": {"remask_strategy": "random", "num_remask": 3},
    "guided": {"cfg_scale": 0.7},
    "threshold": {"confidence_threshold": 0.3},
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", BACKBONES)
def test_a_refresh_at_every_step_is_exact(randomised, pad, name, settings):
    model = BACKBONES[name](randomised)
    ids, attention_mask = pad(PROMPTS, "right")
    settings = {"max_new_tokens": 10, "block_length": 4, "steps": 12, **SETTINGS[settings]}

    def generate(**cached):
        generator = torch.Generator().manual_seed(0)
        return remask_generate(model, ids, attention_mask=attention_mask, generator=generator, **settings, **cached)

    for cache in ("prefix", "dual"):
        assert torch.equal(generate(cache_implementation=cache, cache_refresh_interval=1), generate())


class Widths(nn.Module):
    """A model that keeps how many positions it was given."""

    _supports_canvas_cache = _supports_logit_positions = True

    def __init__(self, model):
        super().__init__()
        self.model, self.config, self.widths = model, model.config, []

    def forward(self, input_ids, attention_mask=None, logits_to_keep=None, cache=None):
        self.widths.append(input_ids.shape[1])
        return self.model(
            input_ids=input_ids, attention_mask=attention_mask, logits_to_keep=logits_to_keep, cache=cache
        )


def test_no_more_is_computed_than_each_cache_needs(randomised, pad):
    ids, attention_mask = pad([[5, 6, 7], [8]], "left")
    settings = {"attention_mask": attention_mask, "max_new_tokens": 10, "block_length": 4, "steps": 9}
    for cache, interval, expected in (
        ("dual", None, [13, 4, 4, 13, 4, 4, 13, 2, 2]),
        ("dual", 2, [13, 4, 13, 13, 4, 13, 13, 2, 13]),
        # The second row's blocks begin at 1, 5 and 9.
        ("prefix", None, [13, 12, 12, 13, 8, 8, 13, 4, 4]),
    ):
        model = Widths(BACKBONES["llada"](randomised))
        remask_generate(model, ids, **settings, cache_implementation=cache, cache_refresh_interval=interval)
        assert model.widths == expected


def test_rows_with_different_numbers_of_masks_are_all_filled(prism):
    ids = torch.tensor([[5, MASK, 6, MASK, MASK, 7, MASK], [8] * 7, [MASK] * 7])
    for cache in ("prefix", "dual"):
        out = remask_generate(MODELS["llada"](prism), ids, block_length=2, steps=9, cache_implementation=cache)
        assert not (out == MASK).any() and torch.equal(out[ids != MASK], ids[ids != MASK])


def test_quality_is_known_where_it_was_computed(prism):
    out = remask_generate(
        MODELS["llada"](prism),
        torch.tensor([[5, 6, 7]]),
        max_new_tokens=4,
        block_length=4,
        cache_implementation="dual",
        remask_strategy="prism",
        num_remask=1,
        return_dict_in_generate=True,
        output_trajectory=True,
    )
    assert out.trajectory.quality.isnan()[:, 0].tolist() == [[False] * 7] + 3 * [[True] * 3 + [False] * 4]


class GenerativeLlada(GenerationMixin, LladaForMaskedDiffusion):
    generation_config_class = GenerationConfig


def test_custom_generate_of_a_class_with_transformers_generate(randomised):
    model = randomised(GenerativeLlada(LladaConfig(**LLADA, mask_token_id=MASK)))
    prompt = torch.tensor([[5, 6, 7]])
    settings = {"block_length": 4, "cache_implementation": "dual"}
    out = model.generate(prompt, custom_generate=as_custom_generate(**settings), max_new_tokens=8)
    assert torch.equal(out, remask_generate(model, prompt, max_new_tokens=8, **settings))


class ReadsProbs(ScoreStrategy):
    needs = ("probs",)

    def __call__(self, state):
        return state.probs.amax(-1)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"cache_implementation": "prefx", "block_length": 4}, "Did you mean 'prefix'"),
        ({"cache_implementation": "dual"}, "needs block_length"),
        ({"cache_refresh_interval": 2, "block_length": 4}, "nothing to refresh"),
        ({"cache_implementation": "dual", "block_length": 4, "cache_refresh_interval": 0}, "at least 1"),
        (
            {"cache_implementation": "dual", "block_length": 4, "remask_strategy": ReadsProbs(), "num_remask": 1},
            "posterior of all",
        ),
    ],
)
def test_impossible_combinations_are_named(randomised, wrong, message):
    with pytest.raises(ValueError, match=message):
        remask_generate(BACKBONES["llada"](randomised), torch.tensor([[5]]), max_new_tokens=8, **wrong)


def test_a_model_that_cannot_cache_is_named(prism):
    model = prism(BertConfig(**SMALL, max_position_embeddings=40))
    with pytest.raises(ValueError, match="PrismForMaskedDiffusion does not"):
        remask_generate(model, torch.tensor([[5]]), max_new_tokens=8, block_length=4, cache_implementation="dual")


def test_flash_attention_with_padding_is_refused(randomised, pad):
    model = BACKBONES["llada"](randomised)
    model.config._attn_implementation = "flash_attention_2"
    ids, attention_mask = pad([[5, 6], [7]], "left")
    with pytest.raises(ValueError, match="does not go with attn_implementation='flash_attention_2'"):
        remask_generate(
            model, ids, attention_mask=attention_mask, max_new_tokens=8, block_length=4, cache_implementation="dual"
        )
