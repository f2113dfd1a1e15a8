"""Training losses and their published normalisers.

The mask token has probability 0 in losses, drafts and samples alike (SUBS, arXiv 2406.07524), so that training and
sampling speak of the same distribution. The quality is learned at filled positions only: its value at a masked position
means nothing, and nothing reads it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor as T

from prism_hf._deprecation import warn_renamed

from .drafting import exclude_token

NORMALIZERS = ("sequence", "masked")
QUALITY_NORMALIZERS = ("filled", "draft")
# Of logits at a time: a CPU's caches hold few, and a GPU reads the whole decoder anew for each chunk.
CHUNK_ELEMENTS = {"cpu": 2**24, "cuda": 2**26}


def token_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The cross-entropy (N,) of each token: of `logits` (N, V) and `targets` (N,)."""
    return F.cross_entropy(logits.float(), targets, reduction="none")


def weighted_sum(losses: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """The sum of `w CE` over masked tokens, with `w = -alpha'(t) / (1 - alpha(t))`, 1/t when linear.

    What divides it makes it the MDM loss. The two normalisers in use: weights `1/t` with denominator `B * L` (MDLM,
    PRISM; LLaDA fine-tunes with the target length for L), an unbiased bound on the negative log-likelihood; or no
    weights with the number of masked positions, the plain mean, which has less variance on small models.

    Args:
        losses (`torch.Tensor` of shape `(N,)`): The cross-entropies of the clean tokens, see `token_losses`.
        weights (`torch.Tensor` of shape `(N,)`, *optional*, defaults to ones): w.
    """
    return (losses if weights is None else losses * weights).sum()


def unmasking_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None,
    denominator: torch.Tensor | float,
) -> torch.Tensor:
    """Deprecated: `weighted_sum(token_losses(logits, targets), weights) / denominator`."""
    warn_renamed("unmasking_loss", "weighted_sum(token_losses(logits, targets), weights) / denominator")
    return weighted_sum(token_losses(logits, targets), weights) / denominator


