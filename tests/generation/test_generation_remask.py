"""The arguments of `generate`: padding, lengths, guidance, constraints, endings, streamers, other people's models."""

import threading
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    MaxLengthCriteria,
    MaxTimeCriteria,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
    TextIteratorStreamer,
    TextStreamer,
)
from transformers.generation import BaseStreamer, SuppressTokensLogitsProcessor, TextDiffusionStreamer

from prism_hf.generation import RemaskGenerationConfig, as_custom_generate, remask_generate
from prism_hf.models.mdlm import MdlmConfig, MdlmForMaskedDiffusion

MASK, PAD, VOCAB = 0, 1, 7
SMALL = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SPECIAL = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}


MODELS = {
    "bert": lambda prism: prism(BertConfig(**SMALL, max_position_embeddings=40)),
    "modernbert": lambda prism: prism(ModernBertConfig(**SMALL, **SPECIAL)),
    "mdlm": lambda prism: prism(
        MdlmConfig(vocab_size=40, hidden_dim=32, cond_dim=16, n_blocks=2, n_heads=4), head_type="dit"
    ),
}


class Position(nn.Module):
    """Token t at the t-th position, whatever the canvas; `script` overrides what comes where."""

    def __init__(self, script, vocabulary=30):
        super().__init__()
        self.script, self.vocabulary, self.calls = script, vocabulary, 0
        self.config = SimpleNamespace(mask_token_id=MASK)

    def forward(self, input_ids, attention_mask=None):
        self.calls += 1
        rows = self.script if isinstance(self.script[0], list) else [self.script] * len(input_ids)
        script = torch.tensor(rows)[:, : input_ids.shape[1]]
        return SimpleNamespace(logits=nn.functional.one_hot(script, self.vocabulary) * 9.0)


# Padding


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 6},
        {"steps": 12, "block_length": 5, "remask_strategy": "prism", "num_remask": 2},
        {"steps": 9, "remask_strategy": "prism", "num_remask": 1, "cfg_scale": 0.7},
        {"steps": 12, "block_length": 4, "confidence_threshold": 0.3},
    ],
)
def test_rows_of_a_padded_batch_get_what_they_get_alone(prism, pad, name, side, settings):
    model = MODELS[name](prism)
    prompts = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [20, MASK, 21, 22, MASK]]
    settings = {"max_new_tokens": 12, **settings}
    ids, attention_mask = pad(prompts, side)
    together = model.generate(ids, attention_mask=attention_mask, **settings)
    assert together.shape == (3, 19)
    for row, prompt in zip(together, prompts, strict=True):
        alone = model.generate(torch.tensor([prompt]), **settings)[0]
        assert torch.equal(row[19 - len(alone) :], alone)
        assert (row[: 19 - len(alone)] == PAD).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_masks_in_place_stay_where_they_were(prism, pad, side):
    model, rows = MODELS["bert"](prism), [[5, MASK, 7, MASK], [MASK, 8]]
    ids, attention_mask = pad(rows, side)
    out = model.generate(ids, attention_mask=attention_mask, steps=2)
    real = attention_mask.bool()
    assert (out[~real] == PAD).all()
    for row, keep, alone in zip(out, real, rows, strict=True):
        assert torch.equal(row[keep], model.generate(torch.tensor([alone]), steps=2)[0])


def test_trajectory_is_laid_out_as_the_sequences(prism, pad):
    model = MODELS["mdlm"](prism)
    ids, attention_mask = pad([[5, 6, 7], [8]], "right")
    out = model.generate(
        ids,
        attention_mask=attention_mask,
        max_new_tokens=4,
        remask_strategy="prism",
        num_remask=1,
        return_dict_in_generate=True,
        output_trajectory=True,
    )
    assert torch.equal(out.trajectory.canvas[-1], out.sequences)
    assert not out.trajectory.filled[:, :, :3].any()
    assert out.trajectory.filled[:, :, 3:].any(0).all()
    assert out.sequences[1, :3].tolist() == [PAD, PAD, 8]
    assert out.trajectory.quality.shape == out.trajectory.canvas.shape


