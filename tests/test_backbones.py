"""Every family in the table of backbones: read as transformers reads it, trained, generated from, resized, reloaded."""

import copy
import gc
import pickle
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import MaskedLMOutput
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from prism_hf import (
    MaskedDiffusionTrainer,
    MaskedDiffusionTrainingArguments,
    PrismTrainer,
    PrismTrainingArguments,
    TokenCriticTrainer,
    TokenCriticTrainingArguments,
    remask_generate,
)
from prism_hf.backbones import REFUSED, adapter_of
from prism_hf.models.prism import BACKBONE_ADAPTERS, BackboneAdapter, PrismConfig, PrismForMaskedDiffusion, through
from prism_hf.training.masking import NOISED
from prism_hf.training.packing import PackedRows, packed_index

VOCAB, MASK, PAD = 40, 4, 0
TINY = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NARROW = {"embedding_size": 12}
DISENTANGLED = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
# Of each family, what its tiny config has beside `TINY`; "/" parts two configs of one family.
FAMILIES = {
    "albert": NARROW,
    "bert": {},
    "bert/untied": {"tie_word_embeddings": False},
    "big_bird": {"attention_type": "original_full"},
    "camembert": {},
    "convbert": NARROW,
    "data2vec-text": {},
    "deberta": DISENTANGLED,
    "deberta/new head": DISENTANGLED | {"legacy": False},
    "deberta-v2": DISENTANGLED,
    "deberta-v2/new head": DISENTANGLED | {"legacy": False},
    "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24},
    "electra": NARROW,
    "ernie": {},
    "esm": {"mask_token_id": MASK, "token_dropout": True, "position_embedding_type": "rotary"},
    "esm/untied": {"mask_token_id": MASK, "tie_word_embeddings": False},
    "esmc": {"mask_token_id": MASK},
    "eurobert": {"num_key_value_heads": 1, "mask_token_id": MASK},
    "eurobert/tied": {"num_key_value_heads": 1, "mask_token_id": MASK, "tie_word_embeddings": True},
    "fnet": {},
    "funnel": {
        "d_model": 16,
        "n_head": 2,
        "d_head": 8,
        "d_inner": 24,
        "block_sizes": [1, 1],
        "num_decoder_layers": 1,
        "hidden_size": None,
        "num_hidden_layers": None,
        "num_attention_heads": None,
        "intermediate_size": None,
    },
    "gte": {},
    "ibert": {},
    "jina_embeddings_v3": {},
    "longformer": {"attention_window": 4},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 8},
    "megatron-bert": {},
    "mobilebert": {"embedding_size": 8, "intra_bottleneck_size": 8, "num_feedforward_networks": 1},
    "mobilebert/untied": {
        "embedding_size": 8,
        "intra_bottleneck_size": 8,
        "num_feedforward_networks": 1,
        "tie_word_embeddings": False,
    },
    "modernbert": {"cls_token_id": 1, "sep_token_id": 2},
    "mpnet": {},
    "nomic_bert": {},
    "nystromformer": {"num_landmarks": 8, "segment_means_seq_len": 8, "conv_kernel_size": 3},
    "rembert": {"input_embedding_size": 12, "output_embedding_size": 20},
    "roberta": {},
    "roberta/untied": {"tie_word_embeddings": False},
    "roberta-prelayernorm": {},
    "roc_bert": {"shape_vocab_size": 10, "pronunciation_vocab_size": 10},
    "roformer": NARROW,
    "squeezebert": {
        "embedding_size": 16,
        "q_groups": 1,
        "k_groups": 1,
        "v_groups": 1,
        "post_attention_groups": 1,
        "intermediate_groups": 1,
        "output_groups": 1,
    },
    "ultrabert": {},
    "xlm-roberta": {},
    "xlm-roberta-xl": {},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "yoso": {},
}
FAMILIES = {name: fields for name, fields in FAMILIES.items() if name.split("/")[0] in CONFIG_MAPPING_NAMES}
OURS = ("Dream", "llada", "mdlm")  # have tests of their own
every_family = pytest.mark.parametrize("name", FAMILIES)
IDS = torch.randint(5, VOCAB, (2, 9), generator=torch.Generator().manual_seed(0))
IDS[:, 3], IDS[0, 6:] = MASK, PAD
REAL = (IDS != PAD).long()


