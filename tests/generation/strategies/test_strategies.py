"""Strategies of a user's own, and which settings go with which kind of strategy."""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from prism_hf.generation import (
    STRATEGIES,
    RankingStrategy,
    RemaskGenerationConfig,
    RemdmCap,
    RemdmLoop,
    ScoreStrategy,
    TransitionStrategy,
    WinoRemasking,
    remask_generate,
)
from prism_hf.generation.configuration_remask import prepare_generation_config

MASK = 0
DOCS = Path(__file__).parents[3] / "docs" / "strategies.md"
RECORD = {"return_dict_in_generate": True, "output_trajectory": True}


class Hashed(nn.Module):
    """Logits and quality are fixed random functions of position and of a hash of the canvas."""

    def __init__(self, length=12, vocabulary=7):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.config, self.dtype = SimpleNamespace(mask_token_id=MASK, model_type="llada"), torch.float32
        self.logits = 2 * torch.randn(61, length, vocabulary, generator=generator)
        self.quality = torch.randn(61, length, generator=generator)
        self.calls = 0

    def forward(self, input_ids, attention_mask=None, return_quality=True, position_ids=None):
        self.calls += 1
        bucket = (input_ids * torch.arange(3, 3 + input_ids.shape[1])).sum(-1) % 61
        logits = self.logits[bucket]
        if position_ids is not None:
            logits = logits.gather(1, position_ids[..., None].expand(-1, -1, logits.shape[-1]))
        return SimpleNamespace(logits=logits, quality_logits=self.quality[bucket])


def canvases():
    ids = torch.randint(1, 7, (3, 12), generator=torch.Generator().manual_seed(1))
    ids[0, 4:] = ids[1, ::2] = ids[2] = MASK
    return ids


def settings_for(name):
    if name in ("random", "confidence", "prism", "prism_loop"):
        loop = {"loop_start": 3, "loop_steps": 2, "num_remask_loop": 1} if name == "prism_loop" else {}
        return {"remask_strategy": name, "num_remask": 1} | loop
    return {"remask_strategy": name} | ({"critic": Hashed()} if name == "token_critic" else {})


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@pytest.mark.parametrize("steps", [1, 5, 12, 30])
def test_givens_stay_and_no_mask_is_left(name, steps):
    ids = canvases()
    settings = settings_for(name)
    if "loop_start" in settings:
        settings["loop_start"] = min(steps, 3)
    for do_sample in (False, True):
        out = remask_generate(
            Hashed(),
            ids,
            steps=steps,
            do_sample=do_sample,
            generator=torch.Generator().manual_seed(0),
            **settings,
            **RECORD,
        )
        assert not (out.sequences == MASK).any()
        canvas, filled, remasked = out.trajectory.canvas, out.trajectory.filled, out.trajectory.remasked
        assert (canvas[:, ids != MASK] == ids[ids != MASK]).all()
        before = torch.cat([ids[None], canvas[:-1]])
        assert not ((canvas != before) & ~(filled | remasked)).any()
        if name != "prism_loop":
            assert not (filled & (before != MASK)).any() and not (remasked & (before == MASK)).any()


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"none"}))
@pytest.mark.parametrize(
    "settings", [{}, {"steps": 4}, {"steps": 30}, {"block_length": 4}, {"block_length": 5, "steps": 9}]
)
def test_every_strategy_fills_and_corrects_by_its_name_alone(name, settings):
    critic = {"critic": Hashed()} if name == "token_critic" else {}
    settings = settings | critic | {"remask_strategy": name, "generator": torch.Generator().manual_seed(0)}
    for arguments in ({"input_ids": canvases()}, {"input_ids": canvases()[:, :2], "max_new_tokens": 10}):
        out = remask_generate(Hashed(), **arguments, **settings, **RECORD)
        assert not (out.sequences == MASK).any()
        if name in (
            "random",
            "confidence",
            "prism",
            "prism_loop",
            "wino",
            "p2",
            "token_critic",
        ):  # the others do by chance
            assert out.trajectory.remasked.any()
    for masks in (1, 2, 3):
        ids = torch.full((1, 12), 5)
        ids[0, :masks] = MASK
        few = settings | {"steps": max(masks, settings.get("steps", 0))}
        assert not (remask_generate(Hashed(), ids, **few) == MASK).any()


def remasked_counts(**settings):
    out = remask_generate(Hashed(), torch.full((1, 12), MASK), **settings, **RECORD)
    return out.trajectory.remasked.sum(-1)[:, 0].tolist()


