"""Which tokens HTTM compares: blocks of neighbouring places of consecutive frames, and each block's destinations.

From Wang et al., HTTM: Head-wise Temporal Token Merging for Faster VGGT (arXiv 2511.21317).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from haste_compiler.errors import ConfigError


@dataclass(frozen=True)
class Block:
    """Tokens that are compared with each other, by their numbers in the whole sequence, in temporal order.

    Attributes:
        destinations: what the others may go to.
        sources: the others.
    """

    destinations: Sequence[int]
    sources: Sequence[int]


@dataclass(frozen=True)
class Blocks:
    """How the tokens of a sequence of frames are cut.

    Attributes:
        tokens: of all frames together.
        frames: one after the other, of as many tokens each.
        protected: the first tokens of each frame, camera and registers: alone, and in no block.
        places: the most consecutive tokens of a frame that a block has.
        depth: the most consecutive frames that a block has.
        kept: the share of a block's tokens that are destinations, 0 to 1; one token at least.
        anchored: all tokens of the first frame are destinations; fewer others are, as far as there are any.

    Raises:
        ConfigError: a value is out of range, or the tokens aren't whole frames.
    """

    tokens: int
    frames: int
    protected: int
    places: int
    depth: int
    kept: float
    anchored: bool

    def __post_init__(self) -> None:
        if self.frames < 1 or self.tokens % self.frames:
            raise ConfigError(f"{self.tokens} tokens are no {self.frames} frames of as many tokens each")
        if not 0 <= self.protected < self.of_frame:
            most = self.of_frame - 1
            raise ConfigError(
                f"{self.protected} of a frame's {self.of_frame} tokens are protected: allowed: 0 to {most}"
            )
        if self.places < 1 or self.depth < 1:
            raise ConfigError(
                f"blocks are of {self.places} tokens by {self.depth} frames: allowed is 1 and more of each"
            )
        if not 0 < self.kept <= 1:
            raise ConfigError(f"a share of {self.kept} of the tokens is kept: allowed is more than 0, and at most 1")

    @property
    def of_frame(self) -> int:
        """Tokens of a frame."""
        return self.tokens // self.frames

    @property
    def count(self) -> int:
        """Tokens that are kept: protected ones and destinations."""
        return self.frames * self.protected + sum(len(block.destinations) for block in self.cut())

    def cut(self) -> list[Block]:
        """All blocks."""
        return [
            self._block(frame, place)
            for frame in range(0, self.frames, self.depth)
            for place in range(self.protected, self.of_frame, self.places)
        ]

    def _block(self, frame: int, place: int) -> Block:
        frames = range(frame, min(frame + self.depth, self.frames))
        places = range(place, min(place + self.places, self.of_frame))
        # The same place of consecutive frames side by side.
        tokens = [f * self.of_frame + p for p in places for f in frames]
        wanted = max(1, round(self.kept * len(tokens)))
        chosen: set[int] = set()
        if self.anchored and frame == 0:
            chosen = set(places)
        others = [token for token in tokens if token not in chosen]
        more = max(0, wanted - len(chosen))
        chosen.update(others[i * len(others) // more] for i in range(more))
        return Block([t for t in tokens if t in chosen], [t for t in tokens if t not in chosen])
