"""Calls as users make them: what tokenizers return, names of transformers, broken inputs and models."""

import copy
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    PreTrainedTokenizerFast,
)

from prism_hf import LladaConfig, LladaForMaskedDiffusion, MdlmConfig, MdlmForMaskedDiffusion
from prism_hf.generation import (
    STRATEGIES,
    as_custom_generate,
    generate_with_retries,
    prepare_generation_config,
    register_strategy,
    remask_generate,
)
from prism_hf.generation.denoising.canvas import longest_canvas
from prism_hf.models.prism import PrismConfig, PrismForMaskedDiffusion

MASK, PAD, CLS, SEP, UNK, VOCAB = 0, 1, 2, 3, 4, 40
BACKBONE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
    "mask_token_id": MASK,
    "pad_token_id": PAD,
    "initializer_range": 0.5,
}


class GenerativeBert(GenerationMixin, BertForMaskedLM):
    """A class that has transformers' own `generate`."""


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(0)
    return GenerativeBert(BertConfig(**BACKBONE)).eval()


@pytest.fixture(scope="module")
def prism():
    torch.manual_seed(0)
    config = PrismConfig(backbone_config=BertConfig(**BACKBONE), initializer_range=0.5)
    return PrismForMaskedDiffusion(config).eval()


@pytest.fixture(scope="module")
def tokenizer():
    words = ["[MASK]", "[PAD]", "[CLS]", "[SEP]", "[UNK]"] + [f"w{i}" for i in range(5, VOCAB)]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        mask_token="[MASK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        padding_side="left",
    )


# What tokenizers return, and what transformers hands over


def test_what_a_tokenizer_returns_goes_straight_in(prism, bert, tokenizer):
    texts = ["w5 w6 w7", "w8 [MASK]"]
    encoded = tokenizer(texts, return_tensors="pt", padding=True, return_special_tokens_mask=True, return_length=True)
    assert {"token_type_ids", "special_tokens_mask", "length"} <= set(encoded)
    plain = {"input_ids": encoded.input_ids, "attention_mask": encoded.attention_mask}
    for kwargs in ({"max_new_tokens": 4}, {}):
        if not kwargs:
            encoded = tokenizer([texts[1]], return_tensors="pt", return_offsets_mapping=True)
            plain = {"input_ids": encoded.input_ids}
        expected = prism.generate(**plain, **kwargs)
        assert torch.equal(prism.generate(**encoded, **kwargs), expected)
        assert torch.equal(remask_generate(prism, **encoded, **kwargs, use_cache=True), expected)
        expected = remask_generate(bert, **plain, **kwargs)
        assert torch.equal(remask_generate(bert, **encoded, **kwargs, use_cache=False), expected)


def test_inputs_by_the_name_of_transformers(prism, bert):
    ids = torch.tensor([[5, MASK, 7, MASK]])
    assert torch.equal(prism.generate(inputs=ids), prism.generate(ids))
    expected = remask_generate(bert, ids)
    assert torch.equal(remask_generate(bert, inputs=ids), expected)
    assert torch.equal(bert.generate(inputs=ids, custom_generate=as_custom_generate()), expected)


class Typed(nn.Module):
    """Writes the sum of token types so far, which it has asserted to come with every forward."""

    def __init__(self):
        super().__init__()
        self.config, self.seen = SimpleNamespace(mask_token_id=MASK), []

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        self.seen.append(token_type_ids)
        return SimpleNamespace(logits=nn.functional.one_hot(token_type_ids + 5, 12) * 9.0)


def test_token_types_reach_a_model_that_names_them():
    """Rows keep theirs wherever the padding is, and new tokens have that of the last one before them."""
    ids = torch.tensor([[PAD, 7, MASK, 9], [7, 8, MASK, PAD]])
    types = torch.tensor([[0, 1, 0, 2], [0, 1, 3, 0]])
    real = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 0]])
    model = Typed()
    out = remask_generate(model, ids, attention_mask=real, token_type_ids=types, max_new_tokens=2)
    assert out.tolist() == [[PAD, 7, 5, 9, 7, 7], [PAD, 7, 8, 8, 8, 8]]
    out = remask_generate(model, ids, attention_mask=real, token_type_ids=types, cfg_scale=1.0)
    assert out.tolist() == [[PAD, 7, 5, 9], [7, 8, 8, PAD]]
    assert model.seen[-1].shape == (4, 4)


