"""A client process: `python -m scripts.benchmarks.worker MODULE:FUNCTION ARGUMENTS`.

A client never shares a process with what it loads, nor with the program that measures. It says what
it has done in lines of JSON on standard output, and waits for lines on standard input.
"""

import asyncio
import importlib
import json
import sys
from typing import Any

import uvloop


class Link:
    """A worker's connection to the program that started it."""

    def report(self, stage: str, **facts: object) -> None:
        """Says that a stage is reached.

        Args:
            stage: Its name, for which `processes.Worker.expect` waits.
            facts: What was found out.
        """
        print(json.dumps({"stage": stage, **facts}), flush=True)

    async def go(self) -> bool:
        """Waits to be told to go on, and returns whether to."""
        return bool(await asyncio.to_thread(sys.stdin.readline))


def main() -> None:
    """Runs one role."""
    module, function = sys.argv[1].split(":")
    role: Any = getattr(importlib.import_module(f"scripts.benchmarks.{module}"), function)
    uvloop.run(role(Link(), **json.loads(sys.argv[2])))


if __name__ == "__main__":
    main()
