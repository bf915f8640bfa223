"""docs/security.md names a test for each requirement: it has to be there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def functions_of(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_each_requirement_has_its_test() -> None:
    rows = [
        line
        for line in (ROOT / "docs" / "security.md").read_text().splitlines()
        if re.match(r"\| \d", line)
    ]
    assert len(rows) >= 35
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert test in functions_of(ROOT / file), row
