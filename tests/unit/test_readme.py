"""What the README says of settings and tests is so."""

import ast
import re
from itertools import groupby
from pathlib import Path

from switchboard_server.config import setting_rows

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def settings_table() -> str:
    lines = ["| name | default | what it does |", "|---|---|---|"]
    for section, rows in groupby(setting_rows(), key=lambda row: row.section):
        lines.append(f"| **{section}** | | |")
        lines += [f"| `{row.name}` | {row.default} | {row.help} |" for row in rows]
    return "\n".join(lines)


def test_the_settings_table_is_the_settings() -> None:
    assert settings_table() in README, f"put this table into README.md:\n{settings_table()}"


def test_every_promise_names_tests_that_exist() -> None:
    promises = README.partition("## What it promises")[2].partition("\n## ")[0]
    rows = [line for line in promises.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 10
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, f"names no test: {row}"
        for file, test in named:
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            functions = {
                node.name
                for node in ast.walk(tree)
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            assert test in functions, f"{file} has no {test}"