# Lengths and repetition


def test_max_length_counts_the_prompt_and_gives_way_to_max_new_tokens(table_model):
    model, prompt = table_model(12), torch.tensor([[3, 4, 5]])
    assert remask_generate(model, prompt, max_length=9).shape == (1, 9)
    assert remask_generate(model, prompt, max_length=9, max_new_tokens=2).shape == (1, 5)
    model.generation_config = RemaskGenerationConfig(max_new_tokens=4)
    assert remask_generate(model, prompt).shape == (1, 7)
    assert remask_generate(model, prompt, max_length=9).shape == (1, 9)
    assert remask_generate(model, prompt, GenerationConfig(max_length=8)).shape == (1, 8)


def test_return_sequences_are_neighbours_and_differ(prism):
    model, prompt = MODELS["mdlm"](prism), torch.tensor([[5, 6], [7, 8]])
    settings = {"max_new_tokens": 8, "do_sample": True}
    out = model.generate(prompt, num_return_sequences=3, generator=torch.Generator().manual_seed(0), **settings)
    assert out.shape == (6, 10)
    assert torch.equal(out[:, :2], prompt.repeat_interleave(3, dim=0))
    assert len({tuple(row.tolist()) for row in out}) == 6


# Distribution of tokens


def test_top_k_draws_from_the_k_likeliest():
    logits = torch.tensor([9.0, 2.0, 1.5, 1.0, 0.0, -1.0, -2.0])

    class Constant(nn.Module):
        config = SimpleNamespace(mask_token_id=MASK)

        def forward(self, input_ids, attention_mask=None):
            return SimpleNamespace(logits=logits.expand(*input_ids.shape, VOCAB))

    out = remask_generate(
        Constant(),
        torch.zeros(400, 50, dtype=torch.long),
        steps=2,
        do_sample=True,
        top_k=3,
        temperature=0.8,
        generator=torch.Generator().manual_seed(0),
    )
    expected = torch.zeros(VOCAB)
    expected[1:4] = (logits[1:4] / 0.8).softmax(-1)
    share = torch.bincount(out.flatten(), minlength=VOCAB) / out.numel()
    assert (share[expected == 0] == 0).all() and (share - expected).abs().max() < 0.02


def test_guidance_is_that_of_llada(prism):
    """One step fills everything, so the tokens are the argmax of un + (w + 1) (cond - un) in closed form."""
    model = MODELS["mdlm"](prism)
    prompt = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    canvas = torch.cat([prompt, torch.full((2, 6), MASK)], dim=1)
    with torch.no_grad():
        cond, un = (model(ids).logits for ids in (canvas, torch.full_like(canvas, MASK)))
    for scale in (0.0, 0.5, 3.0):
        guided = un + (scale + 1) * (cond - un)
        guided[..., MASK] = -torch.inf
        out = model.generate(prompt, max_new_tokens=6, steps=1, cfg_scale=scale, return_dict_in_generate=True)
        assert torch.equal(out.sequences[:, 4:], guided.argmax(-1)[:, 4:]) and out.num_forwards == 1
    assert not torch.equal(cond.argmax(-1)[:, 4:], guided.argmax(-1)[:, 4:])


# Constraints


def test_suppressed_tokens_never_appear_and_do_not_count_for_confidence(table_model):
    model, ids = table_model(12), torch.zeros(3, 12, dtype=torch.long)
    free = remask_generate(model, ids)
    banned = free.unique().tolist()[:3]
    out = remask_generate(model, ids, suppress_tokens=banned, return_dict_in_generate=True, output_trajectory=True)
    assert not torch.isin(out.sequences, torch.tensor(banned)).any()
    assert torch.equal(out.sequences, remask_generate(model, ids, bad_words_ids=[[token] for token in banned]))
    logits = model(ids).logits
    logits[..., [MASK, *banned]] = -torch.inf
    first = logits.softmax(-1).amax(-1).argmax(-1)
    assert torch.equal(out.trajectory.filled[0].int().argmax(-1), first)


