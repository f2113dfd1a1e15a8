"""The trainers against plain re-computations of what they claim to do."""

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from transformers import TrainerCallback

from prism_hf.training import (
    EMACallback,
    MaskedDiffusionTrainer,
    MaskedDiffusionTrainingArguments,
    PrismTrainer,
    PrismTrainingArguments,
    last_checkpoint,
)
from prism_hf.training.randomness import row_uniforms, step_uniform

MASK, LENGTH = 0, 10


def batch_of(dataset, size):
    rows = [dataset[i] for i in range(size)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def curve(trainer, name="loss"):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def noised_by_hand(inputs, draws, latest=1.0):
    """Forward process with the trainer's documented draws, one row and one token at a time."""
    batch = len(inputs["input_ids"])
    u = step_uniform(0, 0, 0).item()
    times = [1e-3 + (latest - 1e-3) * ((u + b / batch) % 1) for b in range(batch)]
    z = inputs["input_ids"].clone()
    for b in range(batch):
        for i in range(LENGTH):
            if inputs["maskable"][b, i] and draws[b, 0, i] < times[b]:
                z[b, i] = MASK
    return z, times


@pytest.mark.parametrize("normalizer", ["sequence", "masked"])
def test_unmasking_loss_of_a_batch(backbone, sequences, arguments, normalizer):
    args = arguments(MaskedDiffusionTrainingArguments, loss_normalizer=normalizer, seed=0)
    trainer = MaskedDiffusionTrainer(backbone.eval(), args, train_dataset=sequences(8))
    inputs = batch_of(sequences(8), 8)
    backbone.train()
    for module in backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    backbone.set_attn_implementation("eager")
    backbone.config.attention_probs_dropout_prob = 0.0
    loss = trainer.compute_loss(backbone, inputs)

    z, times = noised_by_hand(inputs, row_uniforms(0, 0, 0, range(8), 1, LENGTH))
    logits = backbone(z).logits
    logits[..., MASK] = -float("inf")
    terms, count = [], 0
    for b, i in (z == MASK).nonzero().tolist():
        nll = -logits[b, i].log_softmax(-1)[inputs["input_ids"][b, i]]
        terms.append(nll / times[b] if normalizer == "sequence" else nll)
        count += 1
    expected = sum(terms) / (inputs["maskable"].sum() if normalizer == "sequence" else count)
    torch.testing.assert_close(loss, expected)
    assert trainer.pop_metrics(training=True)["unmasking_loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("quality_normalizer", ["filled", "draft"])
@pytest.mark.parametrize("selection, sample", [("random", False), ("semi_autoregressive", False)])
def test_prism_loss_and_gradients_of_a_batch(prism, sequences, arguments, quality_normalizer, selection, sample):
    """Against a plain implementation with full logits, both graphs and loops over the batch."""
    k, weight = 3, 0.7
    args = arguments(
        PrismTrainingArguments,
        num_draft_tokens=k,
        num_drafts=2,
        draft_selection=selection,
        draft_do_sample=sample,
        draft_window=4,
        unmasking_weight=weight,
        quality_normalizer=quality_normalizer,
    )
    for module in prism.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    prism.set_attn_implementation("eager")
    trainer = PrismTrainer(prism, args, train_dataset=sequences(8))
    inputs = batch_of(sequences(8), 8)
    prism.train()
    trainer.compute_loss(prism, inputs).backward()
    found = {name: p.grad.clone() for name, p in prism.named_parameters() if p.grad is not None}
    prism.zero_grad()

    draws = row_uniforms(0, 0, 0, range(8), 1 + 2 * 2, LENGTH)
    z, times = noised_by_hand(inputs, draws)
    logits = prism(z).logits
    logits = torch.where(torch.arange(logits.shape[-1]) == MASK, -torch.inf, logits)
    unmasking = (
        sum(
            -logits[b, i].log_softmax(-1)[inputs["input_ids"][b, i]] / times[b]
            for b, i in (z == MASK).nonzero().tolist()
        )
        / inputs["maskable"].sum()
    )
    terms, num_rows = [], 0
    for d in range(2):
        for b in range(8):
            masked = (z[b] == MASK).nonzero().flatten().tolist()
            if selection == "random":
                chosen = sorted(masked, key=lambda i: draws[b, 1 + 2 * d, i].item())[:k]
            else:
                chosen = sorted(masked[:4], key=lambda i: -logits[b, i].softmax(-1).max().item())[:k]
            y = z[b].clone()
            for i in chosen:
                y[i] = logits[b, i].argmax()
            quality = prism(y[None]).quality_logits[0]
            num_rows += 1
            for i in chosen:
                right = y[i] == inputs["input_ids"][b, i]
                terms.append(F.binary_cross_entropy_with_logits(quality[i], right.float()))
    loss = sum(terms) / (len(terms) if quality_normalizer == "filled" else num_rows * k) + weight * unmasking
    loss.backward()
    expected = {name: p.grad for name, p in prism.named_parameters() if p.grad is not None}
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_second_forward_runs_no_lm_head(prism, sequences, arguments):
    rows = []
    prism.get_output_embeddings().register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    transformed = []
    prism.backbone.cls.predictions.transform.register_forward_hook(lambda m, args, out: transformed.append(out.shape))
    args = arguments(PrismTrainingArguments, num_draft_tokens=2)
    trainer = PrismTrainer(prism, args, train_dataset=sequences(8))
    inputs = batch_of(sequences(8), 8)
    trainer.compute_loss(prism.train(), inputs)
    assert rows and max(rows) <= 2 * 8  # the decoder as a module sees only the drafted positions
    assert len(transformed) == 1 and transformed[0][0] < inputs["maskable"].sum()


def test_metrics_are_exact_over_accumulation(prism, sequences, arguments):
    args = arguments(PrismTrainingArguments, num_draft_tokens=2, gradient_accumulation_steps=3, max_steps=2)
    trainer = PrismTrainer(prism, args, train_dataset=sequences(48))
    seen = []
    original = trainer.means[True].add

    def record(name, total, count):
        seen.append((name, total.item(), count.item()))
        original(name, total, count)

    trainer.means[True].add = record
    judged = []

    class Judged(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            judged.append(torch.cat(trainer.judged[True]))

    trainer.add_callback(Judged())
    trainer.train()
    for step in range(2):
        step_seen = seen[len(seen) // 2 * step : len(seen) // 2 * (step + 1)]
        for name in ("unmasking_loss", "quality_loss", "draft_accuracy"):
            values = [(total, count) for seen_name, total, count in step_seen if seen_name == name]
            assert len(values) == 3
            expected = sum(total for total, _ in values) / sum(count for _, count in values)
            assert curve(trainer, name)[step] == pytest.approx(expected, rel=1e-6)
        correct, quality = judged[step].unbind(1)
        assert curve(trainer, "draft_accuracy")[step] == pytest.approx(correct.mean().item())
        assert curve(trainer, "quality_auroc")[step] == pytest.approx(roc_auc_score(correct, quality))


@pytest.mark.parametrize("stop", [1, 4])
def test_resumed_training_is_the_unbroken_run_bit_for_bit(prism, sequences, arguments, tmp_path, stop):
    def run(folder, max_steps, resume=None, model=prism):
        args = arguments(
            PrismTrainingArguments,
            output_dir=str(tmp_path / folder),
            max_steps=6,
            save_strategy="steps",
            save_steps=1,
            ema_decay=0.9,
            use_muon=True,
            head_learning_rate=2e-2,
            gradient_accumulation_steps=2,
        )
        trainer = PrismTrainer(model, args, train_dataset=sequences(64))

        class Stop(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                control.should_training_stop = state.global_step >= max_steps

        trainer.add_callback(Stop())
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    start = weights_of(prism)
    unbroken = run("whole", 6)
    final = weights_of(prism)
    prism.load_state_dict(start)
    run("broken", stop)
    torch.manual_seed(123)  # whatever happened to the global generator in the meantime
    prism.load_state_dict(start)
    resumed = run("broken", 6, resume=str(tmp_path / "broken" / f"checkpoint-{stop}"))
    assert_same(weights_of(prism), final)
    assert curve(resumed)[stop:] == curve(unbroken)[stop:]


def test_last_checkpoint_ignores_one_that_was_cut_off(tmp_path):
    assert last_checkpoint(tmp_path / "absent") is None
    for step, whole in ((9, True), (10, True), (11, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if whole:
            (folder / "trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


@torch.no_grad()
def test_an_evaluation_sets_the_head_against_the_posterior_of_its_forward(prism, sequences, arguments):
    rows = sequences(40, seed=1)
    args = arguments(PrismTrainingArguments, num_draft_tokens=5, per_device_eval_batch_size=40)
    trainer, read = PrismTrainer(prism, args, eval_dataset=rows), []
    hook = prism.register_forward_hook(lambda module, args, kwargs, output: read.append(kwargs), with_kwargs=True)
    metrics = trainer.evaluate()
    hook.remove()
    z, y = (kwargs["input_ids"] for kwargs in read[:2])
    filled = (z == prism.config.mask_token_id) & (y != prism.config.mask_token_id)
    x = torch.stack([torch.as_tensor(row["input_ids"]) for row in rows])
    probs = prism.eval()(input_ids=y).logits
    probs[..., prism.config.mask_token_id] = -torch.inf
    ranked = [
        (each[token], each[token] - each[each != each[token]].max())
        for each, token in zip(probs.softmax(-1)[filled], y[filled], strict=True)
    ]
    for name, said in zip(("probability", "margin"), torch.tensor(ranked).T, strict=True):
        assert metrics[f"eval_{name}_auroc"] == pytest.approx(roc_auc_score((y == x)[filled], said), abs=1e-3)


def test_evaluation_is_repeatable_and_leaves_training_alone(prism, sequences, arguments):
    args = arguments(PrismTrainingArguments, per_device_eval_batch_size=16, max_steps=3)
    trainer = PrismTrainer(prism, args, train_dataset=sequences(64), eval_dataset=sequences(40, seed=1))
    first, second = trainer.evaluate(), trainer.evaluate()
    names = ["eval_loss", "eval_unmasking_loss", "eval_quality_loss", "eval_quality_auroc", "eval_quality_ece"]
    assert [first[name] for name in names] == [second[name] for name in names]
    assert first["eval_loss"] == pytest.approx(
        first["eval_quality_loss"] + args.unmasking_weight * first["eval_unmasking_loss"], rel=0.05
    )
    trainer.train()
    with_evaluation = curve(trainer)
    assert trainer.evaluate()["eval_unmasking_loss"] != first["eval_unmasking_loss"]
    assert len(with_evaluation) == 3


def test_accumulation_gives_the_curve_of_one_large_batch(backbone, sequences, arguments):
    backbone.set_attn_implementation("eager")
    for module in backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    start, curves = weights_of(backbone), []
    for batch, accumulation in ((16, 1), (4, 4)):
        backbone.load_state_dict(start)
        args = arguments(
            MaskedDiffusionTrainingArguments,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
        )
        trainer = MaskedDiffusionTrainer(backbone, args, train_dataset=sequences(96))
        trainer.train()
        curves.append(curve(trainer))
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


def test_head_learning_rate_and_frozen_backbone(prism, sequences, arguments):
    args = arguments(
        PrismTrainingArguments, head_learning_rate=5e-2, weight_decay=0.1, freeze_backbone=False, num_draft_tokens=2
    )
    optimizer = PrismTrainer(prism, args, train_dataset=sequences(64)).create_optimizer()
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(prism.parameters()))
    for name, parameter in prism.named_parameters():
        lr, decay = rates[id(parameter)]
        assert lr == (5e-2 if "quality_head" in name else 1e-2)
        assert decay == (0.0 if name.endswith("bias") or "norm" in name.lower() else 0.1), name

    before = weights_of(prism)
    args = arguments(PrismTrainingArguments, freeze_backbone=True, num_draft_tokens=2)
    PrismTrainer(prism, args, train_dataset=sequences(64)).train()
    for name, value in prism.state_dict().items():
        assert torch.equal(value, before[name]) == ("quality_head" not in name), name


def test_average_of_the_weights_follows_the_recursion(backbone, sequences, arguments):
    args = arguments(MaskedDiffusionTrainingArguments, ema_decay=0.25, max_steps=5)
    trainer = MaskedDiffusionTrainer(backbone, args, train_dataset=sequences(64))
    history = []

    class Record(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            history.append(weights_of(model))

    trainer.add_callback(Record())
    trainer.train()
    average = history[0]
    for n, current in enumerate(history[1:], start=1):
        decay = min(0.25, (1 + n) / (10 + n))
        average = {name: decay * average[name] + (1 - decay) * current[name] for name in average}
    for name, parameter in backbone.named_parameters():
        torch.testing.assert_close(parameter.detach(), average[name], msg=lambda m, name=name: f"{name}: {m}")


def test_muon_only_touches_matrices_and_learns(backbone, sequences, arguments):
    args = arguments(MaskedDiffusionTrainingArguments, use_muon=True, max_steps=40, loss_normalizer="masked")
    trainer = MaskedDiffusionTrainer(backbone, args, train_dataset=sequences(4))
    optimizer = trainer.create_optimizer()
    muon = {id(p) for group in optimizer.param_groups if group["muon"] for p in group["params"]}
    named = {name for name, p in backbone.named_parameters() if id(p) in muon}
    assert len(named) == 2 * 6 + 1  # query, key, value, output, two of the MLP, in 2 layers; the LM head's transform
    assert not any("embeddings" in name or "decoder" in name or name.endswith("bias") for name in named)
    trainer.train()
    losses = curve(trainer)
    assert sum(losses[-10:]) / 10 < sum(losses[:10]) / 10 - 0.2


def test_mistakes_are_named_before_training(backbone, prism, sequences, arguments):
    with pytest.raises(ValueError, match="no quality head"):
        PrismTrainer(backbone, arguments(PrismTrainingArguments), train_dataset=sequences(8))
    backbone.config.mask_token_id = None
    with pytest.raises(ValueError, match="mask token"):
        MaskedDiffusionTrainer(backbone, arguments(MaskedDiffusionTrainingArguments), train_dataset=sequences(8))


def test_resume_without_the_average_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ema\.safetensors is missing"):
        EMACallback(0.9).load(str(tmp_path))


def test_uneven_examples_are_padded_and_padding_is_never_masked(backbone, arguments):
    class Uneven(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            return {"input_ids": torch.full((3 + index,), 5)}

    class Tokenizer:
        pad_token_id, mask_token_id = 8, MASK

        def save_pretrained(self, *args):
            pass

    args = arguments(MaskedDiffusionTrainingArguments)
    with pytest.raises(ValueError, match="3 to 10 tokens"):
        MaskedDiffusionTrainer(backbone, args, train_dataset=Uneven()).train()
    trainer = MaskedDiffusionTrainer(backbone, args, train_dataset=Uneven(), processing_class=Tokenizer())
    (batch,) = trainer.get_train_dataloader()
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 8).all()
    noised = trainer.noised(batch, training=True)
    assert noised.masked.any() and not (noised.masked & (batch["attention_mask"] == 0)).any()


def test_row_draws_depend_on_seed_step_and_row_only():
    whole = row_uniforms(1, 0, 7, range(6), 2, 12)
    assert whole.shape == (6, 2, 12) and whole.dtype == torch.float64
    assert torch.equal(row_uniforms(1, 0, 7, range(2, 4), 2, 12), whole[2:4])
    assert torch.equal(row_uniforms(1, 0, 7, range(6), 2, 5), whole[..., :5])
    for other in (row_uniforms(2, 0, 7, range(6), 2, 12), row_uniforms(1, 1, 7, range(6), 2, 12)):
        assert not torch.isclose(other, whole).any()
    many = row_uniforms(0, 0, 0, range(2000), 1, 10).flatten()
    assert abs(many.mean().item() - 0.5) < 4 * math.sqrt(1 / 12 / len(many))


def test_few_rows_in_a_large_batch_see_all_times(backbone, sequences, arguments):
    args = arguments(MaskedDiffusionTrainingArguments, per_device_train_batch_size=32, max_steps=40)
    trainer = MaskedDiffusionTrainer(backbone, args, train_dataset=sequences(8))
    inputs, times = batch_of(sequences(8), 8), []
    for step in range(40):
        trainer.state.global_step = step
        weights = torch.zeros(8, LENGTH)
        noised = trainer.noised(inputs, training=True)
        weights[noised.masked] = noised.weights
        times += [1 / row.max().item() for row in weights if row.any()]
    assert max(times) > 0.97
    assert [sum(t > share for t in times) / 320 for share in (0.25, 0.5, 0.75)] == pytest.approx(
        [3 / 4, 1 / 2, 1 / 4], abs=0.03
    )


def test_predictions_are_what_the_evaluation_is_a_mean_of(backbone, sequences, arguments):
    seen = []

    def accuracy(prediction):
        seen.append(prediction)
        chosen = prediction.label_ids != -100
        return {"accuracy": (prediction.predictions.argmax(-1) == prediction.label_ids)[chosen].mean()}

    args = arguments(MaskedDiffusionTrainingArguments, per_device_eval_batch_size=3, loss_normalizer="masked")
    dataset = sequences(10, seed=1)
    trainer = MaskedDiffusionTrainer(backbone, args, eval_dataset=dataset, compute_metrics=accuracy)
    metrics = trainer.evaluate()
    (prediction,) = seen
    logits, labels = torch.tensor(prediction.predictions), torch.tensor(prediction.label_ids)
    assert logits.shape == (10, LENGTH, 9) and labels.shape == (10, LENGTH)
    masked = labels != -100
    assert (labels[masked] == dataset.input_ids[masked]).all() and not masked[:, ~dataset.maskable].any()
    assert F.cross_entropy(logits[masked], labels[masked]).item() == pytest.approx(metrics["eval_loss"], rel=1e-5)
    assert metrics["eval_accuracy"] == pytest.approx((logits.argmax(-1) == labels)[masked].float().mean().item())
    predicted = trainer.predict(dataset)
    assert (predicted.predictions == prediction.predictions).all()
    assert predicted.metrics["test_accuracy"] == metrics["eval_accuracy"]
    trainer.preprocess_logits_for_metrics = lambda logits, labels: logits.argmax(-1)
    assert trainer.predict(dataset).predictions.shape == (10, LENGTH)


@pytest.mark.parametrize("num_drafts", [1, 2])
def test_predictions_of_quality_are_what_the_evaluation_is_a_mean_of(prism, sequences, arguments, num_drafts):
    args = arguments(PrismTrainingArguments, per_device_eval_batch_size=3, num_draft_tokens=3, num_drafts=num_drafts)
    trainer = PrismTrainer(prism, args, eval_dataset=sequences(10, seed=1), compute_metrics=lambda _: {"seen": 1})
    metrics, predicted = trainer.evaluate(), trainer.predict(sequences(10, seed=1))
    quality, labels = torch.tensor(predicted.predictions), torch.tensor(predicted.label_ids)
    assert quality.shape == labels.shape == ((10, LENGTH) if num_drafts == 1 else (10, LENGTH, num_drafts))
    filled = labels != -100
    assert filled.sum(1).max() == 3
    loss = F.binary_cross_entropy(quality[filled], labels[filled].float()).item()
    assert loss == pytest.approx(metrics["eval_quality_loss"], rel=1e-5)
    assert labels[filled].float().mean().item() == pytest.approx(metrics["eval_draft_accuracy"])
    assert metrics["eval_seen"] == 1


def test_an_evaluation_in_which_nothing_is_masked_has_no_loss(prism, sequences, arguments):
    args = arguments(PrismTrainingArguments, max_timestep=2e-3)
    metrics = PrismTrainer(prism, args, eval_dataset=sequences(1)).evaluate()
    assert math.isnan(metrics["eval_loss"]) and metrics["eval_unmasking_loss"] == 0.0
