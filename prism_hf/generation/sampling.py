"""Drawing tokens: pure functions of tensors, without a host synchronisation."""

import torch

from prism_hf.diffusion.drafting import nucleus


def uniform(
    shape, device: torch.device, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Uniform numbers in [0, 1) on `device`, drawn on the generator's own device, so a CPU one serves a GPU."""
    source = device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=source, dtype=dtype).to(device)


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
