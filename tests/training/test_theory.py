"""The quality head learns the posterior probability of each token: exact on a distribution that is known."""

import itertools

import torch
from transformers import BertConfig

from prism_hf.models.prism import PrismConfig, PrismForMaskedDiffusion
from prism_hf.training import PrismTrainer, PrismTrainingArguments

POSITIONS, SYMBOLS, MASK = 4, 3, 3
WORDS = torch.tensor(list(itertools.product(range(SYMBOLS), repeat=POSITIONS)))  # (81, 4)


def joint_table(seed=0):
    """A random joint distribution over the 81 words."""
    weights = torch.rand(len(WORDS), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).pow(3)
    return weights / weights.sum()


def exact_quality(table, canvas, position):
    """`Pr[x_i = y_i | y with i masked]`, by summing the table."""
    visible = [j for j in range(POSITIONS) if canvas[j] != MASK and j != position]
    agrees = (WORDS[:, visible] == canvas[visible]).all(-1)
    return (table[agrees & (WORDS[:, position] == canvas[position])].sum() / table[agrees].sum()).item()


class Words(torch.utils.data.Dataset):
    def __init__(self, table, size, seed):
        drawn = torch.multinomial(table, size, replacement=True, generator=torch.Generator().manual_seed(seed))
        self.words = WORDS[drawn]

    def __len__(self):
        return len(self.words)

    def __getitem__(self, index):
        return {"input_ids": self.words[index]}


def test_quality_is_the_posterior_of_the_token(tmp_path):
    table = joint_table()
    torch.manual_seed(0)
    backbone = BertConfig(
        vocab_size=4, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        max_position_embeddings=4, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, mask_token_id=MASK,
    )  # fmt: skip
    model = PrismForMaskedDiffusion(PrismConfig(backbone_config=backbone))
    steps, batch = 1200, 256
    args = PrismTrainingArguments(
        str(tmp_path), per_device_train_batch_size=batch, max_steps=steps, learning_rate=2e-3, warmup_steps=50,
        lr_scheduler_type="cosine", num_draft_tokens=1, unmasking_weight=1.0, loss_normalizer="masked",
        report_to="none", save_strategy="no", use_cpu=True, logging_steps=200,
    )  # fmt: skip
    PrismTrainer(model, args, train_dataset=Words(table, steps * batch, seed=1)).train()

    canvases = torch.tensor(list(itertools.product(range(SYMBOLS + 1), repeat=POSITIONS)))
    with torch.no_grad():
        quality = model.eval()(canvases).quality_logits.sigmoid()
    errors = [
        abs(quality[row, i].item() - exact_quality(table, canvas, i))
        for row, canvas in enumerate(canvases)
        for i in range(POSITIONS)
        if canvas[i] != MASK
    ]
    assert len(errors) == 4**3 * 3 * 4
    assert sum(errors) / len(errors) < 0.03