@pytest.mark.parametrize("name", ["prism", "random", "confidence"])
def test_default_numbers_of_remasked_tokens(name):
    """One fewer than a step fills, at least one, in the published window; 12 of 64 in a block, its middle steps."""
    settings = {"remask_strategy": name, "generator": torch.Generator().manual_seed(0)}
    assert remasked_counts(**settings) == [0, 0] + [1] * 9 + [0]
    assert remasked_counts(steps=3, **settings) == [0, 3, 0]
    assert remasked_counts(steps=4, **settings) == [0, 2, 2, 0]
    assert remasked_counts(block_length=12, **settings) == [0] * 4 + [1, 1, 1] + [0] * 5
    assert remasked_counts(block_length=6, **settings) == [0, 0, 1, 1, 0, 0] * 2
    # What a call, or the model, says wins.
    assert remasked_counts(num_remask=0, **settings) == [0] * 12
    model = Hashed()
    model.generation_config = RemaskGenerationConfig(num_remask=3)
    config, _ = prepare_generation_config(model, None, remask_strategy=name)
    assert (config.num_remask, config.eta) == (3, None)


def test_prism_verifies_what_a_threshold_fills():
    named, _ = prepare_generation_config(Hashed(), None, remask_strategy="prism", confidence_threshold=0.4)
    assert (named.quality_threshold, named.num_remask) == (0.5, None)
    for said in ({"num_remask": 2}, {"eta": 0.1}, {"quality_threshold": 0.3}):
        config, _ = prepare_generation_config(Hashed(), None, remask_strategy="prism", confidence_threshold=0.4, **said)
        assert config.quality_threshold == said.get("quality_threshold")
    out = remask_generate(
        Hashed(), torch.full((1, 12), MASK), remask_strategy="prism", confidence_threshold=0.4, **RECORD
    )
    remasked, quality = out.trajectory.remasked, out.trajectory.quality
    assert remasked.any() and (quality[remasked] < 0.5).all()


def test_default_loop():
    """After 7 of 8 steps, 4 steps that hold the count, each with 2 random tokens and one of lowest quality less."""
    settings = {"remask_strategy": "prism_loop", "generator": torch.Generator().manual_seed(0)}
    out = remask_generate(Hashed(), torch.full((1, 12), MASK), steps=8, **settings, **RECORD)
    held = (out.trajectory.canvas != MASK).sum(-1)[:, 0].tolist()
    assert held == [2, 3, 5, 6, 8, 9, 11, 11, 11, 11, 11, 12]
    assert out.trajectory.remasked.sum(-1)[7:11, 0].tolist() == [3] * 4
    for masks, forwards in ((1, 2), (2, 3), (12, 18)):
        ids = torch.full((1, 12), 5)
        ids[0, :masks] = MASK
        out = remask_generate(Hashed(), ids, **settings, **RECORD)
        assert out.num_forwards == forwards and not (out.sequences == MASK).any()


def test_each_block_has_a_loop_of_its_own():
    """Two blocks of six: six steps, before the last of them three that hold the count; one block has all six."""
    ids = torch.full((2, 12), 5)
    ids[0], ids[1, :6] = MASK, MASK
    settings = {"remask_strategy": "prism_loop", "block_length": 6, "steps": 12, "num_remask": 0}
    out = remask_generate(Hashed(), ids, generator=torch.Generator().manual_seed(0), **settings, **RECORD)
    held = ((out.trajectory.canvas != MASK) & (ids == MASK)).sum(-1)
    assert held[:, 0].tolist() == [1, 2, 3, 4, 5, 5, 5, 5, 6, 7, 8, 9, 10, 11, 11, 11, 11, 12]
    assert held[:, 1].tolist() == [1, 2, 3, 4, 5, 6, *[6] * 4, *[6] * 6, 6, 6]
    remasked = out.trajectory.remasked.sum(-1)
    assert remasked[:, 0].tolist() == [0] * 5 + [2] * 3 + [0] * 6 + [2] * 3 + [0]
    assert remasked[:, 1].tolist() == [0] * 10 + [2] * 6 + [0] * 2
    assert out.num_forwards == 18
    out = remask_generate(Hashed(), ids, **settings | {"num_remask": 1}, **RECORD)
    remasked = out.trajectory.remasked.sum(-1)
    # And one of low quality, unless the block is full, where nothing makes up for it.
    assert remasked[5:8, 0].tolist() == [3] * 3 and remasked[10:16, 1].tolist() == [2] * 6
    for masks, length, steps, loop_steps, num_remask_loop in itertools.product(
        (1, 5, 12), (1, 3, 5), (12, 25), (1, 9), (1, 7)
    ):
        ids = torch.full((2, 12), 5)
        ids[0, :masks] = ids[1, 0] = MASK
        loop = {"loop_steps": loop_steps, "num_remask_loop": num_remask_loop}
        out = remask_generate(Hashed(), ids, **settings | {"block_length": length, "steps": steps} | loop, **RECORD)
        assert out.num_forwards == steps + loop_steps and not (out.sequences == MASK).any()


