"""What is learned and what an evaluation tells, on a distribution that is known: qualities, and the bound."""

import itertools
import math

import pytest
import torch
from scipy.special import beta
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput

from prism_hf.models.prism import BACKBONE_ADAPTERS, BackboneAdapter, PrismConfig, PrismForMaskedDiffusion
from prism_hf.training import (
    MaskedDiffusionTrainer,
    MaskedDiffusionTrainingArguments,
    PrismTrainer,
    PrismTrainingArguments,
    TokenCriticTrainer,
    TokenCriticTrainingArguments,
)

POSITIONS, SYMBOLS, MASK = 4, 3, 3
WORDS = torch.tensor(list(itertools.product(range(SYMBOLS), repeat=POSITIONS)))  # (81, 4)


def joint_table(seed=0):
    """A random joint distribution over the 81 words."""
    weights = torch.rand(len(WORDS), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).pow(2)
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

    def __getitems__(self, indices):
        return [self.words[indices]]  # all rows of a batch at once

    def __getitem__(self, index):
        return self.words[index : index + 1]


def batch_of(parts):
    return {"input_ids": torch.cat(parts)}


BACKBONE_ADAPTERS["test_table"] = BackboneAdapter()


class TableConfig(PreTrainedConfig):
    model_type = "test_table"
    vocab_size: int = SYMBOLS + 1
    hidden_size: int = 16
    mask_token_id: int | None = MASK


class TableBody(PreTrainedModel):
    """A free vector for each canvas and position: it can represent any function, so what it learns is the loss's."""

    config_class = TableConfig

    def __init__(self, config):
        super().__init__(config)
        self.table = nn.Embedding((SYMBOLS + 1) ** POSITIONS, POSITIONS * config.hidden_size)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, **kwargs):
        code = (input_ids * (SYMBOLS + 1) ** torch.arange(POSITIONS)).sum(-1)
        return BaseModelOutput(last_hidden_state=self.table(code).unflatten(-1, (POSITIONS, -1)))


class TableForMaskedLM(PreTrainedModel):
    config_class = TableConfig
    base_model_prefix = "body"

    def __init__(self, config):
        super().__init__(config)
        self.body = TableBody(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_output_embeddings(self):
        return self.lm_head


def test_quality_is_the_posterior_of_the_token(tmp_path):
    table = joint_table()
    torch.manual_seed(0)
    model = PrismForMaskedDiffusion(PrismConfig(backbone_config=TableConfig()), TableForMaskedLM(TableConfig()))
    steps, batch = 600, 512
    args = PrismTrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=batch,
        max_steps=steps,
        learning_rate=2e-2,
        lr_scheduler_type="cosine",
        num_draft_tokens=1,
        num_drafts=4,
        unmasking_weight=1.0,
        loss_normalizer="masked",
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        logging_steps=200,
        seed=0,
    )
    words = Words(table, steps * batch, seed=1)
    PrismTrainer(model, args, data_collator=batch_of, train_dataset=words).train()

    canvases = torch.tensor(list(itertools.product(range(SYMBOLS + 1), repeat=POSITIONS)))
    with torch.no_grad():
        quality = model.eval()(canvases).quality_logits.sigmoid()
    learned, exact = [], []
    for row, canvas in enumerate(canvases):
        for i in range(POSITIONS):
            if canvas[i] != MASK:
                learned.append(quality[row, i].item())
                exact.append(exact_quality(table, canvas, i))
    learned, exact = torch.tensor(learned), torch.tensor(exact)
    assert len(exact) == 4**3 * 3 * 4
    error, error_of_the_mean = (learned - exact).abs().mean(), (exact.mean() - exact).abs().mean()
    assert error < 0.03, error
    assert error_of_the_mean > 0.1  # what a head that learned nothing but the average would have


def exact_posterior(table, canvas):
    """`Pr[x_i = v | the clean tokens of the canvas]` for each position and symbol, (4, 3)."""
    visible = canvas != MASK
    weight = table * (WORDS[:, visible] == canvas[visible]).all(-1)
    return torch.stack([(weight[:, None] * (v == WORDS)).sum(0) for v in range(SYMBOLS)], dim=-1) / weight.sum()


class ExactDenoiser(PreTrainedModel):
    """The posteriors of the table itself."""

    config_class = TableConfig

    def __init__(self, config, table):
        super().__init__(config)
        canvases = torch.tensor(list(itertools.product(range(SYMBOLS + 1), repeat=POSITIONS)))
        posteriors = torch.stack([exact_posterior(table, canvas) for canvas in canvases])
        self.register_buffer("log_posteriors", nn.functional.pad(posteriors, (0, 1)).log())

    def forward(self, input_ids, attention_mask=None):
        code = (input_ids * (SYMBOLS + 1) ** torch.arange(POSITIONS - 1, -1, -1)).sum(-1)
        return MaskedLMOutput(logits=self.log_posteriors[code])