def test_token_types_of_pairs_reach_bert(bert, tokenizer):
    encoded = tokenizer("w5 [MASK] w7", "w8 [MASK]", return_tensors="pt")
    encoded["token_type_ids"] = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1]])
    with torch.no_grad():
        logits = bert(**encoded).logits
    logits[..., MASK] = -torch.inf
    masked = encoded.input_ids == MASK
    out = remask_generate(bert, **encoded, steps=1)
    assert torch.equal(out, encoded.input_ids.where(~masked, logits.argmax(-1)))
    through = bert.generate(**encoded, custom_generate=as_custom_generate(steps=1))
    assert torch.equal(through, out)
    wino = {"remask_strategy": "wino", "steps": 3}
    assert not (remask_generate(bert, **encoded, **wino) == MASK).any()


class Hiding(nn.Module):
    """Passes everything on and names nothing, as a wrapper that times or logs a forward does."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)


def test_a_forward_that_hides_its_positions_is_told(prism, caplog):
    ids = torch.tensor([[5, 6, 7]])
    expected = remask_generate(prism, ids, max_new_tokens=4)
    assert "hides logits_to_keep" not in caplog.text
    assert torch.equal(remask_generate(Hiding(prism), ids, max_new_tokens=4), expected)
    assert "The forward of Hiding hides logits_to_keep, which that of PrismForMaskedDiffusion takes" in caplog.text


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.uint16])
def test_ids_of_any_integer_type(prism, dtype):
    ids = torch.tensor([[5, MASK, 7, MASK]])
    out = prism.generate(ids.to(dtype), max_new_tokens=2)
    assert out.dtype == torch.int64 and torch.equal(out, prism.generate(ids, max_new_tokens=2))


@pytest.mark.parametrize("mask", [torch.float32, torch.bool, torch.int32, torch.uint8])
def test_attention_masks_of_any_type(prism, mask):
    ids, real = torch.tensor([[PAD, 5, MASK], [6, 7, 8]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    settings = {"max_new_tokens": 3}
    expected = prism.generate(ids, attention_mask=real, **settings)
    assert torch.equal(prism.generate(ids, attention_mask=real.to(mask), **settings), expected)


REFUSED = {
    "num_beams": (4, "beams need left-to-right"),
    "num_beam_groups": (2, "beams"),
    "past_key_values": ((), "no token has a past"),
    "cache_implementation": ("static", "must be one of 'prefix', 'dual'"),
    "guidance_scale": (2.0, "cfg_scale"),
    "repetition_penalty": (1.2, "logits_processor"),
    "no_repeat_ngram_size": (2, "logits_processor"),
    "min_p": (0.1, "logits_processor"),
    "min_new_tokens": (2, "suppress_tokens"),
    "max_time": (1.0, "stopping_criteria"),
    "stop_strings": ("a", "stopping_criteria"),
    "assistant_model": ("a model", "confidence_threshold"),
    "prompt_lookup_num_tokens": (3, "confidence_threshold"),
    "output_scores": (True, "output_trajectory"),
    "position_ids": (torch.arange(3)[None], "token ids"),
    "inputs_embeds": (torch.zeros(1, 3, 4), "token ids"),
    "low_memory": (True, "left-to-right"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_names_of_transformers_are_refused_for_the_right_reason(prism, name):
    value, reason = REFUSED[name]
    with pytest.raises(ValueError, match=f"(?s){name}.*{reason}") as error:
        prism.generate(torch.tensor([[5, MASK, 7]]), **{name: value})
    assert "Did you mean" not in str(error.value)


IN_A_CONFIG = sorted(set(REFUSED) & set(GenerationConfig().__dict__))


@pytest.mark.parametrize("name", IN_A_CONFIG)
def test_a_config_of_transformers_is_refused_for_the_same_reason(prism, name):
    value, reason = REFUSED[name]
    with pytest.raises(ValueError, match=f"(?s){name}.*{reason}"):
        prism.generate(torch.tensor([[5, MASK, 7]]), GenerationConfig(**{name: value}))


def test_what_transformers_makes_of_a_setting_counts_and_the_rest_is_refused(bert):
    ids = torch.tensor([[5, 6, 7]])
    call = {"custom_generate": as_custom_generate(order="left_to_right"), "max_new_tokens": 8}
    plain = bert.generate(ids, **call)
    assert len(set(plain[0, 3:].tolist())) < 8
    assert len(set(bert.generate(ids, no_repeat_ngram_size=1, **call)[0].tolist())) == 11
    for wrong in ({"num_beams": 2}, {"penalty_alpha": 0.6}, {"prompt_lookup_num_tokens": 2}, {"guidance_scale": 2.0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}.* has no meaning"):
            bert.generate(ids, **call, **wrong)


def test_settings_at_the_value_that_does_nothing_are_nobodys_mistake(prism):
    ids = torch.tensor([[5, MASK, 7]])
    nothing = {"num_beams": 1, "repetition_penalty": 1.0, "output_scores": False, "min_length": 0, "max_time": None}
    expected = prism.generate(ids)
    assert torch.equal(prism.generate(ids, **nothing, early_stopping=False, use_cache=False), expected)
    assert torch.equal(prism.generate(ids, GenerationConfig(**nothing, use_cache=False)), expected)
    with pytest.raises(ValueError, match="'max_length'"):
        prism.generate(ids, length=3)


def test_a_strategy_registered_by_a_user_keeps_its_fields(bert):
    """Through `custom_generate` too, however late it was registered; once it is gone, so are its fields."""
    prompt, settings = torch.tensor([[5, 6, 7]]), {"remask_strategy": "test_doubt", "num_remask": 2}
    try:

        @register_strategy("test_doubt")
        @dataclass(frozen=True)
        class Doubt:
            patience: float = 0.1
            seen = []

            def __call__(self, state):
                self.seen.append(self.patience)
                return (state.canvas * self.patience % 1).float()

        for patience in (0.2, 0.37):
            custom_generate = as_custom_generate(patience=patience, **settings)
            out = bert.generate(prompt, max_new_tokens=8, custom_generate=custom_generate)
            assert set(Doubt.seen) == {patience}
            Doubt.seen.clear()
            expected = remask_generate(bert, prompt, max_new_tokens=8, patience=patience, **settings)
            assert torch.equal(out, expected)
            Doubt.seen.clear()
        bert.generate(prompt, max_new_tokens=8, custom_generate=as_custom_generate(**settings))
        assert set(Doubt.seen) == {0.1}
        with pytest.raises(ValueError, match="'patienc'"):
            remask_generate(bert, prompt, max_new_tokens=8, patienc=0.2, **settings)
    finally:
        STRATEGIES.pop("test_doubt", None)
    with pytest.raises(ValueError, match="patience"):
        bert.generate(prompt, custom_generate=as_custom_generate(patience=0.2), max_new_tokens=2)


def test_remask_generate_itself_is_no_custom_generate(bert):
    with pytest.raises(ValueError, match=r"as_custom_generate\("):
        bert.generate(torch.tensor([[5, 6, 7]]), custom_generate=remask_generate, max_new_tokens=8)


# What can be known before the first forward

WRONG = {
    "a batch of a tokenizer": ({"input_ids": {"input_ids": [[5]]}}, "unpacked"),
    "a list": ({"input_ids": [[5, MASK]]}, "unpacked"),
    "one row without a batch": ({"input_ids": torch.tensor([5, MASK])}, r"\(2,\)"),
    "ids as floats": ({"input_ids": torch.tensor([[5.0, 0.0]])}, "integers"),
    "ids as booleans": ({"input_ids": torch.tensor([[True, False]])}, "integers"),
    "an id too large": ({"input_ids": torch.tensor([[5, MASK], [MASK, VOCAB]])}, r"\[1, 1\] is 40.* 0 to 39"),
    "a negative id": ({"input_ids": torch.tensor([[MASK, -100]])}, r"\[0, 1\] is -100"),
    "a mask of another shape": ({"attention_mask": torch.ones(1, 2)}, "shape"),
    "a mask in 4D": ({"attention_mask": torch.zeros(1, 1, 3, 3)}, "shape"),
    "a mask as a list": ({"attention_mask": [[1, 1, 1]]}, "shape list"),
    "an additive mask": ({"attention_mask": torch.tensor([[-torch.inf, 0.0, 0.0]])}, "additive"),
    "an additive mask with a minimum": ({"attention_mask": torch.tensor([[0.0, 0.0, -3.4e38]])}, "additive"),
    "an additive mask that hides nothing": ({"attention_mask": torch.zeros(1, 3)}, "additive"),
    "a mask of numbers of documents": ({"attention_mask": torch.tensor([[1, 1, 2]])}, "must be 1 at tokens"),
    "a mask of NaN": ({"attention_mask": torch.full((1, 3), torch.nan)}, "must be 1 at tokens"),
    "token types of another shape": ({"token_type_ids": torch.zeros(1, 2)}, "token_type_ids has shape"),
    "a negative pad": ({"pad_token_id": -5, "max_new_tokens": 2}, "pad_token_id=-5"),
    "an eos that the model lacks": ({"eos_token_id": 99, "max_new_tokens": 2}, "eos_token_id has 99"),
    "one eos of several": ({"eos_token_id": [3, 99], "max_new_tokens": 2}, "eos_token_id has 99"),
    "the mask for an end": ({"eos_token_id": [3, MASK], "max_new_tokens": 2}, "has the mask"),
    "a seed for a generator": ({"generator": 5}, "generator is 5"),
    "no rows": ({"input_ids": torch.zeros(0, 3, dtype=torch.long), "max_new_tokens": 2}, "no rows"),
    "memory for nobody": ({"max_new_tokens": 10**12}, "more than the 24"),
    "a mask for padding": ({"pad_token_id": MASK, "eos_token_id": 9, "max_new_tokens": 2}, "is the mask"),
    "nothing at all": ({"input_ids": None}, "got NoneType"),
    "a mask that the model lacks": ({"mask_token_id": 77}, "mask_token_id has 77"),
    "a suppressed token that it lacks": ({"suppress_tokens": [40]}, "suppress_tokens has 40"),
    "a bad word that it lacks": ({"bad_words_ids": [[3, -1]]}, "bad_words_ids"),
    "all banned": ({"suppress_tokens": [*range(1, 30)], "bad_words_ids": [[i] for i in range(30, 40)]}, "leave none"),
    "too long": ({"max_new_tokens": 22}, "Row 0 .* 3 tokens and is to get 22 .* the 24 "),
    "too long in place": ({"input_ids": torch.full((2, 25), MASK)}, "Row 0 .* 25 tokens, more than the 24"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("retrying", [False, True])
def test_what_can_be_known_to_be_wrong_is_said_first(prism, case, retrying):
    wrong, message = WRONG[case]
    arguments = {"input_ids": torch.tensor([[5, MASK, 7]])} | wrong
    forwards = []
    hook = prism.register_forward_pre_hook(lambda *_: forwards.append(1))
    try:
        with pytest.raises(ValueError, match=message):
            if retrying:
                generate_with_retries(prism, retries=[{"steps": 2}], **arguments)
            else:
                prism.generate(**arguments)
    finally:
        hook.remove()
    assert not forwards


def test_a_streamer_streams_and_no_eos_is_none(prism):
    ids = torch.tensor([[5, MASK, 7]])
    with pytest.raises(ValueError, match="streamer is 'text'"):
        prism.generate(ids, streamer="text")
    assert torch.equal(prism.generate(ids, max_new_tokens=3, eos_token_id=[]), prism.generate(ids, max_new_tokens=3))


def test_a_retry_that_cannot_be_is_refused_before_the_first_attempt(prism):
    ids = torch.tensor([[5, MASK, 7, MASK]])
    for retry, message in (
        ({"max_new_tokens": 3}, "append"),
        ({"block_length": 1, "steps": 1}, "too few"),
        ({"num_return_sequences": 2, "do_sample": True}, "num_return_sequences"),
        ({"suppress_tokens": [99]}, "99"),
    ):
        with pytest.raises(ValueError, match=message):
            generate_with_retries(prism, ids, [{"steps": 2}, retry])


@pytest.mark.parametrize("cls", [BertModel, BertForSequenceClassification])
def test_a_model_without_its_head_is_refused(cls):
    with pytest.raises(ValueError, match=f"{cls.__name__} gives no logits .*AutoModelForMaskedLM"):
        remask_generate(cls(BertConfig(**BACKBONE)), torch.tensor([[5, MASK]]))


def test_a_module_without_a_config_does():
    class Echo(nn.Module):
        def forward(self, input_ids, attention_mask=None):
            return SimpleNamespace(logits=nn.functional.one_hot(input_ids.new_full(input_ids.shape, 7), 9).float())

    assert remask_generate(Echo(), torch.tensor([[5, MASK]]), mask_token_id=MASK).tolist() == [[5, 7]]


TINY = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TINY |= {"max_position_embeddings": 12, "pad_token_id": 1}
LLADA = {"vocab_size": 30, "d_model": 16, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 16, "mask_token_id": MASK}
POSITIONS = {
    **dict.fromkeys(("bert", "electra", "roformer", "nystromformer", "deberta-v2"), 12),
    **dict.fromkeys(("roberta", "mpnet", "data2vec-text"), 10),  # they begin at padding_idx + 1
}


@pytest.mark.parametrize("model_type", POSITIONS)
def test_a_canvas_may_be_as_long_as_there_are_positions(model_type):
    limit = POSITIONS[model_type]
    special = {"segment_means_seq_len": 9, "num_landmarks": 9} if model_type == "nystromformer" else {}
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(model_type, **TINY, **special)).eval()
    assert longest_canvas(model) == limit
    prompt = torch.tensor([[5, 6, 7]])
    settings = {"mask_token_id": MASK, "steps": 1}
    assert remask_generate(model, prompt, max_new_tokens=limit - 3, **settings).shape == (1, limit)
    with pytest.raises(ValueError, match=f"Row 0 .* more than the {limit} "):
        remask_generate(model, prompt, max_new_tokens=limit - 2, **settings)
    # Which row it is; and what padding alone makes too long.
    rows, real = torch.full((3, 4), 5), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    with pytest.raises(ValueError, match="Row 2 has 4 tokens"):
        remask_generate(model, rows, attention_mask=real, max_new_tokens=limit - 3, **settings)
    with pytest.raises(ValueError, match="4 wide, its padding included"):
        remask_generate(model, rows[:2], attention_mask=real[:2], max_new_tokens=limit - 3, **settings)


def test_relative_positions_have_no_end():
    config = AutoConfig.for_model("deberta-v2", **TINY, relative_attention=True, position_biased_input=False)
    model = AutoModelForMaskedLM.from_config(config).eval()
    assert longest_canvas(model) is None
    assert remask_generate(model, torch.tensor([[5]]), max_new_tokens=30, mask_token_id=MASK, steps=1).shape == (1, 31)
    assert longest_canvas(LladaForMaskedDiffusion(LladaConfig(**LLADA, max_sequence_length=33))) == 33
    mdlm = {"hidden_dim": 16, "cond_dim": 8, "n_blocks": 1, "n_heads": 2}
    assert longest_canvas(MdlmForMaskedDiffusion(MdlmConfig(vocab_size=30, model_length=21, **mdlm))) == 21


# Models and processors that leave nothing to draw

EVERY_KIND = {
    **{
        order: {"order": order, "remask_strategy": "prism"}
        for order in ("confidence", "margin", "entropy", "random", "left_to_right")
    },
    **{name: {"remask_strategy": name} for name in sorted(STRATEGIES)},
    "sampled": {"do_sample": True, "top_k": 3, "top_p": 0.9, "remask_strategy": "none"},
    "blocks": {"block_length": 3, "remask_strategy": "none"},
    "threshold": {"confidence_threshold": 0.9, "remask_strategy": "none"},
    "verified": {"confidence_threshold": 0.9, "remask_strategy": "prism", "block_length": 4},
    "guided": {"cfg_scale": 1.0, "remask_strategy": "none"},
    "ending": {"eos_token_id": 3, "block_length": 3, "remask_strategy": "none"},
    "more steps": {"steps": 20, "remask_strategy": "prism"},
}


def poisoned(model, where):
    """The model with NaN at the positions of `where`, of its logits."""
    model = copy.deepcopy(model)

    def poison(module, args, kwargs, output):
        output.logits = output.logits.clone()
        at = kwargs.get("logits_to_keep")
        at = torch.arange(output.logits.shape[1]).expand(output.logits.shape[:2]) if at is None else at
        output.logits[where(at)] = torch.nan
        return output

    model.register_forward_hook(poison, with_kwargs=True)
    return model


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_logits_that_are_nan_raise(prism, kind):
    critic = {"critic": prism} if kind == "token_critic" else {}
    settings = {"generator": torch.Generator().manual_seed(0), "max_new_tokens": 6} | EVERY_KIND[kind] | critic
    for where in (lambda at: at >= 0, lambda at: at == 5):
        with pytest.raises(ValueError, match="logits are not finite"):
            poisoned(prism, where).generate(torch.tensor([[5, 6, 7], [8, 9, 10]]), **settings)


def test_infinite_logits_raise(prism):
    model = copy.deepcopy(prism)
    model.decoder.bias.data[7] = torch.inf
    with pytest.raises(ValueError, match="logits are not finite"):
        model.generate(torch.tensor([[5, MASK, 7]]))


def test_a_row_is_padded_by_the_token_of_the_backbone(prism):
    ids, settings = torch.tensor([[5, 6, 7]]), {"max_new_tokens": 6, "order": "left_to_right"}
    free = prism.generate(ids, **settings)[0].tolist()
    assert prism.config.backbone_config.pad_token_id == PAD
    out = prism.generate(ids, eos_token_id=free[4], **settings)[0].tolist()
    end = free.index(free[4], 3) + 1
    assert out == free[:end] + [PAD] * (9 - end)


def test_a_broken_head_raises(prism):
    model = copy.deepcopy(prism)
    model.quality_head.linear.weight.data.fill_(torch.nan)
    ids = torch.tensor([[5, MASK, MASK, MASK, MASK, MASK]])
    for call in (
        lambda: model.generate(ids, remask_strategy="prism"),
        lambda: model.generate(ids, remask_strategy="prism_loop"),
        lambda: generate_with_retries(model, ids, [{"steps": 3}], remask_strategy="none"),
        lambda: generate_with_retries(model, ids, [{"steps": 3}], remask_strategy="prism"),
    ):
        with pytest.raises(ValueError, match="quality_logits are NaN"):
            call()
    assert not (model.generate(ids, remask_strategy="none") == MASK).any()  # nobody asks the head


class Bans(LogitsProcessor):
    def __init__(self, until=-1):
        self.until = until

    def __call__(self, input_ids, scores, cur_step=0):
        return torch.full_like(scores, -torch.inf) if cur_step > self.until else scores


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_processors_that_ban_everything_leave_no_masks_behind(prism, kind):
    critic = {"critic": prism} if kind == "token_critic" else {}
    settings = {"generator": torch.Generator().manual_seed(0), "max_new_tokens": 6} | EVERY_KIND[kind] | critic
    with pytest.raises(ValueError, match="No token was left to draw"):
        prism.generate(torch.tensor([[5, 6, 7]]), logits_processor=[Bans()], **settings)


def test_words_that_ban_everything(prism):
    words = [[5, token] for token in range(1, VOCAB)]
    with pytest.raises(ValueError, match="No token was left to draw at 1 masks .* position 1 of row 0"):
        prism.generate(torch.tensor([[5, MASK, 7]]), bad_words_ids=words)


def test_settings_of_a_call_are_not_the_models(prism):
    before = prism.generation_config.to_dict()
    prepare_generation_config(prism, None, remask_strategy="prism", confidence_threshold=0.4)
    assert prism.generation_config.to_dict() == before


def test_token_types_reach_a_family_that_reads_padding(tokenizer):
    config = AutoConfig.for_model("fnet", **TINY | {"vocab_size": VOCAB}, initializer_range=0.5)
    model = AutoModelForMaskedLM.from_config(config).eval()
    texts, settings = ["w5 w6 w7", "w8"], {"mask_token_id": MASK, "max_new_tokens": 3}
    encoded = tokenizer(texts, return_tensors="pt", padding=True)
    together = remask_generate(model, **encoded, **settings)
    for row, text in zip(together, texts, strict=True):
        alone = remask_generate(model, **tokenizer(text, return_tensors="pt"), **settings)[0]
        assert torch.equal(row[-len(alone) :], alone)
