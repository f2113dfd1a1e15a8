"""The token critic's trainer against plain re-computations of what it claims to do."""

import copy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import TrainerCallback

from prism_hf.diffusion.losses import CHUNK_ELEMENTS
from prism_hf.models.prism import PrismConfig, PrismForMaskedDiffusion
from prism_hf.training import TokenCriticTrainer, TokenCriticTrainingArguments
from prism_hf.training.randomness import row_uniforms, step_uniform

MASK, LENGTH = 0, 10


@pytest.fixture
def critic(prism):
    torch.manual_seed(1)
    return PrismForMaskedDiffusion(
        PrismConfig(backbone_config=copy.deepcopy(prism.config.backbone_config), head_type="linear")
    )


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("drafter", ["prism", "backbone"])
@pytest.mark.parametrize("normalizer", ["sequence", "masked"])
def test_critic_loss_of_a_batch(request, critic, sequences, arguments, normalizer, drafter, monkeypatch):
    """With loops over the batch, full logits, and tokens by counting the cumulative sums below a draw."""
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", 9 * 5)  # 5 positions at a time
    denoiser = request.getfixturevalue(drafter)
    for module in critic.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    critic.set_attn_implementation("eager")
    args = arguments(TokenCriticTrainingArguments, loss_normalizer=normalizer)
    trainer = TokenCriticTrainer(critic, args, denoiser=denoiser.train(), train_dataset=sequences(8))
    rows = [sequences(8)[b] for b in range(8)]
    inputs = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    loss = trainer.compute_loss(critic.train(), inputs)
    loss.backward()
    assert all(parameter.grad is None for parameter in denoiser.parameters())

    u, draws = step_uniform(0, 0, 0).item(), row_uniforms(0, 0, 0, range(8), 2, LENGTH)
    terms, count = [], 0
    for b, row in enumerate(rows):
        t = 1e-3 + (1 - 1e-3) * ((u + b / 8) % 1)
        masked = [i for i in range(LENGTH) if row["maskable"][i] and draws[b, 0, i] < t]
        z = row["input_ids"].clone()
        z[masked] = MASK
        probabilities = denoiser.eval()(z[None]).logits[0].double()
        probabilities[:, MASK] = -torch.inf
        y = z.clone()
        for i in masked:
            cumulative = probabilities[i].softmax(-1).cumsum(-1)
            y[i] = int((cumulative <= draws[b, 1, i]).sum())
        judged = critic(y[None]).quality_logits[0]
        for i in masked:
            right = (y[i] == row["input_ids"][i]).float()
            term = F.binary_cross_entropy_with_logits(judged[i], right)
            terms.append(term / t if normalizer == "sequence" else term)
            count += 1
    expected = sum(terms) / (inputs["maskable"].sum() if normalizer == "sequence" else count)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    assert trainer.pop_metrics(training=True)["critic_loss"] == pytest.approx(expected.item(), rel=1e-4)


def test_denoiser_decodes_masked_positions_only(critic, prism, sequences, arguments):
    decoded, judged = [], []
    prism.get_output_embeddings().register_forward_hook(lambda module, args, output: decoded.append(len(output)))
    critic.get_output_embeddings().register_forward_hook(lambda module, args, output: judged.append(len(output)))
    args = arguments(TokenCriticTrainingArguments)
    trainer = TokenCriticTrainer(critic, args, denoiser=prism, train_dataset=sequences(8))
    (inputs,) = trainer.get_train_dataloader()
    before = trainer.noised(inputs, True).masked.sum()
    trainer.compute_loss(critic.train(), inputs)
    assert decoded == [int(before)] and not judged