def example():
    page = (DOCS.parent / "how_to" / "own_strategy.md").read_text()
    return next(block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "register" in block)


def test_the_example_of_the_docs():
    """It runs as it stands, in 20 lines or so, and remasks by the rule that it states."""
    assert len([line for line in example().splitlines() if line.strip()]) <= 20
    model, ids = Hashed(), canvases()
    try:
        names = {"model": model, "input_ids": ids}
        exec(example(), names)  # noqa: S102
        assert not (names["output"] == MASK).any()
        out = remask_generate(model, ids, remask_strategy="doubt", patience=0.0, num_remask=2, **RECORD)
        before = torch.cat([ids[None], out.trajectory.canvas[:-1]])
        assert out.trajectory.remasked.any()
        for canvas, remasked in zip(before, out.trajectory.remasked, strict=True):
            logits = model(canvas).logits
            logits[..., MASK] = -torch.inf
            own = logits.softmax(-1).gather(-1, canvas[..., None])[..., 0]
            generated = (canvas != MASK) & (ids == MASK)
            for row in range(len(ids)):
                expected = sorted(generated[row].nonzero().flatten().tolist(), key=lambda i: own[row, i].item())
                chosen = remasked[row].nonzero().flatten().tolist()
                assert set(chosen) == set(expected[: len(chosen)])
        saved = RemaskGenerationConfig(remask_strategy={"name": "doubt", "patience": 0.2}, num_remask=1)
        assert torch.equal(remask_generate(model, ids, saved, num_remask=2), names["output"])
    finally:
        STRATEGIES.pop("doubt", None)


def test_every_strategy_is_in_the_table_of_the_docs():
    assert set(re.findall(r"^\| `(\w+)` \|", DOCS.read_text(), re.M)) == set(STRATEGIES)


KINDS = [ScoreStrategy, TransitionStrategy, RankingStrategy]


def of_kind(kind, name, call):
    """A strategy of a kind that gives what `call` gives."""
    return type(name, (kind,), {"__call__": lambda self, state: call(state)})()