@pytest.mark.parametrize("order", ["random", "confidence", "left_to_right"])
@pytest.mark.parametrize("steps", [1, 4, 14, 20])
@pytest.mark.parametrize("settings", [{}, {"remask_strategy": "prism", "num_remask": 2}, {"block_length": 5}])
def test_bad_words_never_arise_in_any_order(table_model, order, steps, settings):
    if settings.get("block_length") and steps < 3:
        return
    words = [[1, 2], [3, 3], [4, 5, 6], [6, 1, 1]]
    out = remask_generate(
        table_model(14),
        torch.zeros(40, 14, dtype=torch.long),
        order=order,
        steps=steps,
        do_sample=True,
        bad_words_ids=words,
        generator=torch.Generator().manual_seed(0),
        **settings,
    )
    assert not (out == MASK).any()
    for word in words:
        windows = out.unfold(1, len(word), 1)
        assert not (windows == torch.tensor(word)).all(-1).any()


def test_bad_words_leave_everything_else_alone():
    """Filled one at a time, only the token that would complete the word is passed over."""
    model = Position([0, 5, 6, 7])
    out = remask_generate(model, torch.tensor([[4, MASK, MASK, MASK]]), order="left_to_right", bad_words_ids=[[5, 6]])
    assert out[0, :2].tolist() == [4, 5] and out[0, 2] != 6 and out[0, 3] == 7
    out = remask_generate(model, torch.tensor([[4, MASK, 6, MASK]]), bad_words_ids=[[5, 6], [4, 9]])
    assert out[0, 1] not in (5, 9) and out[0, 2:].tolist() == [6, 7]


class Recorder(LogitsProcessor):
    def __init__(self, forced=None):
        self.forced, self.seen = forced, []

    def __call__(self, input_ids, scores):
        self.seen.append((input_ids.clone(), scores.shape))
        return scores if self.forced is None else scores.index_fill(-1, torch.tensor([self.forced]), 99.0)


def test_logits_processors_see_what_is_left_of_the_positions_they_decide():
    model, recorder = Position(list(range(10, 16))), Recorder()
    remask_generate(
        model,
        torch.tensor([[7, MASK, 8, MASK, MASK, MASK]]),
        order="left_to_right",
        steps=2,
        logits_processor=[recorder],
    )
    first, second = recorder.seen
    assert first[0].tolist() == [[0, 0, 0, 0, 0, 7], [0, 0, 0, 7, MASK, 8]] and first[1] == (2, 30)
    assert second[0].tolist() == [[0, 0, 7, 11, 8, 13], [0, 7, 11, 8, 13, MASK]]


def test_logits_processors_decide(table_model):
    ids = torch.zeros(2, 6, dtype=torch.long)
    assert (remask_generate(table_model(6), ids, logits_processor=[Recorder(forced=5)]) == 5).all()
    # Not even a processor brings the mask back.
    assert not (remask_generate(table_model(6), ids, logits_processor=[Recorder(forced=MASK)]) == MASK).any()

    class Countdown(LogitsProcessor):
        steps = []

        def __call__(self, input_ids, scores, cur_step):
            self.steps.append(cur_step)
            return scores

    remask_generate(table_model(6), ids, steps=3, logits_processor=[Countdown()])
    assert Countdown.steps == [3, 2, 1]


# Endings

EOS = 9


