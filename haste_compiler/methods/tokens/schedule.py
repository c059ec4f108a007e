"""How many tokens merge in each layer."""

from __future__ import annotations

from haste_compiler.methods.tokens.config import DEFAULT_KEEP, TokenConfig
from haste_compiler.methods.tokens.reference.bipartite import most_merged


def merged_in(config: TokenConfig, tokens: int, protected: int, layers: int, layer: int) -> int:
    """How many tokens merge behind one of the layers, as asked for; there may be fewer left.

    Args:
        config: of the layer.
        tokens: before the first layer.
        protected: those of them that never merge.
        layers: that merge.
        layer: which of them, from 0.
    """
    total = _by_share(config, tokens, protected) if config.r is None else config.r * layers
    return _spread(total, layers, layer, config.schedule)


def merged_at_once(config: TokenConfig, tokens: int, protected: int) -> int:
    """How many tokens merge in one attention that copies them back."""
    wanted = _by_share(config, tokens, protected) if config.r is None else config.r
    return min(wanted, most_merged(tokens, protected))


def _by_share(config: TokenConfig, tokens: int, protected: int) -> int:
    """How many of the tokens merge in all, by the share that is kept."""
    keep = DEFAULT_KEEP if config.keep is None else config.keep
    return round((1 - keep) * (tokens - protected))


def _spread(total: int, layers: int, layer: int, schedule: str) -> int:
    """A layer's part of the tokens that merge in all."""
    if schedule == "falling" and layers > 1:
        # ToMe's: from twice the mean down to none.
        return int(2 * total / layers * (1 - layer / (layers - 1)))
    return round(total * (layer + 1) / layers) - round(total * layer / layers)
