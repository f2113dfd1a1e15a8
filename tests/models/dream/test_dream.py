"""Dream against transformers' own Qwen2, from which it differs by attention and by where its logits are."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForMaskedLM, Qwen2Config, Qwen2ForCausalLM

from prism_hf import PrismForMaskedDiffusion, load_model, remask_generate
from prism_hf.evaluation import Continuation, log_likelihood_bound
from prism_hf.models.dream import DreamConfig, DreamForMaskedDiffusion
from prism_hf.models.prism import PrismConfig

MASK = 4
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"num_key_value_heads": 1, "vocab_size": 40, "pad_token_id": 0, "eos_token_id": 1}
IDS = torch.tensor([[5, 6, 7, MASK, MASK, 9], [8, MASK, 10, 11, MASK, 12]])


@pytest.fixture(scope="module")
def qwen():
    """Qwen2 in both directions, as transformers has it."""
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES, is_causal=False, initializer_range=0.3)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return model


@pytest.fixture(scope="module")
def folder(qwen, tmp_path_factory):
    """A checkpoint as Dream's are published, of a `model_type` whose code is remote."""
    folder = tmp_path_factory.mktemp("dream")
    qwen.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    for name in ("is_causal", "rope_parameters", "layer_types", "use_cache", "transformers_version"):
        config.pop(name, None)
    config |= {"model_type": "Dream", "architectures": ["DreamModel"], "mask_token_id": MASK, "rope_theta": 10000.0}
    config["auto_map"] = {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").unlink(missing_ok=True)
    return str(folder)


def test_a_published_checkpoint_gives_qwens_logits_in_both_directions(qwen, folder, tmp_path):
    for model in (load_model(folder), load_model(folder, trust_remote_code=True)):  # ours, whoever is trusted
        assert type(model) is DreamForMaskedDiffusion and not model.config.is_causal
        real = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
        for mask in (None, real):
            found = model(IDS, attention_mask=mask).logits
            torch.testing.assert_close(found, qwen(IDS, attention_mask=mask, use_cache=False).logits)
    changed = IDS.clone()
    changed[:, -1] = 20
    assert (model(changed).logits[:, 0] != model(IDS).logits[:, 0]).any()
    model.save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_a_mask_is_filled_from_the_position_before(folder):
    model = load_model(folder)
    columns = torch.tensor([[1, 3], [0, 2]])
    logits = model(IDS).logits
    torch.testing.assert_close(
        model(IDS, logits_to_keep=columns).logits, logits.gather(1, columns[..., None].expand(2, 2, 40))
    )
    shifted = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
    shifted[..., MASK] = -torch.inf
    expected = torch.where(IDS == MASK, shifted.argmax(-1), IDS)
    assert torch.equal(model.generate(IDS, steps=1), expected)
    assert torch.equal(remask_generate(model, IDS, steps=1), expected)


def test_likelihoods_read_the_position_before(folder):
    model = load_model(folder)
    (bound,) = log_likelihood_bound(model, [Continuation([5, 6], [7])], MASK, mc_num=1, mc_batch_size=1)
    assert bound == pytest.approx(model(torch.tensor([[5, 6, MASK]])).logits[0, 1].log_softmax(-1)[7].item(), abs=1e-5)


def test_a_quality_head_and_an_adapter_go_on_it(folder):
    model = PrismForMaskedDiffusion.from_pretrained(folder).eval()
    backbone = load_model(folder)
    logits = backbone(IDS).logits
    shifted = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
    masked = IDS == MASK
    torch.testing.assert_close(model(IDS).logits[masked], shifted[masked])
    wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=["quality_head"]))
    assert not (wrapped.generate(IDS, remask_strategy="prism", steps=6) == MASK).any()
    config = PrismConfig(backbone_config=DreamConfig(**SIZES, mask_token_id=MASK), mask_token_id=MASK)
    assert PrismForMaskedDiffusion(config).config.backbone_config.model_type == "Dream"


def test_the_vocabulary_grows_and_the_mask_stays(folder):
    model = load_model(folder)
    before = model(IDS).logits
    model.resize_token_embeddings(50)
    assert model.config.vocab_size == 50 and model.config.mask_token_id == MASK
    torch.testing.assert_close(model(IDS).logits[..., :40], before)
