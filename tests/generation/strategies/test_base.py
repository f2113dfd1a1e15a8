"""One strategy object a call, and what is taken for a strategy."""

import sys
import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import nn

from prism_hf.generation import (
    STRATEGIES,
    NoRemasking,
    PrismRemasking,
    RandomRemasking,
    RankingStrategy,
    RemaskGenerationConfig,
    RemaskStrategy,
    ScoreStrategy,
    TransitionStrategy,
    prepare_generation_config,
    register_strategy,
    remask_generate,
)
from prism_hf.generation.strategies import base

MASK = 0


class Even(nn.Module):
    """All tokens are equally likely, and the quality of a token is larger the further to the right it stands."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(mask_token_id=MASK)

    def forward(self, input_ids, attention_mask=None, return_quality=True):
        logits = torch.zeros(*input_ids.shape, 7)
        return SimpleNamespace(logits=logits, quality_logits=torch.arange(input_ids.shape[1]).expand_as(input_ids) / 10)


IDS = torch.full((2, 12), MASK)
KINDS = {"lowest": ScoreStrategy, "probability": TransitionStrategy, "ranking": RankingStrategy}


@pytest.fixture
def resolved(monkeypatch):
    """The arguments of every call of `resolve_strategy`."""
    calls, resolve = [], base.resolve_strategy

    def counted(value, **settings):
        calls.append((value, settings))
        return resolve(value, **settings)

    for module in [module for name, module in sys.modules.items() if name.startswith("prism_hf")]:
        if getattr(module, "resolve_strategy", None) is resolve:
            monkeypatch.setattr(module, "resolve_strategy", counted)
    return calls


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"wino", "token_critic"}))
def test_a_strategy_is_resolved_once_a_call(name, resolved):
    for settings in ({}, {"block_length": 4}):
        remask_generate(Even(), IDS, remask_strategy=name, **settings)
        assert [value for value, _ in resolved] == [name]
        resolved.clear()
    remask_generate(Even(), IDS, RemaskGenerationConfig(steps=3), remask_strategy="remdm_loop", t_on=0.5)
    assert resolved == [("remdm_loop", {"t_on": 0.5})]


def test_config_and_strategy_of_a_call():
    config, strategy = prepare_generation_config(Even(), None, remask_strategy="remdm_cap", eta=0.3)
    assert strategy == config.remask_strategy == STRATEGIES["remdm_cap"](0.3) and config.order == strategy.order
    for nothing in ({}, {"remask_strategy": None}, {"remask_strategy": "none"}, {"remask_strategy": NoRemasking()}):
        assert prepare_generation_config(Even(), None, **nothing)[1] == NoRemasking()


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_each_strategy_is_of_one_kind_and_tells_what_it_is(name):
    cls = STRATEGIES[name]
    assert sum(issubclass(cls, kind) for kind in KINDS.values()) == 1
    assert set(cls.needs) <= set(base.NEEDS) and str(cls()) == repr(name)
    for heading in ("Rule", "When", "Needs", "Relations", "Example", "Paper"):
        assert f"- **{heading}**: " in cls.__doc__
    assert f'remask_strategy="{name}"' in cls.__doc__


def left_half(state):
    return (torch.arange(12) >= 6).float().expand(state.canvas.shape)


def test_a_plain_callable_scores_tokens():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, strategy = prepare_generation_config(Even(), None, remask_strategy=left_half)
    assert isinstance(strategy, ScoreStrategy) and str(strategy) == "left_half" and not strategy.needs
    out = remask_generate(
        Even(), IDS, remask_strategy=left_half, num_remask=2, return_dict_in_generate=True, output_trajectory=True
    )
    assert out.trajectory.remasked[..., :6].any() and not out.trajectory.remasked[:7, :, 6:].any()


@pytest.mark.parametrize("selection", KINDS)
def test_a_strategy_without_a_base_class_is_taken_with_a_warning(selection):
    """As strategies were written before they had one."""

    @dataclass(frozen=True)
    class Old:
        share: float = 0.5
        selection: ClassVar[str] = "lowest"
        needs_quality: ClassVar[bool] = True

        def defaults(self, config):
            return {"steps": 5}

        def check_config(self, config):
            if config.steps == 7:
                raise ValueError("not in 7 steps")

        def __call__(self, state):
            return self.share * state.quality

    class New(Old, KINDS[selection]):
        needs = ("quality",)

    Old.selection = selection
    try:
        register_strategy("old")(Old)
        settings = {"return_dict_in_generate": True}
        for value in (Old(0.3), {"name": "old", "share": 0.3}):
            expected = remask_generate(Even(), IDS, remask_strategy=New(0.3), steps=5, **settings)
            with pytest.warns(FutureWarning, match=f"(?s)'old'.*selection.*{KINDS[selection].__name__}"):
                out = remask_generate(Even(), IDS, remask_strategy=value, **settings)
            if selection != "probability":  # which draws
                assert torch.equal(out.sequences, expected.sequences)
            assert out.num_forwards == 5
        with pytest.warns(FutureWarning):
            config, strategy = prepare_generation_config(Even(), None, remask_strategy="old", share=0.2)
        assert config.remask_strategy == Old(0.2) and strategy.refuses == KINDS[selection].refuses
        assert config.to_dict()["remask_strategy"] == {"name": "old", "share": 0.2}
        with pytest.raises(ValueError, match="not in 7 steps"), pytest.warns(FutureWarning):
            remask_generate(Even(), IDS, remask_strategy="old", steps=7)
        with pytest.raises(ValueError, match="'shar'.*'share'"):
            remask_generate(Even(), IDS, remask_strategy="old", shar=0.1)
    finally:
        STRATEGIES.pop("old", None)


def test_needs_of_a_function_are_read_with_a_warning():
    def mine(state):
        return state.quality

    mine.needs_quality = True
    settings = {"num_remask": 2, "steps": 9}
    expected = remask_generate(Even(), IDS, remask_strategy=PrismRemasking(), **settings)
    with pytest.warns(FutureWarning, match="mine.*needs_quality.*ScoreStrategy"):
        assert torch.equal(remask_generate(Even(), IDS, remask_strategy=mine, **settings), expected)


def test_thresholds_of_a_strategy_without_a_base_class_are_refused():
    class Old:
        verify_threshold = 0.9

        def __call__(self, state):
            return state.canvas.float()

    with pytest.raises(ValueError, match="Old has thresholds of its own"):
        remask_generate(Even(), IDS, remask_strategy=Old())


@pytest.mark.parametrize(
    "needs, message", [(("qualty",), "Unknown need of Wrong 'qualty'.*'quality'"), ("token_probs", "must be a tuple")]
)
def test_what_no_strategy_can_need_is_refused(needs, message):
    with pytest.raises(ValueError, match=message):
        type("Wrong", (ScoreStrategy,), {"needs": needs})


def test_a_strategy_of_no_kind():
    class Nothing(RemaskStrategy):
        pass

    with pytest.raises(NotImplementedError, match="Nothing is of no kind"):
        remask_generate(Even(), IDS, remask_strategy=Nothing())


@pytest.mark.parametrize("strategy", ["prism", PrismRemasking(), {"name": "prism"}, "none", None])
def test_what_draws_nothing_gives_one_sequence(strategy):
    with pytest.raises(ValueError, match="same sequence"):
        remask_generate(Even(), IDS, remask_strategy=strategy, num_return_sequences=2)
    assert len(remask_generate(Even(), IDS, remask_strategy=RandomRemasking(), num_return_sequences=2)) == 4


@pytest.mark.parametrize("old", ["selection", "needs_confidence"])
def test_a_class_of_a_kind_that_says_it_as_before_is_refused(old):
    with pytest.raises(TypeError, match=f"Mine.{old} is not read.*needs = .'quality'"):
        type("Mine", (PrismRemasking,), {old: True})
