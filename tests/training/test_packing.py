"""Packed documents are read, drafted, judged and learned as they are alone; which are packed together, TRL says."""

from itertools import product

import pytest
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    BertConfig,
    BertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RoFormerConfig,
    RoFormerForMaskedLM,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from prism_hf import (
    LladaConfig,
    LladaForMaskedDiffusion,
    MaskedDiffusionTrainer,
    MaskedDiffusionTrainingArguments,
    MdlmConfig,
    MdlmForMaskedDiffusion,
    PrismConfig,
    PrismForMaskedDiffusion,
    PrismTrainer,
    PrismTrainingArguments,
    TokenCriticTrainer,
    TokenCriticTrainingArguments,
)
from prism_hf._compat import use_attention
from prism_hf.training.data_preparation.collator import MaskedDiffusionCollator
from prism_hf.training.packing import PackedRows, packed_index

MASK, VOCAB = 0, 20
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "mask_token_id": MASK,
}
MODELS = {
    "bert": lambda: BertForMaskedLM(BertConfig(**SIZES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)),
    "modernbert": lambda: ModernBertForMaskedLM(
        ModernBertConfig(**SIZES, local_attention=4, global_attn_every_n_layers=2, pad_token_id=1)
    ),
    "llada": lambda: LladaForMaskedDiffusion(
        LladaConfig(
            d_model=16,
            n_layers=2,
            n_heads=2,
            mlp_hidden_size=24,
            vocab_size=VOCAB,
            mask_token_id=MASK,
            pad_token_id=1,
            eos_token_id=1,
        )
    ),
    "mdlm": lambda: MdlmForMaskedDiffusion(
        MdlmConfig(vocab_size=VOCAB, hidden_dim=16, n_blocks=2, n_heads=2, cond_dim=8, mask_token_id=MASK, dropout=0.0)
    ),
}
LENGTHS = [[9, 3, 6], [5], [2, 8]]  # of the documents in each packed row
DOCUMENTS = [
    {
        "input_ids": torch.randint(2, VOCAB, (size,), generator=torch.Generator().manual_seed(number)),
        "maskable": torch.arange(size) > 0,
    }
    for number, size in enumerate(size for row in LENGTHS for size in row)
]


def packed_rows():
    rows, left = [], list(DOCUMENTS)
    for sizes in LENGTHS:
        row, left = left[: len(sizes)], left[len(sizes) :]
        rows.append({name: torch.cat([each[name] for each in row]) for name in row[0]} | {"seq_lengths": sizes})
    return rows


