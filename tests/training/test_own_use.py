"""What users do with a trainer beside one call of `train`: loops of their own, a second training, odd arguments."""

import math

import pytest
import torch
from datasets import Dataset, DatasetDict

from prism_hf import MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments, PrismTrainer, PrismTrainingArguments

ROW = {"input_ids": [1, 2, 3, 4]}


class PadOne:
    pad_token_id = 1


def gradients(trainer, batches):
    for batch in batches:
        trainer.training_step(trainer.model, batch)
    found = torch.cat([weight.grad.flatten() for weight in trainer.model.parameters() if weight.grad is not None])
    trainer.model.zero_grad()
    return found


@pytest.mark.parametrize("lengths", [(2, 9, 4, 10), (6, 6, 6, 6)])
def test_batches_of_a_step_by_hand_are_one_large_batch(prism, arguments, lengths):
    for module in prism.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    rows = [{"input_ids": [2 + (row + place) % 7 for place in range(length)]} for row, length in enumerate(lengths)]

    def trainer(batch_size):
        cut = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": 4 // batch_size}
        args = arguments(PrismTrainingArguments, train_sampling_strategy="sequential", **cut)
        return PrismTrainer(prism, args, train_dataset=rows, processing_class=PadOne())

    whole, cut = trainer(4), trainer(1)
    expected = gradients(whole, whole.get_train_dataloader())
    batches, _ = cut.get_batch_samples(iter(cut.get_train_dataloader()), 4, cut.args.device)
    torch.testing.assert_close(gradients(cut, batches), expected, atol=1e-6, rtol=1e-5)
    if len(set(lengths)) == 1:  # then each batch tells of all, where no count is of what is masked
        cut.args.quality_normalizer = whole.args.quality_normalizer = "draft"
        expected = gradients(whole, whole.get_train_dataloader())
        torch.testing.assert_close(gradients(cut, cut.get_train_dataloader()), expected, atol=1e-6, rtol=1e-5)


def test_a_second_training_logs_nothing_of_the_first(prism, sequences, arguments):
    trainer = PrismTrainer(prism, arguments(PrismTrainingArguments, logging_steps=4), train_dataset=sequences(16))
    trainer.train()  # which ends two steps after its last log
    trainer.train()
    (logged,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logged["loss"] == pytest.approx(logged["quality_loss"] + 0.5 * logged["unmasking_loss"], rel=1e-5)


def test_an_evaluation_is_of_all_rows(backbone, sequences, arguments):
    found = []
    for batch_size, drop_last in ((7, False), (3, True), (8, True)):
        args = arguments(
            MaskedDiffusionTrainingArguments, per_device_eval_batch_size=batch_size, dataloader_drop_last=drop_last
        )
        found.append(MaskedDiffusionTrainer(backbone, args, eval_dataset=sequences(7)).evaluate()["eval_loss"])
        assert args.dataloader_drop_last == drop_last
    assert found == pytest.approx(3 * found[:1], rel=1e-5)


def test_an_evaluation_in_which_nothing_is_masked_has_no_loss(prism, arguments):
    never = {"min_timestep": 1e-9, "max_timestep": 1e-8, "loss_normalizer": "masked"}
    trainer = PrismTrainer(prism, arguments(PrismTrainingArguments, **never), eval_dataset=[ROW])
    assert math.isnan(trainer.evaluate()["eval_loss"])


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([], "is empty"),
        (Dataset.from_list([]), "is empty"),
        (Dataset.from_list([ROW]).to_pandas(), "is a DataFrame, .*from_pandas"),
        (DatasetDict({"train": Dataset.from_list([ROW])}), "is a DatasetDict, .*one of its splits"),
        ((row for row in [ROW]), "is a generator, .*from_generator"),
    ],
    ids=["list", "Dataset", "DataFrame", "DatasetDict", "generator"],
)
def test_what_gives_no_rows_is_named(backbone, arguments, dataset, message):
    args = arguments(MaskedDiffusionTrainingArguments)
    for collate in (None, lambda rows: rows):
        with pytest.raises(ValueError, match=f"train_dataset {message}"):
            MaskedDiffusionTrainer(backbone, args, collate, train_dataset=dataset)
        with pytest.raises(ValueError, match=f"eval_dataset.* {message}"):
            MaskedDiffusionTrainer(backbone, args, collate, eval_dataset={"held out": dataset})


def test_what_would_change_the_losses_is_refused(backbone, arguments):
    with pytest.raises(ValueError, match=r"label_smoothing_factor=0\.1 .* leave it out"):
        arguments(MaskedDiffusionTrainingArguments, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match="compute_loss_func would not be called"):
        MaskedDiffusionTrainer(
            backbone, arguments(MaskedDiffusionTrainingArguments), compute_loss_func=lambda *args, **kwargs: 0
        )


def test_two_mask_tokens_are_told(backbone, arguments, monkeypatch):
    told = []
    monkeypatch.setattr("prism_hf.training.data_preparation.rows.logger.warning", told.append)

    class Tokenizer:
        mask_token_id = 5

    trainer = MaskedDiffusionTrainer(
        backbone, arguments(MaskedDiffusionTrainingArguments), processing_class=Tokenizer()
    )
    assert trainer.mask_token_id == 0
    (message,) = told
    assert "0 for the model" in message and "5 for the tokenizer" in message


def test_rows_past_the_models_positions_are_named_before_a_forward(backbone, arguments):
    args = arguments(MaskedDiffusionTrainingArguments, train_sampling_strategy="sequential")
    long = {"input_ids": [1] * 11}
    with pytest.raises(ValueError, match="train_dataset cannot be trained on. Row 1 .* 11 tokens, .* for 10"):
        MaskedDiffusionTrainer(backbone, args, train_dataset=[long, long])
    trainer = MaskedDiffusionTrainer(
        backbone, args, train_dataset=[ROW | {"input_ids": [2] * 10}, long], processing_class=PadOne()
    )
    with pytest.raises(ValueError, match="Row 2 of 2 .* 11 tokens, .* for 10"):
        trainer.train()
