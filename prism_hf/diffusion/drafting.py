"""One step of the reverse process: a masked sequence and the model's logits give a draft.

Logits are asked for at the positions that are filled, so the vocabulary is never spread over the others. Randomness
comes in as uniform draws, one a position, so that a draft of some rows is the same whatever other rows are drafted
with them.
"""

from collections.abc import Callable

import torch

DRAFT_SELECTIONS = ("random", "semi_autoregressive")


def lowest_first(score: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Positions of each row (B, L) int64: candidates by ascending score (ties: leftmost first), then all the others.

    `score` (B, L) may hold infinities; `candidates` (B, L) bool.
    """
    by_score = score.argsort(dim=-1, stable=True)
    outsiders = (~candidates).gather(-1, by_score).to(torch.uint8)
    return by_score.gather(-1, outsiders.argsort(dim=-1, stable=True))


def select_lowest(score: torch.Tensor, candidates: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
    """The `count` (int or (B,)) candidates of lowest score in each row, or all of them where fewer. (B, L) bool."""
    rank = lowest_first(score, candidates).argsort(dim=-1)
    return (rank < (count[:, None] if isinstance(count, torch.Tensor) else count)) & candidates


def take_positions(values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Values (B, L, D) at the positions (B, W) of their rows: (B, W, D)."""
    return values[torch.arange(values.shape[0], device=values.device)[:, None], positions]


def exclude_token(logits: torch.Tensor, token_id: int) -> torch.Tensor:
    """Give one token probability 0, as the mask has in losses and draws alike (SUBS). (..., V) -> (..., V)."""
    return logits.masked_fill(torch.arange(logits.shape[-1], device=logits.device) == token_id, -torch.inf)


def nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the smallest set of likeliest tokens whose probability reaches `top_p`; the others get minus infinity.

    The likeliest token always stays, as `top_p` is above 0. `logits` (..., V) -> (..., V).
    """
    ordered, index = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    ordered = ordered.masked_fill(before >= top_p, -torch.inf)
    return torch.empty_like(logits).scatter_(-1, index, ordered)


def invert_cdf(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Categorical draws by inverting the cumulative distribution in float64, which keeps the tails exact.

    Args:
        logits (`torch.Tensor` of shape `(N, V)`): Of the distributions.
        uniform (float64 `torch.Tensor` of shape `(N,)`): Draws in [0, 1).

    Returns:
        (N,) int64, never a token of probability 0; the last token where logits are NaN, which a loss is to tell.
    """
    cumulative = logits.double().softmax(-1).cumsum(-1)
    # The sum may miss 1 by rounding; scaled by the last entry, the threshold stays below it.
    threshold = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


def select_positions(
    masked: torch.Tensor,
    confidence: torch.Tensor | None,
    num_positions: int,
    uniform: torch.Tensor,
    selection: str = "random",
    window: int = 512,
) -> torch.Tensor:
    """Which masked positions of `z` a draft fills (PRISM, arXiv 2510.01384).

    Args:
        masked (bool `torch.Tensor` of shape `(B, L)`): Where `z` is masked.
        confidence (`torch.Tensor` of shape `(N,)`, *optional*): Largest probability at each masked position, row-major;
            `random` does without.
        num_positions (`int`): K; rows with fewer masks fill all of them.
        uniform (`torch.Tensor` of shape `(B, L)`): Draws in [0, 1) for `random`.
        selection (`str`, *optional*, defaults to `"random"`): Or `"semi_autoregressive"`, for the most confident of the
            leftmost `window` masks.
        window (`int`, *optional*, defaults to 512): See `selection`.

    Returns:
        (B, L) bool with at most K a row.
    """
    if selection == "random":
        return select_lowest(uniform, masked, num_positions)
    if selection == "semi_autoregressive":
        leftmost = masked & (masked.cumsum(dim=-1) <= window)
        score = torch.zeros(masked.shape, dtype=confidence.dtype, device=masked.device)
        return select_lowest(score.masked_scatter(masked, -confidence), leftmost, num_positions)
    raise ValueError(f"draft_selection is {selection!r}; it must be one of {', '.join(DRAFT_SELECTIONS)}.")


@torch.no_grad()
def fill(
    z: torch.Tensor,
    filled: torch.Tensor,
    logits_at: Callable[[torch.Tensor], torch.Tensor],
    mask_token_id: int,
    uniform: torch.Tensor,
    sample: bool = True,
    top_p: float = 1.0,
    rows_at_once: int | None = None,
) -> torch.Tensor:
    """Put a token from the model's posterior, never the mask, at each position to be filled; no gradient.

    Args:
        z (`torch.Tensor` of shape `(B, L)`): Masked sequences.
        filled (bool `torch.Tensor` of shape `(B, L)`): Where a token goes, N positions.
        logits_at (`Callable`): The positions are numbered in row-major order; given some numbers (M,), their logits
            (M, V).
        mask_token_id (`int`): The mask token.
        uniform (float64 `torch.Tensor` of shape `(B, L)`): Draws in [0, 1).
        sample (`bool`, *optional*, defaults to `True`): Draw from the posterior, or take its argmax.
        top_p (`float`, *optional*, defaults to 1.0): Draw from the smallest set of tokens that has this probability.
        rows_at_once (`int`, *optional*, defaults to all): The most positions whose logits exist at a time.

    Returns:
        `y` (B, L).
    """
    uniform = uniform[filled]
    tokens = []
    for index in torch.arange(len(uniform), device=z.device).split(rows_at_once or max(1, len(uniform))):
        logits = exclude_token(logits_at(index).float(), mask_token_id)
        if sample:
            tokens.append(invert_cdf(nucleus(logits, top_p) if top_p < 1 else logits, uniform[index]))
        else:
            tokens.append(logits.argmax(dim=-1))
    return z.masked_scatter(filled, torch.cat(tokens))


@torch.no_grad()
def draft(
    z: torch.Tensor,
    masked: torch.Tensor,
    logits_at: Callable[[torch.Tensor], torch.Tensor],
    mask_token_id: int,
    num_positions: int,
    uniform: torch.Tensor,
    confidence: torch.Tensor | None = None,
    selection: str = "random",
    sample: bool = True,
    top_p: float = 1.0,
    window: int = 512,
    num_steps: int = 1,
    reread: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fill K masked positions of `z` from the model's posterior; no gradient flows through (PRISM, algorithm 1).

    With `num_steps` above 1 a draft is made as a generation is: some positions at a time, in random order, each step
    reading what those before it wrote, so that it has the mistakes that follow from a mistake. As a draft still depends
    on `z` alone, its quality is defined as before.

    Args:
        z (`torch.Tensor` of shape `(B, L)`): Masked sequences.
        masked (bool `torch.Tensor` of shape `(B, L)`): Where `z` is masked.
        logits_at (`Callable`): The masked positions are numbered in row-major order; given some numbers (M,), their
            logits (M, V).
        mask_token_id (`int`): The mask token.
        num_positions (`int`): K.
        uniform (float64 `torch.Tensor` of shape `(D, 2, B, L)`): Draws in [0, 1): which positions, which tokens, for
            each of D drafts of each `z`.
        confidence, selection, window: As for `select_positions`.
        sample, top_p: As for `fill`.
        num_steps (`int`, *optional*, defaults to 1): Forwards that a draft takes, the one behind `logits_at` included.
        reread (`Callable`, *optional*): Given a draft (B, L) and N of its positions, (B, L) bool, their logits (N, V).

    Returns:
        `y` (D * B, L) and `filled` of the same shape, bool; draft d of row b is row `d * B + b`.
    """
    number_of = (masked.flatten().cumsum(0) - 1).view_as(masked)
    drafts, fills = [], []
    for for_position, for_token in uniform:
        filled = select_positions(masked, confidence, num_positions, for_position, selection, window)
        step_of = lowest_first(for_position, filled).argsort(dim=-1) * num_steps // num_positions
        y = z
        for step in range(num_steps):
            now = filled & (step_of == step)
            logits = logits_at(number_of[now]) if step == 0 else reread(y, now)
            y = fill(y, now, logits.__getitem__, mask_token_id, for_token, sample, top_p)
        drafts.append(y)
        fills.append(filled)
    return torch.cat(drafts), torch.cat(fills)
