"""Envoy, the real one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ENVOY = Path(sys.executable).with_name("envoy")


@contextmanager
def envoy(folder: Path, config: str) -> Iterator[None]:
    """An Envoy that runs.

    Args:
        folder: Where its configuration is written.
        config: The configuration, as JSON.
    """
    (folder / "envoy.json").write_text(config)
    # Envoys on one machine share memory under a number, so this one has its own.
    own = ("--base-id", str(os.getpid()), "--concurrency", "1", "--log-level", "error")
    with subprocess.Popen([ENVOY, "-c", folder / "envoy.json", *own]) as process:
        try:
            yield
        finally:
            process.kill()