def exact_judgement(table, published):
    """`Pr[x_i = y_i | y, i was masked]` (81, 4), drafts weighted by w(t), by summing over x, the masks and y.

    A set of k masks weighs `int w(t) t^k (1-t)^(4-k) dt`, a beta function, under w = 1/t as well as w = 1.
    """
    right, total = torch.zeros(2, len(WORDS), POSITIONS, dtype=torch.float64)
    for masked in torch.tensor(list(itertools.product([False, True], repeat=POSITIONS))):
        k = int(masked.sum())
        if k == 0:
            continue
        weight = beta(k if published else k + 1, POSITIONS - k + 1)
        for x, probability in zip(WORDS, table, strict=True):
            posterior = exact_posterior(table, x.masked_fill(masked, MASK))
            drafted = posterior[torch.arange(POSITIONS), WORDS][:, masked].prod(-1)  # of each word y, given x and masks
            drafted = weight * probability * drafted * (WORDS[:, ~masked] == x[~masked]).all(-1)
            total += drafted[:, None] * masked
            right += drafted[:, None] * masked * (x == WORDS)
    return right / total


@pytest.mark.parametrize("normalizer", ["sequence", pytest.param("masked", marks=pytest.mark.slow)])
def test_critic_is_the_posterior_given_the_whole_draft(tmp_path, normalizer):
    table = joint_table()
    torch.manual_seed(0)
    critic = PrismForMaskedDiffusion(
        PrismConfig(backbone_config=TableConfig(), head_type="linear"), TableForMaskedLM(TableConfig())
    )
    steps, batch = 500, 512
    args = TokenCriticTrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=batch,
        max_steps=steps,
        learning_rate=1e-2,
        lr_scheduler_type="cosine",
        loss_normalizer=normalizer,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        logging_steps=200,
        seed=0,
    )
    denoiser = ExactDenoiser(TableConfig(), table)
    words = Words(table, steps * batch, seed=1)
    TokenCriticTrainer(critic, args, batch_of, denoiser=denoiser, train_dataset=words).train()
    with torch.no_grad():
        learned = critic.eval()(WORDS).quality_logits.sigmoid()

    def error(exact):
        return ((learned - exact).abs().mean(-1) * table).sum().item()

    own, other = (exact_judgement(table, published) for published in (normalizer == "sequence", normalizer == "masked"))
    print(normalizer, error(own), error(other), error(own.mean()))
    assert error(own) < 0.02
    assert error(own) < 0.6 * error(other)
    assert error(own.mean()) > 3 * error(own)


def exact_model(table):
    """A model whose posteriors are those of the table."""
    model = TableForMaskedLM(TableConfig())
    canvases = torch.tensor(list(itertools.product(range(SYMBOLS + 1), repeat=POSITIONS)))
    code = (canvases * (SYMBOLS + 1) ** torch.arange(POSITIONS)).sum(-1)
    posteriors = torch.stack([exact_posterior(table, canvas) for canvas in canvases])
    with torch.no_grad():
        states = nn.functional.pad(posteriors.clamp(min=1e-20).log(), (0, TableConfig.hidden_size - SYMBOLS)).float()
        model.body.table.weight[code] = states.flatten(1)
        model.lm_head.weight.copy_(torch.eye(SYMBOLS + 1, TableConfig.hidden_size))
        model.lm_head.bias.zero_()
    return PrismForMaskedDiffusion(PrismConfig(backbone_config=TableConfig()), model)


@pytest.mark.parametrize(
    "trainer_class, args_class",
    [(MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments), (PrismTrainer, PrismTrainingArguments)],
)
@pytest.mark.parametrize("settings", [{}, {"loss_normalizer": "masked", "noise_schedule": "cosine"}])
def test_with_exact_posteriors_the_bound_is_the_likelihood(tmp_path, trainer_class, args_class, settings):
    """Averaged over orders, the chain rule holds in each: the bound is tight then."""
    table = joint_table()
    drawn = torch.multinomial(table, 300, replacement=True, generator=torch.Generator().manual_seed(1))
    expected = math.exp(-table[drawn].log().mean() / POSITIONS)
    settings = {"per_device_eval_batch_size": 300, "num_eval_masks": 100, "num_draft_tokens": 1} | settings
    settings = {name: value for name, value in settings.items() if name in args_class.__dataclass_fields__}
    args = args_class(str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True, **settings)
    rows = [{"input_ids": word} for word in WORDS[drawn]]
    found = trainer_class(exact_model(table), args, batch_of_rows, eval_dataset=rows).evaluate()
    low, high = found["eval_perplexity_low"], found["eval_perplexity_high"]
    assert found["eval_perplexity"] == pytest.approx(expected, rel=0.01)
    assert (math.exp(found["eval_unmasking_loss"]) > 1.04 * expected) == ("loss_normalizer" in settings)
    assert low < math.exp(-(table * table.log()).sum() / POSITIONS) < high < 1.07 * low


def batch_of_rows(rows):
    return {"input_ids": torch.stack([row["input_ids"] for row in rows])}