@cache
def built(name):
    fields = {field: value for field, value in (TINY | FAMILIES[name]).items() if value is not None}
    config = AutoConfig.for_model(name.split("/")[0], **fields)
    torch.manual_seed(0)
    backbone = AutoModelForMaskedLM.from_config(config)
    model = PrismForMaskedDiffusion(PrismConfig(backbone_config=config, mask_token_id=MASK), backbone)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


@pytest.fixture(scope="module", autouse=True)
def fast_collection():
    """Trainer collects garbage after each run, which takes as long as there are objects to look at."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def model(name):
    return copy.deepcopy(built(name))


def ties(model):
    """Sets of names that stand for one tensor."""
    pointers = {name: tensor.data_ptr() for name, tensor in model.named_parameters(remove_duplicate=False)}
    return {frozenset(n for n in pointers if pointers[n] == pointer) for pointer in pointers.values()}


def test_all_families_are_tried():
    known = {name for name in BACKBONE_ADAPTERS if name in CONFIG_MAPPING_NAMES}
    assert {name.split("/")[0] for name in FAMILIES} == known - set(OURS)


@every_family
@torch.no_grad()
def test_logits_are_those_of_transformers(model):
    for attention_mask in (None, REAL):
        expected = model.backbone(IDS, attention_mask=attention_mask).logits
        torch.testing.assert_close(model(IDS, attention_mask).logits, expected, atol=1e-6, rtol=0)
        keep = torch.rand(IDS.shape, generator=torch.Generator().manual_seed(2)) < 0.5
        kept = model(IDS, attention_mask, logits_to_keep=keep)
        torch.testing.assert_close(kept.logits, expected[keep], atol=1e-6, rtol=0)
        torch.testing.assert_close(model.decoder(kept.prediction_states), kept.logits)
        at = torch.tensor([[0, 5, 3], [8, 8, 1]])
        placed = model(IDS, attention_mask, logits_to_keep=at).logits
        torch.testing.assert_close(placed, expected[torch.tensor([[0], [1]]), at], atol=1e-6, rtol=0)


@every_family
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_packed_documents_are_read_as_alone_or_refused(name, attention):
    model = copy.deepcopy(built(name)).double()
    if attention == "eager" or model.backbone._supports_sdpa:
        model.set_attn_implementation(attention)
    sizes = [[7, 3], [4]]
    index = packed_index(sizes, 7)
    ids = torch.randint(5, VOCAB, (3, 7), generator=torch.Generator().manual_seed(3))
    ids[:, 1] = MASK
    rows = PackedRows(index, (3, 7))
    if BACKBONE_ADAPTERS[model.backbone.config.model_type].first_position is None:
        with pytest.raises(ValueError, match="Documents of a packed row would see each other.*leave out packing"):
            rows.inputs(ids, model)
        return
    found = model(**rows.inputs(ids, model))
    for document, size in enumerate(size for row in sizes for size in row):
        alone = model(ids[document : document + 1, :size])
        where = index.div(7, rounding_mode="floor") == document
        torch.testing.assert_close(found.logits[where], alone.logits[0], atol=1e-6, rtol=1e-6)
        quality = rows.by_row(found.quality_logits)[document, :size]
        torch.testing.assert_close(quality, alone.quality_logits[0], atol=1e-6, rtol=1e-6)


@every_family
def test_a_training_step_reaches_body_and_heads_and_parts_nothing(model, tmp_path):
    tied, before = ties(model), {name: p.detach().clone() for name, p in model.named_parameters()}
    args = PrismTrainingArguments(
        str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        num_draft_tokens=2,
        unmasking_weight=1.0,
        min_timestep=0.5,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    rows = [{"input_ids": [1, *range(at, at + 6)], "maskable": [0] + [1] * 6} for at in (5, 11)]
    PrismTrainer(model, args, train_dataset=rows).train()
    assert ties(model) == tied
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert {"quality_head.linear.weight", "quality_head.dense.weight"} <= moved
    head = {id(parameter): name for name, parameter in model.named_parameters()}
    decoder = {head[id(parameter)] for parameter in model.decoder.parameters()}
    assert decoder & moved
    body = {name for name in before if ".layer" in name or ".encoder" in name or ".blocks" in name}
    assert body & moved


@every_family
def test_a_padded_row_is_generated_as_it_is_alone(model):
    settings = {"max_new_tokens": 4, "remask_strategy": "prism", "num_remask": 1, "steps": 4, "do_sample": False}
    together = model.generate(IDS, attention_mask=REAL, **settings)
    for row, real, generated in zip(IDS, REAL.bool(), together, strict=True):
        alone = model.generate(row[real][None], **settings)[0]
        assert torch.equal(generated[-len(alone) :], alone)


@pytest.mark.parametrize("name", ["convbert", "fnet", "mobilebert", "nystromformer"])
def test_so_is_a_padded_row_of_a_bare_model(model):
    settings = {"max_new_tokens": 4, "steps": 4, "mask_token_id": MASK, "cfg_scale": 1.0, "remask_strategy": "p2"}
    together = remask_generate(model.backbone, IDS, attention_mask=REAL, **settings)
    for row, real, generated in zip(IDS, REAL.bool(), together, strict=True):
        alone = remask_generate(model.backbone, row[real][None], **settings)[0]
        assert torch.equal(generated[-len(alone) :], alone)


@every_family
@torch.no_grad()
def test_resized_saved_and_loaded(model, name, tmp_path):
    if name == "ibert":  # keeps a copy of its embedding in a buffer; transformers refuses it too
        with pytest.raises(TypeError, match="QuantEmbedding is no plain embedding"):
            model.resize_token_embeddings(45)
        model.save_pretrained(tmp_path)
        loaded = PrismForMaskedDiffusion.from_pretrained(tmp_path)
        assert torch.equal(loaded(IDS).logits, model(IDS).logits)
        return
    before, tied = model(IDS, REAL), ties(model)
    model.resize_token_embeddings(VOCAB + 5)
    after = model(IDS, REAL)
    assert after.logits.shape[-1] == model.config.vocab_size == model.config.backbone_config.vocab_size == VOCAB + 5
    torch.testing.assert_close(after.logits[..., :VOCAB], before.logits, atol=1e-6, rtol=0)
    torch.testing.assert_close(after.quality_logits, before.quality_logits)
    torch.testing.assert_close(model.backbone(IDS, attention_mask=REAL).logits, after.logits, atol=1e-6, rtol=0)
    assert ties(model) == tied
    model.save_pretrained(tmp_path)
    loaded = PrismForMaskedDiffusion.from_pretrained(tmp_path)
    assert loaded.config.mask_token_id == MASK
    torch.testing.assert_close(loaded(IDS, REAL).logits, after.logits, atol=1e-6, rtol=0)
    torch.testing.assert_close(loaded(IDS, REAL).quality_logits, after.quality_logits, atol=1e-6, rtol=0)


@every_family
@torch.no_grad()
def test_models_pickle(model):
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    assert ties(again) == ties(model)


# What nobody has described


class ShiftedConfig(PreTrainedConfig):
    model_type = "shifted"
    vocab_size: int = VOCAB
    hidden_size: int = 16
    mask_token_id: int | None = MASK


class ShiftedModel(PreTrainedModel):
    """Attends to both sides; its logits at position i are of the token at i + 1."""

    config_class = ShiftedConfig
    base_model_prefix = "model"

    def __init__(self, config):
        super().__init__(config)
        self.model = copy.deepcopy(built("bert").backbone.bert)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, attention_mask=None, **kwargs):
        return MaskedLMOutput(logits=self.lm_head(self.model(input_ids, attention_mask).last_hidden_state))


class Unshifted(nn.Module):
    """The same model, whose logits stand where their tokens do."""

    def __init__(self, dream):
        super().__init__()
        self.dream, self.config, self.dtype = dream, SimpleNamespace(mask_token_id=MASK), dream.dtype

    def forward(self, input_ids, attention_mask=None):
        logits = self.dream(input_ids, attention_mask).logits
        return SimpleNamespace(logits=torch.cat([logits[:, :1], logits[:, :-1]], dim=1))


def causal(model_type):
    config = AutoConfig.for_model(model_type, **(TINY | {"num_key_value_heads": 1, "n_embd": 16, "n_layer": 1}))
    return AutoModelForCausalLM.from_config(config)


UNKNOWN = {
    "shifted": lambda: ShiftedModel(ShiftedConfig()),
    "qwen2": lambda: causal("qwen2"),
    "llama": lambda: causal("llama"),
    "modernbert-decoder": lambda: causal("modernbert-decoder"),
}


@pytest.mark.parametrize("model_type", UNKNOWN)
def test_an_undescribed_family_is_refused_with_the_remedy(model_type, tmp_path):
    backbone = UNKNOWN[model_type]().eval()
    message = rf"model_type='{model_type}'.*BACKBONE_ADAPTERS\['{model_type}'\] = BackboneAdapter\(\).*shifted_logits"
    with pytest.raises(ValueError, match=message):
        PrismForMaskedDiffusion(PrismConfig(backbone_config=backbone.config, mask_token_id=MASK), backbone)
    with pytest.raises(ValueError, match=message):
        remask_generate(backbone, IDS, mask_token_id=MASK)
    backbone.config.mask_token_id = MASK
    args = MaskedDiffusionTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match=message):
        MaskedDiffusionTrainer(backbone, args, train_dataset=[{"input_ids": [5, 6]}])
    critic, args = (
        copy.deepcopy(built("bert")),
        TokenCriticTrainingArguments(str(tmp_path), use_cpu=True, report_to="none"),
    )
    with pytest.raises(ValueError, match=message):
        TokenCriticTrainer(critic, args, denoiser=backbone, train_dataset=[{"input_ids": [5, 6]}])


def test_a_shifted_family_is_trained_and_drafts_at_the_left_neighbour(monkeypatch, tmp_path):
    monkeypatch.setitem(BACKBONE_ADAPTERS, "shifted", BackboneAdapter(shifted_logits=True))
    torch.manual_seed(3)
    dream, batch = (
        ShiftedModel(ShiftedConfig()).eval(),
        {"input_ids": IDS[1:], "maskable": torch.ones_like(IDS[1:]) > 0},
    )
    batch["input_ids"] = batch["input_ids"].where(batch["input_ids"] != MASK, 5)
    args = MaskedDiffusionTrainingArguments(
        str(tmp_path), use_cpu=True, report_to="none", loss_normalizer="masked", min_timestep=0.5
    )
    trainer = MaskedDiffusionTrainer(dream, args, train_dataset=[{"input_ids": [5, 6]}])
    noised = trainer.noised(batch, False)
    logits = Unshifted(dream)(noised.z).logits[noised.masked]
    posterior = logits.index_fill(1, torch.tensor([MASK]), -torch.inf)
    expected = nn.functional.cross_entropy(posterior, noised.targets)
    torch.testing.assert_close(trainer.compute_loss(dream, batch | {NOISED: noised}), expected)
    args = TokenCriticTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    critic = TokenCriticTrainer(
        copy.deepcopy(built("bert")), args, denoiser=dream, train_dataset=[{"input_ids": [5, 6]}]
    )
    torch.testing.assert_close(critic.read_denoiser(noised)(torch.arange(len(logits))), logits)


@pytest.mark.parametrize("model_type", sorted(set(REFUSED) & set(MODEL_FOR_MASKED_LM_MAPPING_NAMES)))
def test_other_masked_language_models_of_transformers_are_refused(model_type):
    with pytest.raises(ValueError, match=REFUSED[model_type]):
        adapter_of(SimpleNamespace(model_type=model_type), "Model")


@pytest.mark.parametrize("name", ["bert", "roberta", "esm", "electra", "rembert", "roformer"])
def test_a_causal_config_of_a_known_family_is_refused(name):
    backbone = copy.deepcopy(built(name).backbone)
    backbone.config.is_decoder = True
    with pytest.raises(ValueError, match="set is_decoder=False"):
        PrismForMaskedDiffusion(PrismConfig(backbone_config=backbone.config, mask_token_id=MASK), backbone)
    with pytest.raises(ValueError, match="set is_decoder=False"):
        remask_generate(backbone, IDS, mask_token_id=MASK)


def test_a_model_without_the_head_of_its_family_is_refused():
    config = BertConfig(**TINY)
    with pytest.raises(ValueError, match="BertModel has not the masked-LM head.*AutoModelForMaskedLM"):
        PrismForMaskedDiffusion(PrismConfig(backbone_config=config, mask_token_id=MASK), BertModel(config))


def test_a_mask_token_outside_the_vocabulary_is_refused():
    config = BertConfig(**TINY)
    with pytest.raises(ValueError, match="mask_token_id=40 is outside the 40 tokens"):
        PrismForMaskedDiffusion(PrismConfig(backbone_config=config, mask_token_id=VOCAB))


@pytest.mark.parametrize("settings", [{}, {"remask_strategy": "p2"}, {"remask_strategy": "random", "num_remask": 1}])
def test_a_shifted_family_is_read_at_the_left_neighbour(monkeypatch, settings):
    monkeypatch.setitem(BACKBONE_ADAPTERS, "shifted", BackboneAdapter(shifted_logits=True))
    torch.manual_seed(3)
    dream = ShiftedModel(ShiftedConfig()).eval()
    generate = {"max_new_tokens": 5, "attention_mask": REAL, "do_sample": True} | settings
    shifted, plain = (
        remask_generate(model, IDS, generator=torch.Generator().manual_seed(0), **generate)
        for model in (dream, Unshifted(dream))
    )
    assert torch.equal(shifted, plain)
    prism = PrismForMaskedDiffusion(PrismConfig(backbone_config=dream.config), dream).eval()
    with torch.no_grad():
        torch.testing.assert_close(prism(IDS, REAL).logits, Unshifted(dream)(IDS, REAL).logits)
    under_a_head = prism.generate(IDS, generator=torch.Generator().manual_seed(0), **generate)
    assert torch.equal(under_a_head, plain)


def test_a_family_of_ones_own_is_described_in_a_line(monkeypatch):
    monkeypatch.setitem(BACKBONE_ADAPTERS, "own", BackboneAdapter(through("cls.predictions.transform", torch.tanh)))

    class OwnConfig(BertConfig):
        model_type = "own"

    backbone = BertForMaskedLM(OwnConfig(**TINY)).eval()
    backbone.config.mask_token_id = MASK
    model = PrismForMaskedDiffusion(PrismConfig(backbone_config=backbone.config), backbone).eval()
    with torch.no_grad():
        states = backbone.cls.predictions.transform(backbone.bert(IDS).last_hidden_state).tanh()
        torch.testing.assert_close(model(IDS).logits, backbone.cls.predictions.decoder(states))
    remask_generate(backbone, IDS)