def test_rows_end_at_the_end_of_sequence_and_later_blocks_are_not_computed():
    script = [[0, 0, 4, 5, EOS, 6, 7, 8, 4, 5], [0, 0, 4, 5, 6, 7, EOS, 8, 4, EOS]]
    model, prompt = Position(script), torch.tensor([[2, 3], [2, EOS]])
    out = remask_generate(
        model,
        prompt,
        max_new_tokens=8,
        block_length=2,
        steps=8,
        eos_token_id=[EOS, 25],
        pad_token_id=PAD,
        return_dict_in_generate=True,
        output_trajectory=True,
    )
    assert out.sequences.tolist() == [
        [2, 3, 4, 5, EOS, PAD, PAD, PAD, PAD, PAD],
        [2, EOS, 4, 5, 6, 7, EOS, PAD, PAD, PAD],
    ]
    assert out.num_forwards == model.calls == 6 and len(out.trajectory.canvas) == 6
    # The first row was finished after two blocks of two steps, with three tokens.
    assert out.tokens_per_forward.tolist() == [3 / 4, pytest.approx(5 / 6)]
    # Padding defaults to the end token, where the model has none for padding.
    alone = remask_generate(
        Position(script[0]), prompt[:1], max_new_tokens=8, block_length=2, steps=8, eos_token_id=EOS
    )
    assert alone[0].tolist() == [2, 3, 4, 5, EOS, EOS, EOS, EOS, EOS, EOS]


def test_the_static_sampler_cuts_after_the_end():
    model = Position([0, 4, 5, EOS, 6, 7])
    out = remask_generate(model, torch.tensor([[2]]), max_new_tokens=5, eos_token_id=EOS, pad_token_id=PAD)
    assert out[0].tolist() == [2, 4, 5, EOS, PAD, PAD] and model.calls == 5


def test_masks_in_place_may_hold_an_end_of_sequence():
    model = Position([4, EOS, 5, 6])
    out = remask_generate(model, torch.full((1, 4), MASK), eos_token_id=EOS, pad_token_id=PAD)
    assert out[0].tolist() == [4, EOS, 5, 6]


class Holds(StoppingCriteria):
    """Holds after a given number of tokens that are not padding."""

    def __init__(self, tokens):
        self.tokens = tokens

    def __call__(self, input_ids, scores, **kwargs):
        return ((input_ids != PAD).sum(-1) == torch.tensor(self.tokens)) & (scores is None)


def test_stopping_criteria_end_rows_token_by_token(pad):
    ids, attention_mask = pad([[2, 3, 4], [5]], "left")
    model = Position(list(range(10, 21)))
    settings = {
        "max_new_tokens": 8,
        "block_length": 4,
        "steps": 8,
        "pad_token_id": PAD,
        "attention_mask": attention_mask,
    }
    out = remask_generate(model, ids, stopping_criteria=[Holds([5, 4])], **settings)
    assert model.calls == 4
    assert out.tolist() == [
        [2, 3, 4, 13, 14, PAD, PAD, PAD, PAD, PAD, PAD],
        [PAD, PAD, 5, 11, 12, 13, PAD, PAD, PAD, PAD, PAD],
    ]
    model.calls = 0
    out = remask_generate(model, ids, stopping_criteria=StoppingCriteriaList([MaxLengthCriteria(9)]), **settings)
    assert model.calls == 8 and (out[:, 9:] == PAD).all() and not (out[:, 3:9] == PAD).any()


def test_time_running_out_keeps_the_block():
    model = Position(list(range(10, 21)))
    out = remask_generate(
        model,
        torch.tensor([[2, 3]]),
        max_new_tokens=8,
        block_length=4,
        steps=8,
        pad_token_id=PAD,
        stopping_criteria=[MaxTimeCriteria(0.0)],
    )
    assert model.calls == 4
    assert out[0].tolist() == [2, 3, 12, 13, 14, 15, PAD, PAD, PAD, PAD]


