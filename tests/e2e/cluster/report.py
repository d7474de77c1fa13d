"""A trial by faults, and the table of what they did."""

from collections.abc import Sequence

from tests.e2e.cluster.faults import Fault
from tests.e2e.cluster.trial import Row, Trial

_COLUMNS = "{:<26} {:>8} {:>7} {:>7} {:>7} {:>10} {:>9} {:>10} {:>9} {:>8} {:>8} {:>6}"
HEADING = _COLUMNS.format(
    *("fault", "outage s", "pause s", "events", "places", "published", "answered", "delivered"),
    *("settled", "again", "refused", "lost"),
)
"""Events, places: seconds from the end of a fault until they were well again. Delivered: to all
fan-out subscribers together; settled, again: by all groups together."""


def line(row: Row) -> str:
    """A row as text."""
    return _COLUMNS.format(
        row.fault,
        *(f"{each:.1f}" for each in (row.outage, row.pause, row.events, row.places)),
        *(row.published, row.answered, row.delivered, row.settled, row.redelivered, row.refused),
        row.lost,
    )


def table(rows: Sequence[Row]) -> str:
    """Rows under their heading."""
    return "\n".join((HEADING, *map(line, rows)))


async def endure(trial: Trial, *befalling: Fault) -> list[Row]:
    """Lets faults befall hubs under load, one after the other, and prints what each did.

    Args:
        trial: The load, and the checks of what was answered.
        befalling: The faults.

    Raises:
        AssertionError: Something that was answered did not hold.
    """
    async with trial.running():
        rows = [await trial.meet(fault) for fault in befalling]
        await trial.finish()
    print(f"\n{table([*rows, trial.totals])}\n{trial.tally}")
    return rows
