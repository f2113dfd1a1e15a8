"""One step of the reverse process: a masked sequence and the model's logits give a draft.

Logits come for the masked positions only, as (N, V) in row-major order of the mask, so the vocabulary is never
spread over positions that nobody fills.
"""

import torch

DRAFT_SELECTIONS = ("random", "semi_autoregressive")


def lowest_k(scores: torch.Tensor, candidates: torch.Tensor, k: torch.Tensor | int) -> torch.Tensor:
    """The `k` candidates of each row with the lowest score; all of them where a row has fewer.

    Args:
        scores: (B, L).
        candidates: (B, L) bool.
        k: int or (B,) int.

    Returns:
        (B, L) bool.
    """
    ranks = scores.masked_fill(~candidates, torch.inf).argsort(dim=-1, stable=True).argsort(dim=-1)
    if isinstance(k, torch.Tensor):
        k = k[:, None]
    return (ranks < k) & candidates


def nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Set to minus infinity what lies outside the smallest set of tokens with total probability >= `top_p`.

    Args:
        logits: (N, V).
    """
    ordered, order = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    outside = probabilities.cumsum(dim=-1) - probabilities >= top_p
    return logits.masked_fill(outside.scatter(-1, order, outside), -torch.inf)


def sample_tokens(logits: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Categorical draw by the Gumbel-max trick in float64; float32 noise truncates the tails (arXiv 2409.02908).

    Args:
        logits: (N, V).

    Returns:
        (N,) int64.
    """
    uniform = torch.rand(logits.shape, generator=generator, device=logits.device, dtype=torch.float64)
    gumbel = -torch.log(-torch.log(uniform.clamp_min(torch.finfo(torch.float64).tiny)))
    return (logits.double() + gumbel).argmax(dim=-1)


def select_positions(
    masked: torch.Tensor,
    confidence: torch.Tensor,
    num_positions: int,
    selection: str = "random",
    window: int = 512,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Which masked positions of `z` a draft fills (PRISM, section 3; FACTS: random or semi-autoregressive).

    Args:
        masked: (B, L) bool.
        confidence: (N,) largest probability at each masked position, row-major.
        num_positions: K; rows with fewer masks fill all of them.
        selection: `random`, or `semi_autoregressive` for the most confident of the leftmost `window` masks.

    Returns:
        (B, L) bool with at most K per row.
    """
    if selection == "random":
        scores = torch.rand(masked.shape, generator=generator, device=masked.device)
        return lowest_k(scores, masked, num_positions)
    if selection == "semi_autoregressive":
        leftmost = masked & (masked.cumsum(dim=-1) <= window)
        scores = torch.zeros(masked.shape, dtype=confidence.dtype, device=masked.device)
        return lowest_k(scores.masked_scatter(masked, -confidence), leftmost, num_positions)
    raise ValueError(f"draft_selection is {selection!r}; it must be one of {', '.join(DRAFT_SELECTIONS)}.")


@torch.no_grad()
def draft(
    z: torch.Tensor,
    masked: torch.Tensor,
    logits: torch.Tensor,
    mask_token_id: int,
    num_positions: int,
    selection: str = "random",
    sample: bool = True,
    top_p: float = 1.0,
    num_drafts: int = 1,
    window: int = 512,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fill K masked positions of `z` from the model's posterior; no gradient flows through (PRISM, algorithm 1).

    Args:
        z: (B, L) masked sequences.
        masked: (B, L) bool, where `z` is masked.
        logits: (N, V) at the masked positions, row-major.
        sample: draw from the posterior, or take its argmax.
        num_drafts: independent drafts of each `z`; draft d of row b is row `d * B + b`.

    Returns:
        `y` (num_drafts * B, L) and `filled` of the same shape, bool.
    """
    logits = logits.detach().float().clone()
    logits[:, mask_token_id] = -torch.inf
    confidence = logits.softmax(dim=-1).amax(dim=-1)
    if top_p < 1:
        logits = nucleus(logits, top_p)
    drafts, fills = [], []
    for _ in range(num_drafts):
        filled = select_positions(masked, confidence, num_positions, selection, window, generator)
        at_masked = filled[masked]
        chosen = logits[at_masked]
        tokens = sample_tokens(chosen, generator) if sample else chosen.argmax(dim=-1)
        drafts.append(z.masked_scatter(filled, tokens))
        fills.append(filled)
    return torch.cat(drafts), torch.cat(fills)
