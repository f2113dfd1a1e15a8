"""One optimiser step: two forwards, backpropagated one after the other."""

import copy
import gc

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from prism_hf.training import PrismTrainer, PrismTrainingArguments


def batch_of(dataset, size):
    rows = [dataset[i] for i in range(size)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.backbone.config.attention_probs_dropout_prob = 0.0
    return model


def gradients(model):
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("settings", [{}, {"num_drafts": 3}, {"freeze_backbone": True}, {"unmasking_weight": 0.0}])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_gradients_are_those_of_the_joint_loss(prism, sequences, arguments, settings, accumulation):
    prism = without_dropout(prism)
    args = arguments(PrismTrainingArguments, gradient_accumulation_steps=accumulation, **settings)
    trainer = PrismTrainer(prism, args, train_dataset=sequences(16))
    window, _ = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), accumulation, args.device)

    # In evaluation mode compute_loss is the joint loss, with the graphs of both forwards.
    prism.eval()
    joint = sum(trainer.compute_loss(prism, inputs) for inputs in window)
    joint.backward()
    expected = gradients(prism)
    prism.zero_grad()

    loss = sum(trainer.training_step(prism, inputs) for inputs in window)
    torch.testing.assert_close(loss, joint.detach())
    found = gradients(prism)
    compared = 0
    for name, gradient in expected.items():
        if gradient is None:
            assert found[name] is None or not found[name].any(), name
        else:
            torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-6, msg=name)
            compared += bool(gradient.any())
    assert compared >= 6


def test_one_graph_lives_at_a_time(prism, sequences, arguments):
    """When the second forward begins, nothing of the first one's graph is left."""
    alive = []
    trainer = PrismTrainer(prism, arguments(PrismTrainingArguments), train_dataset=sequences(8))

    def look(module, args, kwargs):
        gc.collect()
        alive.append(sum(torch.is_tensor(o) and o.grad_fn is not None for o in gc.get_objects()))

    prism.register_forward_pre_hook(look, with_kwargs=True)
    trainer.training_step(prism, batch_of(sequences(8), 8))
    first, second = alive
    assert second == first


def test_a_loss_that_is_not_finite_stops_with_step_and_batch(prism, sequences, arguments, tmp_path):
    args = arguments(PrismTrainingArguments, max_steps=4, gradient_accumulation_steps=2)
    trainer = PrismTrainer(prism, args, train_dataset=sequences(64))
    before, computed = {}, trainer.compute_loss

    def poisoned(model, inputs, **kwargs):
        loss = computed(model, inputs, **kwargs)
        if (trainer.state.global_step, len(trainer.window)) == (2, 1):
            before.update(batch=inputs["input_ids"].clone(), weights=copy.deepcopy(prism.state_dict()))
            return loss * torch.nan
        return loss

    trainer.compute_loss = poisoned
    with pytest.raises(FloatingPointError, match="loss is nan at step 2, batch 1, process 0"):
        trainer.train()
    (written,) = (tmp_path / "out").glob("nonfinite-step-2-batch-1-*.safetensors")
    assert torch.equal(load_file(written)["input_ids"], before["batch"])
    assert all(torch.equal(value, before["weights"][name]) for name, value in prism.state_dict().items())
