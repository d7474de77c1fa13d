"""What is found out: figures, targets, and the table."""

import importlib.metadata
import json
import os
import platform
import re
import resource
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

import psutil


class Unit(NamedTuple):
    """How a figure is written."""

    name: str
    per_unit: float
    """How much of the base unit (seconds, bytes, events a second) one is."""
    digits: int


MICROSECONDS = Unit("µs", 1e-6, 2)
MILLISECONDS = Unit("ms", 1e-3, 3)
SECONDS = Unit("s", 1.0, 2)
THOUSANDS_A_SECOND = Unit("k/s", 1e3, 1)
KILOBYTES = Unit("KB", 1e3, 1)
MEGABYTES = Unit("MB", 1e6, 1)


@dataclass(frozen=True)
class Target:
    """What a row has to reach."""

    relation: Literal["at most", "at least"]
    limit: float
    """Of the ratio where there is a peer, else of our figure in the row's unit."""

    def met(self, value: float) -> bool:
        """Whether a value reaches it."""
        return value <= self.limit if self.relation == "at most" else value >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.relation == 'at most' else '≥'} {self.limit:g}"


@dataclass
class Row:
    """One comparison. Each round adds a sample of both sides, taken one right after the other."""

    key: str
    """Number of the work in the list of targets."""
    work: str
    unit: Unit
    peer_name: str | None
    """None where the figure stands for itself."""
    target: Target | None
    """None where the row is for information."""
    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)

    def add(self, ours: float, peer: float | None = None) -> None:
        """Adds the samples of a round, in base units."""
        self.ours.append(ours)
        if peer is not None:
            self.peer.append(peer)

    @property
    def ratios(self) -> list[float]:
        """Ours by the peer's, round by round."""
        return [ours / peer for ours, peer in zip(self.ours, self.peer, strict=False)]

    @property
    def ratio(self) -> float | None:
        """The median of the ratios.

        Not the ratio of the medians: a noisy machine is noisy for both sides of a round.
        """
        return median(self.ratios) if self.peer else None

    @property
    def judged(self) -> float:
        """What the target is about."""
        return self.ratio if self.ratio is not None else median(self.ours) / self.unit.per_unit

    @property
    def met(self) -> bool | None:
        """Whether the target is; None where there is none."""
        return None if self.target is None else self.target.met(self.judged)

    def cells(self) -> list[str]:
        """The row of the table."""
        verdict = {True: "yes", False: "NO", None: ""}[self.met]
        return [
            f"{self.key} {self.work}",
            self.show(self.ours),
            f"{self.show(self.peer)} {self.peer_name}" if self.peer else "",
            "" if self.ratio is None else f"{self.ratio:.2f}",
            "" if self.target is None else str(self.target),
            verdict,
        ]

    def show(self, samples: list[float]) -> str:
        """Writes the median of samples."""
        value = median(samples) / self.unit.per_unit
        return f"{value:.{self.unit.digits}f} {self.unit.name}"

    def as_json(self) -> dict[str, object]:
        """The row with all its samples."""
        return {
            "key": self.key,
            "work": self.work,
            "unit": self.unit.name,
            "ours": [value / self.unit.per_unit for value in self.ours],
            "peer_name": self.peer_name,
            "peer": [value / self.unit.per_unit for value in self.peer],
            "ratio": self.ratio,
            "ratios": self.ratios,
            "target": None if self.target is None else str(self.target),
            "met": self.met,
        }


HEADER = ["work", "ours", "peer", "ratio", "target", "met"]


def table(rows: list[Row]) -> str:
    """Writes rows as text, columns aligned."""
    lines = [HEADER, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    ruled = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in ruled
    )


def versions() -> dict[str, str]:
    """What was measured, and on how many cores."""
    programs = {
        "nats-server": [str(Path(sys.executable).parent / "nats-server"), "--version"],
        "redis-server": ["redis-server", "--version"],
        "node": ["node", "--version"],
    }
    found = {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("grpcio", "uvloop", "nats-py")},
    }
    for name, command in programs.items():
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        version = re.search(r"\bv=?(\d[\w.]*)", done.stdout)
        found[name] = version[1] if version else done.stdout.strip()
    return {**found, "cpus": str(len(os.sched_getaffinity(0)))}


class Others:
    """How much of the machine other processes took, from when this is made."""

    def __init__(self) -> None:
        self._busy, self._idle = _machine_seconds()
        self._own = _own_seconds()

    def share(self) -> float:
        """Their part of all processor time so far, 0 to 1. Own processes must have ended."""
        busy, idle = _machine_seconds()
        total = busy - self._busy + idle - self._idle
        others = busy - self._busy - (_own_seconds() - self._own)
        return max(0.0, others / total)


def _machine_seconds() -> tuple[float, float]:
    times = psutil.cpu_times()
    idle = times.idle + times.iowait
    # Time of guests is in user and nice already.
    return times.user + times.nice + times.system + times.irq + times.softirq + times.steal, idle


def _own_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def write_json(path: Path, rows: list[Row], about: dict[str, str]) -> None:
    """Writes every sample to a file."""
    result = {"about": about, "rows": [row.as_json() for row in rows]}
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