@pytest.mark.parametrize(
    "result, message",
    [
        (lambda state: state.canvas[:, 1:].float(), r"float tensor of shape \(3, 12\).*\(3, 11\)"),
        (lambda state: state.canvas, "float tensor.*int64"),
        (lambda state: state.canvas > 1, "float tensor.*bool"),
        (lambda state: torch.zeros(state.canvas.shape, device="meta"), "on cpu.*meta"),
        (lambda state: None, "float tensor.*None"),
        (lambda state: state.canvas.fill_(3).float(), "written into the state"),
        (lambda state: state.canvas[:, 0].add_(1)[:, None].expand(3, 12).float(), "written into the state"),
        (lambda state: state.generated.logical_not_().float(), "written into the state"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_misbehaving_strategy_is_stopped_by_name(result, message, kind):
    strategy = of_kind(kind, "misbehaving", result)
    count = {"num_remask": 1} if kind is ScoreStrategy else {}
    with pytest.raises(ValueError, match=f"(?s)misbehaving.*{message}"):
        remask_generate(Hashed(), canvases(), remask_strategy=strategy, **count)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [-torch.inf, torch.nan, 1e9, 1.0, 0.0])
def test_a_strategy_that_never_ends_is_ended(kind, value):
    """Whatever it wants, it gets the planned steps, and the last of them fills everything that is to be filled."""

    def call(state):
        return torch.full(state.canvas.shape, value).where(state.generated, torch.tensor(-value))

    for_ever = of_kind(kind, "for_ever", call)
    count = {"num_remask": 5} if kind is ScoreStrategy else {}
    ids, model = canvases(), Hashed()
    out = remask_generate(model, ids, steps=9, remask_strategy=for_ever, **count, **RECORD)
    assert out.num_forwards == model.calls == 9 and not (out.sequences == MASK).any()
    assert (out.sequences[ids != MASK] == ids[ids != MASK]).all()
    blocks = remask_generate(model, ids, steps=9, block_length=4, remask_strategy=for_ever, **count)
    assert not (blocks == MASK).any()


NAMES = {"probability": "remdm_cap", "ranking": "p2"}


@pytest.mark.parametrize("name", NAMES.values())
@pytest.mark.parametrize(
    "wrong",
    [
        {"num_remask": 2},
        {"quality_threshold": 0.5},
        {"confidence_threshold": 0.9, "order": None},
        {"loop_start": 1, "loop_steps": 2},
        {"order": "margin"},
    ],
)
def test_what_does_not_go_together_is_named_before_any_forward(name, wrong):
    model = Hashed()
    with pytest.raises(ValueError, match=rf"(?s){[*wrong][-1 if 'loop_steps' in wrong else 0]}=.*{name}.*leave"):
        remask_generate(model, canvases(), remask_strategy=name, **wrong)
    assert model.calls == 0


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"remask_strategy": "forward_backward", "eta": 0.1}, "eta=0.1.*forward_backward"),
        ({"remask_strategy": "token_critic", "critic": Hashed(), "eta": 0.1}, "eta=0.1.*token_critic"),
        ({"remask_strategy": "remdm_cap", "eta": 1.5}, "eta=1.5 of RemdmCap must be a number from 0 to 1"),
        ({"remask_strategy": "remdm_cap", "etta": 0.5}, "'etta'.*'eta'"),
        ({"remask_strategy": {"name": "remdm_cap", "gamma": 0.5}}, "no field 'gamma'.*eta"),
        ({"remask_strategy": "remdm_caps"}, "'remdm_cap'"),
        ({"remask_strategy": "remdm_loop", "t_on": 0.01}, "t_off <= t_on"),
        ({"remask_strategy": "dfm", "strength": -1.0}, "strength.*-1"),
        ({"remask_strategy": "p2", "eta": -1.0}, "eta"),
        ({"remask_strategy": "prism", "num_remask": 1, "t_on": 0.5}, "'t_on'"),
        ({"remask_strategy": "prism_loop", "loop_steps": 0}, "loop_steps"),
        ({"remask_strategy": "prism_loop", "num_remask_loop": 0}, "num_remask_loop"),
        ({"remask_strategy": "prism_loop", "confidence_threshold": 0.5}, "confidence_threshold=0.5 does not go"),
        ({"remask_strategy": "prism_loop", "loop_start": 13}, "loop_start=13"),
        ({"remask_strategy": "token_critic"}, "critic=model"),
        ({"remask_strategy": {}}, "remask_strategy={} has no name"),
        ({"remask_strategy": {"nmae": "prism"}}, "has no name"),
        ({"remask_strategy": WinoRemasking}, "or a callable; got .*WinoRemasking"),
        ({"t_on": 0.5}, "'t_on'"),
    ],
)
def test_mistakes_are_named_before_any_forward(wrong, message):
    model = Hashed()
    with pytest.raises(ValueError, match=f"(?s){message}"):
        remask_generate(model, canvases(), **wrong)
    assert model.calls == 0


def test_an_unknown_selection():
    @dataclass(frozen=True)
    class Odd:
        selection = "highest"

        def __call__(self, state):
            return state.canvas.float()

    with pytest.raises(ValueError, match="selection.*'highest'"):
        remask_generate(Hashed(), canvases(), remask_strategy=Odd())


def test_fields_beside_the_name():
    config, _ = prepare_generation_config(Hashed(), None, remask_strategy="remdm_loop", t_on=0.5, eta=0.1)
    assert config.remask_strategy == RemdmLoop(eta=0.1, t_on=0.5)


def test_a_call_sets_aside_what_a_model_has_for_another_kind():
    model = Hashed()
    model.generation_config = RemaskGenerationConfig(
        steps=7, order="margin", remask_strategy="prism", num_remask=2, quality_threshold=0.5
    )
    config, _ = prepare_generation_config(model, None, remask_strategy="remdm_cap")
    assert (config.steps, config.order, config.num_remask, config.quality_threshold) == (7, "random", None, None)
    back, _ = prepare_generation_config(model, RemaskGenerationConfig(remask_strategy="p2"), remask_strategy="none")
    assert (back.order, back.remask_strategy) == ("confidence", "none")
    model.generation_config = RemaskGenerationConfig(remask_strategy="remdm_cap", eta=0.3)
    config, _ = prepare_generation_config(model, None, remask_strategy="prism", num_remask=1)
    assert (config.order, config.eta, config.num_remask) == ("confidence", None, 1)


@pytest.mark.parametrize("value", [RemdmCap(0.2), {"name": "remdm_cap", "eta": 0.2}])
def test_saved_and_loaded(tmp_path, value):
    RemaskGenerationConfig(remask_strategy=value).save_pretrained(tmp_path)
    loaded = RemaskGenerationConfig.from_pretrained(tmp_path)
    assert loaded.remask_strategy == {"name": "remdm_cap", "eta": 0.2}
    assert prepare_generation_config(Hashed(), loaded)[0].remask_strategy == {"name": "remdm_cap", "eta": 0.2}
