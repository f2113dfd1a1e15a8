"""A tiny model in the layout of PyPI's antiberty, loaded as docs/how_to/antibodies.md loads the real one."""

import json

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertTokenizer

from prism_hf import PrismForMaskedDiffusion, load_model

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *RESIDUES]
# What the package's config says beside sizes.
CONFIG = {
    "architectures": ["AntiBERTy"],
    "gradient_checkpointing": False,
    "model_type": "bert",
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "transformers_version": "4.5.1",
    "use_cache": True,
    "vocab_size": 25,
}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SEQUENCE = "EVQLVESGGGLVQPGGSLRL"


@pytest.fixture
def published(tmp_path):
    """The folder of a model with the heads that the published one has, and a BERT of the same weights."""
    torch.manual_seed(0)
    bert = BertForMaskedLM(BertConfig(vocab_size=25, max_position_embeddings=64, **SIZES)).eval()
    weights = dict(bert.state_dict())
    weights["bert.embeddings.position_ids"] = torch.arange(64)[None]
    for name, rows in (("bert.pooler.dense", 16), ("cls.species", 6), ("cls.chain", 2), ("cls.graft", 2)):
        weights |= {f"{name}.weight": torch.randn(rows, 16), f"{name}.bias": torch.randn(rows)}
    folder = tmp_path / "AntiBERTy_md_smooth"
    folder.mkdir()
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(CONFIG | SIZES | {"max_position_embeddings": 64}))
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    return folder, bert


@torch.no_grad()
def test_it_loads_as_it_is_with_its_own_vocabulary(published):
    folder, bert = published
    BertTokenizer(str(folder.parent / "vocab.txt"), do_lower_case=False).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(" ".join(SEQUENCE), return_tensors="pt").input_ids
    assert ids[0].tolist() == [2, *(5 + RESIDUES.index(residue) for residue in SEQUENCE), 3]
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == " ".join(SEQUENCE)

    plain = load_model(folder)
    model = PrismForMaskedDiffusion.from_pretrained(folder, head_type="mlp")
    assert plain.config.mask_token_id == model.config.mask_token_id == tokenizer.mask_token_id == 4
    torch.testing.assert_close(plain(ids).logits, bert(ids).logits)
    torch.testing.assert_close(model(ids).logits, bert(ids).logits)
    masked = tokenizer(" ".join(SEQUENCE[:10]) + " [MASK]" * 4, return_tensors="pt").input_ids
    filled = model.generate(masked, remask_strategy="prism", steps=4, num_remask=1, suppress_tokens=[0, 1, 2, 3])
    assert torch.equal(filled[masked != 4], masked[masked != 4]) and (filled[masked == 4] > 4).all()
