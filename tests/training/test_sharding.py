from types import SimpleNamespace

import pytest
from transformers import BertConfig, BertForMaskedLM

from prism_hf import LladaConfig, LladaForMaskedDiffusion, PrismConfig, PrismForMaskedDiffusion
from prism_hf.training.sharding import take_units

SHAPE = {"vocab_size": 9, "mask_token_id": 8}
BERT = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, **SHAPE)
LLADA = LladaConfig(d_model=8, n_layers=1, n_heads=1, mlp_hidden_size=8, eos_token_id=0, **SHAPE)


def accelerator(names=None):
    """Its `prepare` tells which of the model's embeddings it finds."""
    return SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=SimpleNamespace(transformer_cls_names_to_wrap=names)),
        prepare=lambda model: [model.get_input_embeddings(), model.get_output_embeddings()],
    )


@pytest.mark.parametrize(
    ("model", "names", "by_themselves"),
    [
        (BertForMaskedLM(BERT), ["BertLayer"], False),  # the bias of its LM head has two names
        (PrismForMaskedDiffusion(PrismConfig(backbone_config=BERT)), ["BertLayer"], False),
        (LladaForMaskedDiffusion(LLADA), ["LladaLayer"], True),
    ],
)
def test_no_parameter_is_sharded_twice(model, names, by_themselves):
    user = accelerator()
    take_units(user, model)
    assert user.state.fsdp_plugin.transformer_cls_names_to_wrap == names
    embeddings = [model.get_input_embeddings(), model.get_output_embeddings()]
    assert user.prepare(model) == (embeddings if by_themselves else [None, None])
    assert [model.get_input_embeddings(), model.get_output_embeddings()] == embeddings


def test_names_of_the_user_stay():
    user = accelerator(["BertEmbeddings"])
    take_units(user, BertForMaskedLM(BERT))
    assert user.state.fsdp_plugin.transformer_cls_names_to_wrap == ["BertEmbeddings"]
