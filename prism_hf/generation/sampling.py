"""Drawing tokens and selecting positions: pure functions of tensors, without a host synchronisation."""

import torch


def uniform(
    shape, device: torch.device, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Uniform numbers in [0, 1) on `device`, drawn on the generator's own device, so a CPU one serves a GPU."""
    source = device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=source, dtype=dtype).to(device)


def nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the smallest set of likeliest tokens whose probability reaches `top_p`; the others get minus infinity.

    The likeliest token always stays, as `top_p` is above 0. `logits` (..., V) -> (..., V).
    """
    ordered, index = logits.sort(dim=-1, descending=True)
    probs = ordered.softmax(-1)
    before = probs.cumsum(-1) - probs
    ordered = ordered.masked_fill(before >= top_p, -torch.inf)
    return torch.empty_like(logits).scatter_(-1, index, ordered)


def draw_tokens(
    logits: torch.Tensor, temperature: float = 0.0, top_p: float = 1.0, generator: torch.Generator | None = None
) -> torch.Tensor:
    """One token a row from `logits` (..., V) -> (...) int64.

    `temperature` 0 takes the argmax. Otherwise temperature comes before `top_p`, as in transformers, and the draw is a
    Gumbel argmax in float64: float32 noise truncates the tails and quietly lowers the temperature (arXiv 2503.00307).
    """
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.double() / temperature
    if top_p < 1:
        logits = nucleus(logits, top_p)
    noise = uniform(logits.shape, logits.device, generator, torch.float64)
    # A uniform of exactly 0 would give infinite noise, and an excluded token (minus infinity) plus that is NaN.
    exponential = (-torch.log1p(-noise)).clamp(min=torch.finfo(torch.float64).tiny)
    return (logits - exponential.log()).argmax(-1)


def lowest_first(score: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Positions of each row (B, L) int64: candidates by ascending score (ties: leftmost first), then all the others.

    `score` (B, L) may hold infinities; `candidates` (B, L) bool.
    """
    by_score = score.argsort(dim=-1, stable=True)
    outsiders = (~candidates).gather(-1, by_score).to(torch.uint8)
    return by_score.gather(-1, outsiders.argsort(dim=-1, stable=True))


def select_lowest(score: torch.Tensor, candidates: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """The `count` (B,) candidates of lowest score in each row, or all of them where fewer. Returns (B, L) bool."""
    rank = lowest_first(score, candidates).argsort(dim=-1)
    return (rank < count[:, None]) & candidates
