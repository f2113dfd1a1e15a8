"""Two gloo processes that share every layer, by transformers' own `distributed_config`, against one process."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed
from transformers.distributed import DistributedConfig

from prism_hf.models.llada import LladaConfig, LladaForMaskedDiffusion
from prism_hf.models.prism import PrismForMaskedDiffusion

FIXTURE = Path(__file__).parents[2] / "fixtures" / "llada_tiny"
GOLDEN = load_file(FIXTURE / "expected.safetensors")
IDS = GOLDEN["input_ids"]
HALVES = DistributedConfig(tp_size=2)

pytestmark = pytest.mark.skipif(torch.accelerator.is_available(), reason="transformers would use the accelerator")


def member(rank, folder, compute):
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    with torch.no_grad():
        save_file(compute(), folder / f"rank{rank}.safetensors")
    distributed.destroy_process_group()


def on_two_processes(folder, compute):
    """The tensors that `compute` returns, on each rank."""
    torch.multiprocessing.start_processes(member, (folder, compute), nprocs=2, start_method="fork")
    return [load_file(folder / f"rank{rank}.safetensors") for rank in (0, 1)]


def assert_shared(backbone):
    """Each process holds half of the heads, of the MLP and of the vocabulary."""
    layer, whole = backbone.model.layers[0], LladaConfig.from_pretrained(FIXTURE)
    for weight, shape in (
        (layer.self_attn.q_proj.weight, (whole.d_model // 2, whole.d_model)),
        (layer.mlp.down_proj.weight, (whole.d_model, whole.mlp_hidden_size // 2)),
        (backbone.lm_head.weight, (whole.embedding_size // 2, whole.d_model)),
    ):
        assert tuple(weight.to_local().shape) == shape


def test_llada_gives_the_golden_logits(tmp_path):
    real = torch.ones_like(IDS)
    real[0, :3] = 0
    keep = IDS % 3 == 0

    def compute():
        model = LladaForMaskedDiffusion.from_pretrained(FIXTURE, distributed_config=HALVES).eval()
        assert_shared(model)
        model.save_pretrained(tmp_path / "saved")
        kept = model(IDS, logits_to_keep=keep).logits
        return {"logits": model(IDS).logits, "padded": model(IDS, real).logits, "kept": kept}

    model = LladaForMaskedDiffusion.from_pretrained(FIXTURE).eval()
    with torch.no_grad():
        padded = model(IDS, real).logits
    for outputs in on_two_processes(tmp_path, compute):
        torch.testing.assert_close(outputs["logits"], GOLDEN["logits"], atol=1e-5, rtol=0)
        torch.testing.assert_close(outputs["kept"], GOLDEN["logits"][keep], atol=1e-5, rtol=0)
        torch.testing.assert_close(outputs["padded"][real == 1], padded[real == 1], atol=1e-5, rtol=0)
    saved, published = (load_file(folder / "model.safetensors") for folder in (tmp_path / "saved", FIXTURE))
    assert saved.keys() == published.keys()
    assert all(torch.equal(saved[name], weight) for name, weight in published.items())


@pytest.mark.parametrize("saved", [True, False], ids=["saved", "bare"])
def test_prism_gives_the_logits_and_qualities_of_one_process(tmp_path, saved):
    """A saved model, and a bare backbone whose head, drawn at random, is the same on both processes."""
    model = PrismForMaskedDiffusion.from_pretrained(FIXTURE, head_type="mlp")
    model.save_pretrained(tmp_path / "prism")
    folder = tmp_path / "prism" if saved else FIXTURE

    def compute():
        torch.manual_seed(0)
        model = PrismForMaskedDiffusion.from_pretrained(folder, distributed_config=HALVES).eval()
        assert_shared(model.backbone)
        model.save_pretrained(tmp_path / "again")
        output = model(IDS)
        canvas = IDS.clone()
        canvas[:, -4:] = model.config.mask_token_id
        tokens = model.generate(canvas, steps=4, remask_strategy="prism", num_remask=1)
        return {"logits": output.logits, "quality_logits": output.quality_logits, "tokens": tokens}

    one, two = on_two_processes(tmp_path, compute)
    assert all(torch.equal(one[name], two[name]) for name in one)
    torch.testing.assert_close(one["logits"], GOLDEN["logits"], atol=1e-5, rtol=0)
    again = PrismForMaskedDiffusion.from_pretrained(tmp_path / "again").eval()
    with torch.no_grad():
        quality_logits = again(IDS).quality_logits
    torch.testing.assert_close(one["quality_logits"], quality_logits, atol=1e-5, rtol=0)
    if saved:
        assert all(torch.equal(again.state_dict()[name], weight) for name, weight in model.state_dict().items())