def with_noise(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def prism(name):
    backbone = MODELS[name]()
    head = {"head_type": "dit", "head_num_blocks": 1} if name == "mdlm" else {}
    return with_noise(PrismForMaskedDiffusion(PrismConfig(backbone_config=backbone.config, **head), backbone))


def attention_by_ends(module, query, key, value, attention_mask, scaling, cu_seq_lens_q=None, **kwargs):
    """What flash attention computes of documents that end at `cu_seq_lens_q` among all B * L tokens."""
    assert attention_mask is None
    batch, _, length, _ = query.shape
    query, key, value = (states.transpose(1, 2).flatten(0, 1).transpose(0, 1) for states in (query, key, value))
    number = torch.arange(batch * length)
    document = number // length if cu_seq_lens_q is None else torch.bucketize(number, cu_seq_lens_q, right=True)
    sees = document[:, None] == document
    if kwargs.get("sliding_window"):
        sees &= (number[:, None] - number).abs() < kwargs["sliding_window"]
    scores = (query @ key.mT * scaling).masked_fill(~sees, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(0, 1).unflatten(0, (batch, length)), None


ALL_ATTENTION_FUNCTIONS.register("flash of ours", attention_by_ends)


@pytest.mark.parametrize(
    "name, attention",
    [*product(MODELS, ["sdpa", "eager", "flash of ours"]), ("llada", "flex_attention")],
)
@torch.no_grad()
def test_a_packed_document_is_read_as_alone(name, attention):
    model = prism(name).eval()
    model = model if attention == "flex_attention" else model.double()
    if attention == "flash of ours":
        use_attention(model.backbone.config, attention)
    else:
        model.set_attn_implementation(attention)
    size = (len(DOCUMENTS), 9)
    ids = pad_sequence([each["input_ids"] for each in DOCUMENTS], batch_first=True)
    ids = torch.cat([ids, ids.flip(1).where(ids > 0, 0)])  # two canvases of each document, as two drafts are
    rows = PackedRows(packed_index(LENGTHS, 9, multiple=4), size)
    keep = torch.arange(9) % 2 == 0
    real = (torch.arange(9) < torch.tensor([[len(each["input_ids"])] for each in DOCUMENTS])).repeat(2, 1)
    places = torch.cat([rows.places(half) for half in (keep & real).chunk(2)])
    found = model(**rows.inputs(ids, model), logits_to_keep=places)
    quality = rows.by_row(found.quality_logits)
    expected, of_kept = torch.zeros_like(quality), []
    for number, (canvas, is_real) in enumerate(zip(ids, real, strict=True)):
        alone = model(canvas[is_real][None])
        expected[number, is_real] = alone.quality_logits[0]
        of_kept.append(alone.logits[0, keep[is_real.nonzero().flatten()]])
    torch.testing.assert_close(quality, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.logits, torch.cat(of_kept), atol=1e-6, rtol=1e-5)


KINDS = {
    "masked_diffusion": (MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments, {}),
    "prism": (PrismTrainer, PrismTrainingArguments, {"num_draft_tokens": 3, "num_drafts": 2, "draft_steps": 2}),
    "token_critic": (TokenCriticTrainer, TokenCriticTrainingArguments, {}),
}


@pytest.fixture
def trainer_of(arguments):
    def build(kind, name="llada", **settings):
        trainer_class, arguments_class, own = KINDS[kind]
        model = with_noise(MODELS[name]()) if kind == "masked_diffusion" else prism(name)
        others = {"denoiser": with_noise(MODELS["bert"]())} if kind == "token_critic" else {}
        args = arguments(arguments_class, **own, **settings)
        return trainer_class(model, args, data_collator=MaskedDiffusionCollator(1), **others)

    return build


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_batch_is_learned_as_the_padded_one(kind, name, trainer_of):
    """With the same masks and drafts, which depend on the number of a document alone."""
    found = []
    for rows in (DOCUMENTS, packed_rows()):
        trainer = trainer_of(kind, name)
        loss = trainer.training_step(trainer.model, trainer.data_collator(rows))
        gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
        found.append({"loss": loss, **gradients})
    assert found[0].keys() == found[1].keys()
    for part, value in found[0].items():
        torch.testing.assert_close(found[1][part], value, atol=1e-6, rtol=1e-4, msg=part)


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_of_packed_rows_is_that_of_their_documents(kind, trainer_of):
    trainer = trainer_of(kind, per_device_eval_batch_size=2)
    padded, packed = trainer.predict(DOCUMENTS), trainer.predict(packed_rows())
    for name, value in padded.metrics.items():
        if not name.endswith(("runtime", "per_second", "preparation_time")):
            assert packed.metrics[name] == pytest.approx(value, rel=1e-4, nan_ok=True), name
    assert (packed.label_ids == padded.label_ids).all()
    assert packed.predictions == pytest.approx(padded.predictions, rel=1e-3, abs=1e-5)


def test_the_first_packed_rows_are_generated(arguments):
    settings = {"packing": True, "max_length": 10, "predict_with_generate": True, "num_eval_generations": 2}
    args = arguments(MaskedDiffusionTrainingArguments, **settings)
    dataset = Dataset.from_list([{"input_ids": [*range(2, 2 + size)]} for size in (3, 9, 4, 3)])
    trainer = MaskedDiffusionTrainer(with_noise(MODELS["llada"]()), args, eval_dataset=dataset)
    packed = trainer.eval_dataset["seq_lengths"]
    labels = trainer.predict(trainer.eval_dataset).label_ids
    assert [(row != -100).sum() for row in labels] == [size for sizes in packed[:2] for size in sizes]


@pytest.mark.parametrize(
    "settings, problem",
    [
        ({"max_length": None}, "needs max_length"),
        ({"learn_padding": True}, "choose one"),
        ({"accelerator_config": {"dispatch_batches": True}}, "dispatch_batches=True parts"),
    ],
)
def test_what_contradicts_packing_is_told(settings, problem, arguments):
    with pytest.raises(ValueError, match=problem):
        arguments(PrismTrainingArguments, packing=True, **settings)


@pytest.mark.parametrize("which", ["packing", "eval_packing"])
def test_a_model_that_would_mix_documents_is_refused_before_training(which, arguments):
    args = arguments(MaskedDiffusionTrainingArguments, **{which: True})
    config = RoFormerConfig(**SIZES, embedding_size=16)
    with pytest.raises(ValueError, match="would see each other in a model of the family 'roformer'"):
        MaskedDiffusionTrainer(RoFormerForMaskedLM(config), args)


def test_rows_that_are_not_made_of_their_documents_are_named(trainer_of):
    row = packed_rows()[0]
    with pytest.raises(ValueError, match=r"A packed row of 18 tokens has seq_lengths \[9, 3\]"):
        trainer_of("prism").data_collator([row | {"seq_lengths": [9, 3]}])
