"""Drawing tokens: pure functions of tensors, without a host synchronisation."""

import torch

from prism_hf.diffusion.drafting import nucleus


def uniform(
    shape, device: torch.device, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Uniform numbers in [0, 1) on `device`, drawn on the generator's own device, so a CPU one serves a GPU."""
    source = device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=source, dtype=dtype).to(device)


def warp(logits: torch.Tensor, temperature: float = 0.0, top_p: float = 1.0, top_k: int = 0) -> torch.Tensor:
    """The logits (..., V) that tokens are drawn from: `temperature`, then `top_k` (0 = off), then `top_p`.

    In the order of transformers, and in float64. With `temperature` 0 (argmax) they are as they were.
    """
    if temperature == 0:
        return logits
    logits = logits.double() / temperature
    if top_k:
        least = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    return nucleus(logits, top_p) if top_p < 1 else logits


def draw_tokens(
    logits: torch.Tensor, temperature: float = 0.0, generator: torch.Generator | None = None
) -> torch.Tensor:
    """One token a row from warped `logits` (..., V) -> (...) int64, -1 where they are NaN or all minus infinity.

    `temperature` 0 takes the argmax. Otherwise it is a Gumbel argmax in float64: float32 noise truncates the tails and
    quietly lowers the temperature (arXiv 2503.00307).
    """
    if temperature == 0:
        return finite_argmax(logits)
    noise = uniform(logits.shape, logits.device, generator, torch.float64)
    # A uniform of exactly 0 would give infinite noise, and an excluded token (minus infinity) plus that is NaN.
    exponential = (-torch.log1p(-noise)).clamp(min=torch.finfo(torch.float64).tiny)
    return finite_argmax(logits - exponential.log())


def finite_argmax(scores: torch.Tensor) -> torch.Tensor:
    """The index of the largest of `scores` (..., V), -1 where that is no number. NaN counts as the largest."""
    largest, index = scores.max(-1)
    return torch.where(largest.isfinite(), index, -1)


def probability_of(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The probability of `tokens` (...) under `logits` (..., V), in [0, 1]."""
    return logits.softmax(-1).gather(-1, tokens[..., None])[..., 0]


def left_contexts(canvas: torch.Tensor, positions: torch.Tensor, filler: int) -> torch.Tensor:
    """The tokens left of each position, ending in the nearest: (B, L) and (B, W) -> (B, W, L), `filler` in front."""
    index = torch.arange(canvas.shape[1], device=canvas.device) - canvas.shape[1] + positions[..., None]
    tokens = canvas[:, None].expand(index.shape).gather(-1, index.clamp(min=0))
    return tokens.masked_fill(index < 0, filler)


def ban_words(
    logits: torch.Tensor, positions: torch.Tensor, canvas: torch.Tensor, filled: torch.Tensor, words: list[list[int]]
) -> torch.Tensor:
    """Exclude the tokens that would complete one of `words` (token sequences) in the canvas, from either side.

    Where several positions of a word are filled at once, it is the rightmost of them that may not have its token,
    whatever the others turn out to be.

    Args:
        logits: (B, W, V) at `positions` (B, W).
        canvas: (B, L) before the step.
        filled: (B, L) bool, positions that the step fills.
    """
    logits = logits.clone()
    for word in words:
        span = canvas.shape[1] - len(word) + 1
        if span < 1:
            continue
        starts = [slice(offset, offset + span) for offset in range(len(word))]
        fits = torch.ones_like(filled[:, :span])  # (B, span): the word may come to stand here
        for token, here in zip(word, starts, strict=True):
            fits = fits & ((canvas[:, here] == token) | filled[:, here])
        for token, here in reversed(list(zip(word, starts, strict=True))):
            banned = torch.zeros_like(filled)
            banned[:, here] = fits & filled[:, here]
            fits = fits & ~filled[:, here]
            logits[..., token] = logits[..., token].masked_fill(banned.gather(1, positions), -torch.inf)
    return logits
