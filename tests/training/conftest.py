import copy

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from prism_hf.models.prism import PrismConfig, PrismForMaskedDiffusion

MASK, VOCAB, LENGTH = 0, 9, 10
BACKBONE = BertConfig(
    vocab_size=VOCAB,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=LENGTH,
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
    mask_token_id=MASK,
)


class Sequences(torch.utils.data.Dataset):
    """Random sequences of which every second token may be masked, and which repeat themselves."""

    def __init__(self, size, seed=0):
        half = torch.randint(1, VOCAB, (size, LENGTH // 2), generator=torch.Generator().manual_seed(seed))
        self.input_ids = torch.cat([half, half], dim=1)
        self.maskable = torch.arange(LENGTH) % 3 > 0

    def __len__(self):
        return len(self.input_ids)

    def __getitem__(self, index):
        return {"input_ids": self.input_ids[index], "maskable": self.maskable}


@pytest.fixture
def sequences():
    return Sequences


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return BertForMaskedLM(copy.deepcopy(BACKBONE))


@pytest.fixture
def prism():
    torch.manual_seed(0)
    return PrismForMaskedDiffusion(PrismConfig(backbone_config=copy.deepcopy(BACKBONE)))


@pytest.fixture
def arguments(tmp_path):
    """Trainer arguments for a short run on CPU."""

    def build(cls, **kwargs):
        defaults = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 8,
            "max_steps": 6,
            "logging_steps": 1,
            "learning_rate": 1e-2,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "seed": 0,
        }
        return cls(**(defaults | kwargs))

    return build
