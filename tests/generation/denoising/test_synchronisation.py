"""The loop never waits for the device: the number of host synchronisations does not grow with the steps."""

from collections import Counter

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from prism_hf.generation import STRATEGIES, ScoreStrategy, remask_generate
from prism_hf.models.mdlm import MdlmConfig
from prism_hf.models.prism import PrismConfig, PrismForMaskedDiffusion

MASK = 19
WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "item", "unique", "equal")
METHODS = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__")


class Waits(TorchDispatchMode):
    """Counts operations whose result the host must wait for, and calls that would copy it there."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.counts = Counter()
        for name in METHODS:
            monkeypatch.setattr(torch.Tensor, name, self.counted(name, getattr(torch.Tensor, name)))

    def counted(self, name, method):
        def call(tensor, *args, **kwargs):
            self.counts[name] += 1
            return method(tensor, *args, **kwargs)

        return call

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        if name in WAITING:
            self.counts[name] += 1
        if name in ("index", "index_put", "index_put_") and any(
            at is not None and at.dtype == torch.bool for at in args[1]
        ):
            self.counts["boolean index"] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = MdlmConfig(vocab_size=20, hidden_dim=16, cond_dim=8, n_blocks=1, n_heads=2)
    return PrismForMaskedDiffusion(PrismConfig(backbone_config=config, head_type="dit", mask_token_id=MASK)).eval()


def count(model, monkeypatch, **settings):
    prompts = torch.arange(10).view(2, 5)
    generator = torch.Generator().manual_seed(0)
    with monkeypatch.context() as patched, Waits(patched) as waits:
        remask_generate(model, prompts, max_new_tokens=16, generator=generator, **settings)
    return waits.counts


def is_joint(strategy):
    return not issubclass(strategy, ScoreStrategy)


RECORD = {"return_dict_in_generate": True, "output_trajectory": True}
SETTINGS = {
    "confidence": {},
    "margin": {"order": "margin", "remask_strategy": "prism", "num_remask": 1},
    "entropy": {"order": "entropy", "remask_strategy": "prism", "num_remask": 1, "quality_threshold": 0.5},
    "random": {"order": "random", "remask_strategy": "random", "eta": 0.2},
    "sampled": {"order": "left_to_right", "do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.9},
    "guided": {"cfg_scale": 1.0, "suppress_tokens": [3], "bad_words_ids": [[4], [5, 6], [1, 2, 3]]},
    "loop": {"loop_start": 3, "loop_steps": 2, "num_remask_loop": 2},
    "recorded": {
        "return_dict_in_generate": True,
        "output_trajectory": True,
        "remask_strategy": "prism",
        "num_remask": 1,
    },
    "padded": {"attention_mask": torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]]), "order": "margin"},
    "blocks": {"block_length": 4, "remask_strategy": "prism", "num_remask": 2},
    "prefix": {
        "attention_mask": torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]]),
        "block_length": 4,
        "cache_implementation": "prefix",
        "remask_strategy": "prism",
        "num_remask": 2,
    },
    "dual": {"block_length": 4, "cache_implementation": "dual", "cache_refresh_interval": 3, "cfg_scale": 1.0},
    **{name: {"remask_strategy": name, "block_length": 8} for name in STRATEGIES if is_joint(STRATEGIES[name])},
    "loop in blocks": {"remask_strategy": "prism_loop", "block_length": 8},
    "named": {"remask_strategy": "prism", "block_length": 4},
    "conf, sampled": {"remask_strategy": "remdm_conf", "do_sample": True, "top_p": 0.9},
    "prism_loop": {
        "remask_strategy": "prism_loop",
        "num_remask": 1,
        "loop_start": 3,
        "loop_steps": 2,
        "num_remask_loop": 2,
    },
}


@pytest.mark.parametrize("name", SETTINGS)
def test_as_many_waits_for_eight_steps_as_for_thirty(model, monkeypatch, name):
    critic = {"critic": model} if name == "token_critic" else {}
    few, many = (count(model, monkeypatch, steps=steps, **SETTINGS[name], **critic) for steps in (8, 30))
    assert few == many and sum(few.values()) < 20


def test_the_counter_sees_what_waits(monkeypatch):
    with monkeypatch.context() as patched, Waits(patched) as waits:
        numbers = torch.arange(4)
        bool(numbers[0] > 0), numbers.sum().item(), numbers.tolist(), numbers[numbers > 1], (numbers > 1).nonzero()
        numbers.masked_select(numbers > 2)
    assert {"__bool__", "item", "tolist", "boolean index", "nonzero", "masked_select"} <= set(waits.counts)


def test_an_end_of_sequence_is_looked_for_once_a_block(model, monkeypatch):
    never = {"eos_token_id": 18, "suppress_tokens": [18]}
    plain = count(model, monkeypatch, steps=32, block_length=4)
    ending = count(model, monkeypatch, steps=32, block_length=4, **never)
    assert ending["__bool__"] - plain["__bool__"] == 3  # four blocks, nothing to stop after the last


@pytest.mark.parametrize("vocabulary", [20, 40])
def test_no_tensor_spans_positions_and_vocabulary(vocabulary):
    """With 48 positions and 4 a block, nothing as large as the logits of all positions is made."""
    torch.manual_seed(0)
    config = MdlmConfig(vocab_size=vocabulary, hidden_dim=16, cond_dim=8, n_blocks=1, n_heads=2)
    model = PrismForMaskedDiffusion(PrismConfig(backbone_config=config, head_type="dit", mask_token_id=MASK)).eval()

    class Largest(TorchDispatchMode):
        rows = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.ndim >= 2 and out.shape[-1] == vocabulary:
                self.rows = max(self.rows, out.numel() // vocabulary)
            return out

    joint = [(settings, 2 * 4) for settings in ({"remask_strategy": "remdm_cap"}, {"remask_strategy": "p2"})]
    for settings, most in (({}, 2 * 4), ({"order": "random"}, 2), *joint):
        with Largest() as largest:
            remask_generate(model, torch.full((2, 48), MASK), block_length=4, steps=48, **settings)
        # The LM head's own weight has 16 rows.
        assert largest.rows <= max(most, 16)


def test_a_compiled_model_is_compiled_once_for_all_steps(model):
    """Fully captured, in three graphs whatever the number of steps: W as it first is, any W, and 1."""
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled, prompts = torch.compile(model, backend=counter, fullgraph=True), torch.arange(10).view(2, 5)
    for length in (8, 6):
        settings = {"max_new_tokens": 24, "block_length": length, "remask_strategy": "prism", "num_remask": 2}
        assert torch.equal(remask_generate(compiled, prompts, **settings), remask_generate(model, prompts, **settings))
    assert counter.frame_count == 3
    torch._dynamo.reset()
