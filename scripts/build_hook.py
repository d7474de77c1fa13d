"""Generates `switchboard.v1` from the protos: for a build, and for `scripts/gen`.

The build (hatchling) loads this file as its custom hook, so a wheel, an sdist and an editable
install all carry code generated from the protos beside it. Run as a program it does the same in
place.
"""

import importlib.metadata
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROTOS = Path("protos")
OUTPUT = Path("clients/python")
PACKAGE = Path("switchboard/v1")


class GenerationError(RuntimeError):
    """The protos could not be compiled; the text is what the compiler said."""


class ProtoBuildHook(BuildHookInterface[Any]):
    """Generates the code before hatchling collects the files of a build."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generate into the tree that is being built; see hatchling's build hook interface."""
        generate(Path(self.root))


def generate(root: Path) -> list[Path]:
    """Bring the generated package in line with the protos.

    Everything is compiled into a folder of its own first, and only files that differ are replaced,
    each at once: a failure leaves the old code whole, and a process that imports it meanwhile never
    reads half a file.

    Args:
        root: The project's folder, which holds `protos/`.

    Returns:
        The files that were written or removed, relative to the root; empty if all was current.

    Raises:
        GenerationError: There are no protos, or one of them does not compile.
    """
    protos = sorted((root / PROTOS / PACKAGE).glob("*.proto"))
    if not protos:
        raise GenerationError(f"there are no protos in {root / PROTOS / PACKAGE}")
    target = root / OUTPUT / PACKAGE
    target.mkdir(parents=True, exist_ok=True)
    # Beside the target, for a rename is only atomic within one file system.
    with tempfile.TemporaryDirectory(prefix=".generated-", dir=target.parent) as folder:
        _compile(root, protos, Path(folder))
        fresh = Path(folder) / PACKAGE
        (fresh / "__init__.py").write_text("", encoding="utf-8")
        return [path.relative_to(root) for path in _replace(fresh, target)]


def _compile(root: Path, protos: list[Path], output: Path) -> None:
    """Run protoc on all protos: messages, gRPC stubs, and the types of both."""
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"--proto_path={root / PROTOS}",
        f"--plugin=protoc-gen-mypy={_plugin('protoc-gen-mypy')}",
        f"--plugin=protoc-gen-mypy_grpc={_plugin('protoc-gen-mypy_grpc')}",
        f"--python_out={output}",
        f"--grpc_python_out={output}",
        f"--mypy_out=quiet:{output}",
        f"--mypy_grpc_out=quiet:{output}",
        *map(str, protos),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GenerationError(done.stderr.strip() or f"protoc ended with {done.returncode}")


def _plugin(name: str) -> Path:
    """Find a program of the mypy-protobuf that this interpreter would import.

    Not by PATH: that may hold another version, and a virtual environment need not be on it.
    """
    distribution = importlib.metadata.distribution("mypy-protobuf")
    for file in distribution.files or []:
        if file.name == name:
            return Path(str(distribution.locate_file(file))).resolve()
    raise GenerationError(f"mypy-protobuf {distribution.version} has no program {name}")


def _replace(fresh: Path, target: Path) -> list[Path]:
    """Make the target folder equal to the fresh one and return the paths that changed."""
    changed = []
    names = {path.name for path in fresh.iterdir()}
    for name in sorted(names):
        new, old = fresh / name, target / name
        if not old.exists() or old.read_bytes() != new.read_bytes():
            new.replace(old)
            changed.append(old)
    for old in sorted(target.iterdir()):
        if old.is_file() and old.name not in names:
            old.unlink()
            changed.append(old)
    return changed


def main() -> int:
    """Generate in the project that holds this script and say what changed.

    Returns:
        The exit code: 0 if the code is current now, 1 if the protos do not compile.
    """
    try:
        changed = generate(Path(__file__).resolve().parent.parent)
    except GenerationError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{OUTPUT / PACKAGE}: {len(changed)} files changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
