"""How much a run does."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """How much a run does."""

    rounds: int
    """How often each side is measured."""
    quick: bool
    """Whether a look at whether all works is enough: figures are then too coarse to quote."""

    def events(self, full: int, batch: int = 1) -> int:
        """Scales a number of events, in whole batches."""
        return max(batch, (full // 8 if self.quick else full) // batch * batch)

    def turns(self, sides: Sequence[T], each_round: int = 1) -> Iterator[Sequence[T]]:
        """Gives the order of the sides for each comparison: another one begins every time.

        Args:
            sides: What is compared.
            each_round: Comparisons of a round. Where the clock decides and not processor time, many
                short ones are better than a long one: what else the machine does then falls on
                both sides alike, or shows in a few ratios only.
        """
        for turn in range(self.rounds * each_round):
            first = turn % len(sides)
            yield [*sides[first:], *sides[:first]]
