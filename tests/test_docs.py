"""The documentation's own links lead somewhere, and its first test runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("[bde]*/**/*.md")])
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The headings of a page, as a link names them."""
    headings = re.findall(r"^#+ +(.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    dead: list[str] = []
    for path, anchor in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(f"{path}#{anchor}")
    assert dead == []


def test_test_of_the_readme_runs_in_a_project_of_its_own(tmp_path: Path) -> None:
    """A bug once seen: it needed a line of configuration that stood nowhere."""
    readme = (ROOT / "README.md").read_text("utf-8")
    for name in ("mybot.py", "test_mybot.py", "pytest.ini"):
        (text,) = re.findall(
            rf"^```\w+\n(# {re.escape(name)}\n.*?)^```", readme, re.MULTILINE | re.DOTALL
        )
        (tmp_path / name).write_text(text, "utf-8")
    assert run_pytest(tmp_path) == "1 passed"


@pytest.mark.slow
def test_every_block_of_the_page_on_agents_is_a_test_that_passes(tmp_path: Path) -> None:
    """Issue 5: how to bring an agent of one's own is said with code that runs."""
    page = (ROOT / "docs" / "agents.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    # To import trio-asyncio changes asyncio for the whole process, as the page says.
    apart = [text for text in blocks if "trio_asyncio" in text]
    for name, texts in (("most", [text for text in blocks if text not in apart]), ("apart", apart)):
        folder = tmp_path / name
        folder.mkdir()
        for number, text in enumerate(texts):
            (folder / f"test_{number}.py").write_text(text, "utf-8")
        # Of trio-asyncio: Python 3.12 tells whoever imports it of its own replacements.
        known = "ignore:'\\w+ChildWatcher' is deprecated:DeprecationWarning"
        ini = f"[pytest]\ntrio_mode = true\nfilterwarnings =\n    error\n    {known}\n"
        (folder / "pytest.ini").write_text(ini, "utf-8")
        assert run_pytest(folder) == f"{len(texts)} passed"


def run_pytest(folder: Path) -> str:
    """Run the tests in a folder, and give how many passed; a failure shows all of it."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    (summary,) = re.findall(r"\d+ passed", done.stdout)
    return str(summary)