@pytest.mark.parametrize("stop", [1, 4])
def test_resumed_training_is_the_unbroken_run_bit_for_bit(critic, prism, sequences, arguments, tmp_path, stop):
    frozen, start = weights_of(prism), weights_of(critic)

    def run(folder, last_step, resume=None):
        critic.load_state_dict(start)
        args = arguments(
            TokenCriticTrainingArguments,
            output_dir=str(tmp_path / folder),
            save_strategy="steps",
            save_steps=1,
            ema_decay=0.9,
            use_muon=True,
            head_learning_rate=2e-2,
            gradient_accumulation_steps=2,
        )
        trainer = TokenCriticTrainer(critic, args, denoiser=prism, train_dataset=sequences(64))

        class Stop(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                control.should_training_stop = state.global_step >= last_step

        trainer.add_callback(Stop())
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    unbroken = run("whole", 6)
    final = weights_of(critic)
    run("broken", stop)
    torch.manual_seed(123)  # whatever happened to the global generator in the meantime
    resumed = run("broken", 6, resume=str(tmp_path / "broken" / f"checkpoint-{stop}"))
    assert_same(weights_of(critic), final)
    assert losses(resumed)[stop:] == losses(unbroken)[stop:]
    assert_same(weights_of(prism), frozen)
    trained = {id(p) for group in unbroken.optimizer.param_groups for p in group["params"]}
    assert not trained & {id(p) for p in prism.parameters()}
    saved = load_file(tmp_path / "whole" / "checkpoint-6" / "model.safetensors")
    assert saved.keys() <= critic.state_dict().keys()


def test_saved_critic_is_the_critic_and_its_card_says_what_it_is(critic, prism, sequences, arguments, tmp_path):
    args = arguments(TokenCriticTrainingArguments, max_steps=2)
    prism.name_or_path = "someone/denoiser"
    trainer = TokenCriticTrainer(critic, args, denoiser=prism, train_dataset=sequences(64))
    trainer.train()
    trainer.save_model(str(tmp_path / "critic"))
    loaded = PrismForMaskedDiffusion.from_pretrained(tmp_path / "critic").eval()
    y = sequences(4, seed=3).input_ids
    expected = critic.eval()(y, return_logits=False).quality_logits
    assert torch.equal(loaded(y, return_logits=False).quality_logits, expected)
    card = (tmp_path / "critic" / "README.md").read_text()
    assert "- token-critic" in card and "- prism\n" not in card and "2510.01384" not in card
    assert 'load_model("someone/denoiser")' in card and 'remask_strategy="token_critic"' in card


def test_evaluation_is_repeatable_and_training_lowers_it(critic, prism, sequences, arguments):
    args = arguments(TokenCriticTrainingArguments, per_device_eval_batch_size=16, max_steps=40, logging_steps=40)
    trainer = TokenCriticTrainer(
        critic, args, denoiser=prism, train_dataset=sequences(64), eval_dataset=sequences(40, seed=1)
    )
    first, second = trainer.evaluate(), trainer.evaluate()
    names = ["eval_loss", "eval_critic_loss", "eval_draft_accuracy", "eval_quality_auroc", "eval_quality_ece"]
    assert [first[name] for name in names] == [second[name] for name in names]
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_draft_accuracy"] == first["eval_draft_accuracy"]  # the drafts are those of the same denoiser
    assert after["eval_critic_loss"] < first["eval_critic_loss"]


def test_mistakes_are_named_before_training(critic, prism, sequences, arguments):
    def build(denoiser, model=critic):
        args = arguments(TokenCriticTrainingArguments)
        return TokenCriticTrainer(model, args, denoiser=denoiser, train_dataset=sequences(8))

    with pytest.raises(ValueError, match="needs denoiser="):
        build(None)
    with pytest.raises(ValueError, match="shares weights"):
        build(critic)
    with pytest.raises(ValueError, match="no quality head"):
        build(prism, critic.backbone)
    prism.config.mask_token_id = 3
    with pytest.raises(ValueError, match="mask_token_id=0.*mask_token_id=3"):
        build(prism)
    prism.config.mask_token_id = MASK
    prism.config.backbone_config.vocab_size = 12
    with pytest.raises(ValueError, match="vocab_size=9.*vocab_size=12"):
        build(prism)