def linear_unmasking_loss(
    states: torch.Tensor,
    decoder: torch.nn.Linear,
    targets: torch.Tensor,
    weights: torch.Tensor | None,
    denominator: torch.Tensor | float,
    mask_token_id: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The MDM loss of `decoder(states)` without its (N, V) logits: some rows at a time, gradients included.

    The mask token is given probability 0, as when tokens are drawn (SUBS, arXiv 2406.07524).

    Args:
        states (`torch.Tensor` of shape `(N, D)`): The input of the decoder at masked positions, in its dtype.
        decoder (`torch.nn.Linear`): The map to the vocabulary, (V, D) with or without bias.
        targets (`torch.Tensor` of shape `(N,)`): Clean tokens.
        weights (`torch.Tensor` of shape `(N,)`, *optional*, defaults to ones): As for `weighted_sum`.
        denominator (`torch.Tensor` or `float`): What divides the sum.
        mask_token_id (`int`): The mask token.

    Returns:
        The loss, and without gradient (N,) the largest probability at each position and (N,) its cross-entropy.
    """
    if weights is None:
        weights = torch.ones_like(targets, dtype=torch.float32)
    return _LinearCrossEntropy.apply(
        states, decoder.weight, decoder.bias, targets, weights / denominator, mask_token_id
    )


def mapped_unmasking_loss(
    states: torch.Tensor,
    decoder: torch.nn.Module,
    targets: torch.Tensor,
    weights: torch.Tensor | None,
    denominator: torch.Tensor | float,
    mask_token_id: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`linear_unmasking_loss` of a decoder that is more than its weight, as with an adapter on it: logits and all."""
    logits = exclude_token(decoder(states).float(), mask_token_id)
    confidence = logits.detach().softmax(dim=-1).amax(dim=-1)
    losses = token_losses(logits, targets)
    return weighted_sum(losses, weights) / denominator, confidence, losses.detach()


def rows_at_once(vocab_size: int, device: torch.device) -> int:
    """How many rows of logits exist at a time where not all need to."""
    return max(1, CHUNK_ELEMENTS["cpu" if device.type == "cpu" else "cuda"] // vocab_size)


class _LinearCrossEntropy(torch.autograd.Function):
    """Weighted sum of cross-entropies; its gradients are made in the forward, while a chunk's logits exist."""

    @staticmethod
    def forward(
        ctx: Any, states: T, weight: T, bias: T | None, targets: T, weights: T, mask_token_id: int
    ) -> tuple[T, T, T]:
        needs_states, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_states = torch.empty_like(states) if needs_states else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        grad_bias = torch.zeros_like(bias) if needs_bias else None
        total = states.new_zeros((), dtype=torch.float32)
        confidence = states.new_empty(len(states), dtype=torch.float32)
        losses = torch.empty_like(confidence)
        chunk = rows_at_once(len(weight), weight.device)
        for start in range(0, len(states), chunk):
            rows = slice(start, start + chunk)
            logits = F.linear(states[rows], weight, bias).float()
            logits[:, mask_token_id] = -torch.inf
            target = targets[rows, None]
            normaliser = logits.logsumexp(dim=-1, keepdim=True)
            losses[rows] = (normaliser - logits.gather(1, target)).squeeze(1)
            total += (losses[rows] * weights[rows]).sum()
            confidence[rows] = (logits.amax(dim=-1, keepdim=True) - normaliser).exp().squeeze(1)
            if not (needs_states or needs_weight or needs_bias):
                continue
            # The gradient with respect to the logits, in their place: w (softmax - onehot).
            gradient = logits.sub_(normaliser).exp_()
            gradient.scatter_add_(1, target, torch.full_like(normaliser, -1.0))
            gradient.mul_(weights[rows, None])
            if needs_bias:
                grad_bias += gradient.sum(dim=0)
            gradient = gradient.to(states.dtype)
            if needs_states:
                grad_states[rows] = gradient @ weight
            if needs_weight:
                grad_weight.addmm_(gradient.mT, states[rows])
        # Not save_for_backward: a second reference would make autograd copy the decoder's gradient.
        ctx.grads = (grad_states, grad_weight, grad_bias)
        ctx.mark_non_differentiable(confidence, losses)
        return total, confidence, losses

    @staticmethod
    def backward(ctx: Any, grad_total: T, *_: T) -> tuple[T | None, ...]:
        # In place and once only: the decoder's gradient is as large as the decoder.
        grads, ctx.grads = ctx.grads, None
        return (*(None if grad is None else grad.mul_(grad_total) for grad in grads), None, None, None)


def quality_loss(
    quality_logits: torch.Tensor,
    correct: torch.Tensor,
    denominator: torch.Tensor | float,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Binary cross-entropy of a judge of drafts, `sum over filled of w BCE / denominator`.

    Where K positions of `z` are filled, the others stay masked and nothing is weighted, its minimiser is
    `Pr[x_i = y_i | y with i masked]` (PRISM, arXiv 2510.01384, eq. 5).

    Where all masks are filled, the judge no longer sees which positions they were. Its minimiser is then
    `Pr[x_i = y_i | y, i was masked]`, in which each draft counts `w(t)` times (Token-Critic, arXiv 2209.04439). Under
    the linear schedule k of L positions are masked, and at random, with a probability that is the same for each k; the
    published `w = 1/t` lets each k weigh alike in the sum over positions, no weights let it weigh in proportion to k.

    Args:
        quality_logits (`torch.Tensor` of shape `(N,)`): At the filled positions.
        correct (bool `torch.Tensor` of shape `(N,)`): `y_i = x_i`.
        denominator (`torch.Tensor` or `float`): PRISM: the number of filled positions, or `B * K`. Token-Critic: as for
            `weighted_sum`.
        weights (`torch.Tensor` of shape `(N,)`, *optional*, defaults to ones): w.
    """
    loss = F.binary_cross_entropy_with_logits(quality_logits.float(), correct.float(), weights, reduction="sum")
    return loss / denominator