def test_an_ended_row_leaves_the_others_as_they_are(prism):
    model = MODELS["mdlm"](prism)
    prompts = torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 13]])
    settings = {"max_new_tokens": 12, "block_length": 3, "steps": 12, "remask_strategy": "prism", "num_remask": 1}
    free = model.generate(prompts, **settings)
    eos = free[0, 5].item()
    out = model.generate(prompts, eos_token_id=eos, pad_token_id=PAD, **settings)
    for row, expected in zip(out, free, strict=True):
        new = expected[3:].tolist()
        end = new.index(eos) + 1 if eos in new else len(new)
        assert row[3:].tolist() == new[:end] + [PAD] * (len(new) - end)


# Streamers


@pytest.fixture(scope="module")
def tokenizer():
    words = ["[MASK]", "[PAD]"] + [f"w{i}" for i in range(2, 30)]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[PAD]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", pad_token="[PAD]")


STREAMED = {"max_new_tokens": 4, "block_length": 2, "steps": 4, "order": "left_to_right"}


class Log(BaseStreamer):
    def __init__(self):
        self.log = []

    def put(self, value):
        self.log.append(("put", value.tolist()))

    def put_draft(self, value):
        self.log.append(("draft", value.tolist()))

    def end(self):
        self.log.append("end")


def test_streamers_get_prompt_drafts_and_blocks():
    log = Log()
    remask_generate(Position(list(range(10, 16))), torch.tensor([[7, 8]]), streamer=log, **STREAMED)
    assert log.log == [
        ("put", [[7, 8]]),
        ("draft", [[12, MASK]]),
        ("put", [[12, 13]]),
        ("draft", [[14, MASK]]),
        ("put", [[14, 15]]),
        "end",
    ]
    log = Log()
    remask_generate(Position(list(range(10, 16))), torch.tensor([[7, MASK, 8, MASK, 9]]), streamer=log)
    assert log.log == [("put", [[7]]), ("draft", [[11, 8, MASK, 9]]), ("put", [[11, 8, 13, 9]]), "end"]


def test_a_streamer_gets_nothing_after_the_end(pad):
    script = [0, 0, 4, EOS, 6, 7, 8, 9]
    for settings in ({"block_length": 3, "steps": 6}, {}):
        log = Log()
        remask_generate(
            Position(script), torch.tensor([[7, 8]]), streamer=log, max_new_tokens=6, eos_token_id=[EOS, 20], **settings
        )
        confirmed = [token for entry in log.log if entry[0] == "put" for token in entry[1][0]]
        assert confirmed == [7, 8, 4, EOS]
    log, (ids, mask) = Log(), pad([[5, 7, 8], [6]], "left")
    rows = [[0, 0, 0, 4, EOS, 6, 7], [0, 4, 5, EOS, 6, 7, 8]]
    remask_generate(
        Position(rows), ids, attention_mask=mask, streamer=log, max_new_tokens=4, eos_token_id=EOS, pad_token_id=PAD
    )
    assert [entry[1] for entry in log.log if entry[0] == "put"][-1] == [[4, EOS, PAD], [4, 5, EOS]]


def test_text_streamers(tokenizer, capsys):
    model, prompt = Position(list(range(10, 16))), torch.tensor([[7, 8]])
    remask_generate(model, prompt, streamer=TextStreamer(tokenizer), **STREAMED)
    assert capsys.readouterr().out.split() == ["w7", "w8", "w12", "w13", "w14", "w15"]

    remask_generate(model, prompt, streamer=TextDiffusionStreamer(tokenizer, skip_prompt=True), **STREAMED)
    shown = capsys.readouterr().out
    assert shown.count("\033[33m") == 2 and "\033[33mw14 [MASK]\033[0m" in shown and "w7" not in shown

    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=30)
    thread = threading.Thread(target=remask_generate, args=(model, prompt), kwargs={"streamer": streamer, **STREAMED})
    thread.start()
    assert "".join(streamer).split() == ["w12", "w13", "w14", "w15"]
    thread.join()

    model.calls = 0
    with pytest.raises(ValueError, match="batch size 1"):
        remask_generate(model, prompt.repeat(2, 1), streamer=TextStreamer(tokenizer), **STREAMED)
    assert model.calls == 0


def test_stop_strings():
    vocabulary = {token: index for index, token in enumerate(["[MASK]", "[PAD]", *ByteLevel.alphabet()])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", pad_token="[PAD]")
    script, prompt = tokenizer("Say: one. Two. Three").input_ids, tokenizer("Say: ", return_tensors="pt").input_ids
    out = remask_generate(
        Position(script, len(vocabulary)),
        prompt,
        max_new_tokens=15,
        block_length=7,
        pad_token_id=PAD,
        stopping_criteria=[StopStringCriteria(tokenizer, ["e."])],
    )
    assert tokenizer.decode(out[0]) == "Say: one." + "[PAD]" * 11


# Other people's models


class GenerativeBert(GenerationMixin, BertForMaskedLM):
    """A class that has transformers' own `generate`."""


PLAIN = {
    "bert": (BertForMaskedLM, BertConfig(**SMALL, mask_token_id=MASK)),
    "modernbert": (ModernBertForMaskedLM, ModernBertConfig(**SMALL, **SPECIAL, mask_token_id=MASK)),
    "mdlm": (MdlmForMaskedDiffusion, MdlmConfig(vocab_size=40, hidden_dim=32, cond_dim=16, n_blocks=1, n_heads=4)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_call_on_a_model_without_generate(randomised, name):
    cls, config = PLAIN[name]
    model, prompt = randomised(cls(config)), torch.tensor([[5, 6, 7], [8, 9, 10]])
    for settings in (
        {},
        {"remask_strategy": "random", "num_remask": 1},
        {"block_length": 3, "confidence_threshold": 0.2},
    ):
        out = remask_generate(model, prompt, max_new_tokens=8, mask_token_id=MASK, **settings)
        assert torch.equal(out[:, :3], prompt) and not (out[:, 3:] == MASK).any()
    with pytest.raises(ValueError, match="no quality head"):
        remask_generate(model, prompt, max_new_tokens=8, remask_strategy="prism", num_remask=1)


def test_custom_generate_of_a_class_with_transformers_generate(randomised, pad):
    model = randomised(GenerativeBert(BertConfig(**SMALL, mask_token_id=MASK, pad_token_id=PAD)))
    prompt = torch.tensor([[5, 6, 7], [8, 9, 10]])
    own = {"block_length": 4, "steps": 6}
    out = model.generate(prompt, custom_generate=as_custom_generate(**own), max_new_tokens=8)
    assert torch.equal(out, remask_generate(model, prompt, max_new_tokens=8, **own))

    own |= {"remask_strategy": "random", "num_remask": 1}
    shared = {"do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "max_length": 11}
    shared |= {"suppress_tokens": [4], "bad_words_ids": [[5, 6]]}
    generator = torch.Generator()
    expected = remask_generate(
        model, prompt, num_return_sequences=2, generator=generator.manual_seed(0), **own, **shared
    )
    for call in (
        {"num_return_sequences": 2},
        {"generation_config": GenerationConfig(do_sample=True, num_return_sequences=2)},
    ):
        call |= shared | {"generator": generator.manual_seed(0), "return_dict_in_generate": True}
        out = model.generate(prompt, custom_generate=as_custom_generate(**own), **call)
        assert torch.equal(out.sequences, expected) and out.sequences.shape == (4, 11)
    streamer = Log()
    custom_generate = as_custom_generate(**own, streamer=streamer, generator=generator.manual_seed(0))
    out = model.generate(prompt[:1], custom_generate=custom_generate, max_new_tokens=8)
    assert sum((value[0] for name, value in streamer.log[:-1] if name == "put"), []) == out[0].tolist()

    ids, attention_mask = pad([[5, 6, 7], [8]], "left")
    settings = {"max_new_tokens": 8, "attention_mask": attention_mask, "eos_token_id": 3, "pad_token_id": PAD}
    out = model.generate(
        ids,
        custom_generate=as_custom_generate(),
        logits_processor=[Recorder(forced=3)],
        stopping_criteria=[Holds([5, 4])],
        **settings,
    )
    assert out.tolist() == [[5, 6, 7, 3] + [PAD] * 7, [PAD, PAD, 8, 3] + [PAD] * 7]

    filled = model.generate(torch.tensor([[5, MASK, 6]]), custom_generate=as_custom_generate())
    assert filled.shape == (1, 3) and filled[0, 1] != MASK
    with pytest.raises(ValueError, match="no quality head"):
        model.generate(prompt, custom_generate=as_custom_generate(remask_strategy="prism"), max_new_tokens=4)


def test_custom_generate_of_a_class_of_ours_takes_all_that_a_call_says(prism):
    """Nobody has prepared its arguments for a decoder, so that none of them is left out."""
    model, prompt = MODELS["mdlm"](prism), torch.tensor([[5, 6, 7], [8, 9, 10]])
    config = RemaskGenerationConfig(max_length=11, num_return_sequences=2, do_sample=True)
    call = {"generation_config": config, "logits_processor": [SuppressTokensLogitsProcessor([4, 11, 12, 13])]}
    seeded = torch.Generator()
    expected = model.generate(prompt, **call, generator=seeded.manual_seed(0), steps=4)
    out = model.generate(prompt, **call, generator=seeded.manual_seed(0), custom_generate=as_custom_generate(steps=4))
    assert torch.equal(out, expected) and out.shape == (4, 11)


def test_settings_of_transformers_own_config_are_read_but_not_its_defaults(table_model):
    model, prompt = table_model(12), torch.tensor([[3, 4, 5]])
    config = GenerationConfig(max_new_tokens=6, do_sample=True, top_p=0.5, num_beams=1)
    out = remask_generate(model, prompt, config, generator=torch.Generator().manual_seed(0))
    expected = remask_generate(
        model, prompt, max_new_tokens=6, do_sample=True, top_p=0.5, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(out, expected)


# Mistakes


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"top_kk": 3}, "'top_k'"),
        ({"stremer": None}, "'streamer'"),
        ({"logit_processor": []}, "'logits_processor'"),
        ({"cfg_scales": 1.0}, "'cfg_scale'"),
        ({"cfg_scale": -1.0}, "cfg_scale=-1.0 must be a number of at least 0"),
        ({"top_k": -1}, "at least 0"),
        ({"max_length": 2, "max_new_tokens": None}, "raise it"),
        ({"suppress_tokens": 3}, "suppress_tokens=3 must be a list, each an integer"),
        ({"bad_words_ids": [3]}, "bad_words_ids=.* must be a list, each a list, each an integer"),
        ({"bad_words_ids": [[]]}, "a word without tokens"),
        ({"eos_token_id": "a"}, "eos_token_id=.a. must be an integer of at least 0 or a list"),
        ({"num_return_sequences": 2}, "do_sample=True"),
        ({"num_return_sequences": 0}, "at least 1"),
        ({"logits_processor": Recorder()}, "must be a list"),
        ({"stopping_criteria": Holds(1)}, "must be a list"),
        ({"stopping_criteria": [Holds(1)]}, "pad_token_id"),
        ({"stopping_criteria": [Holds(1)], "max_new_tokens": 0}, "max_new_tokens"),
        ({"confidence_threshold": 0.5, "order": "margin"}, "order='confidence'"),
        ({"confidence_threshold": 1.5}, "from 0 to 1"),
        ({"confidence_threshold": 0.5, "loop_start": 1, "loop_steps": 2}, "do not go together"),
        ({"remask_strategy": "prims", "num_remask": 1}, "'prism'"),
    ],
)
def test_mistakes_are_named_before_any_forward(table_model, wrong, message):
    model = table_model(12)
    with pytest.raises(ValueError, match=message):
        remask_generate(model, torch.tensor([[3, MASK, 5]]), **({"max_new_tokens": 4} | wrong))
    assert model.calls == 0
