"""The house installs as one namespace, however it is installed. Our choice: architecture.md."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
PACKAGES: list[str] = SETUPTOOLS["packages"]
FOLDERS: dict[str, str] = SETUPTOOLS["package-dir"]
LINKED = sorted(set(FOLDERS) - {"trialogue"})
WEB_FILES = [
    path
    for path in (ROOT / "web").rglob("*")
    if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
]

needs_links = pytest.mark.skipif(
    not any((ROOT / "trialogue").glob("*/__init__.py")), reason="this tree has lost its links"
)

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys, trialogue
from importlib.metadata import version

for name in sys.argv[1:]:
    importlib.import_module(name)
assert version("trialogue") == trialogue.__version__
print(trialogue.__file__)
"""


def run(command: Sequence[str | Path], cwd: Path) -> str:
    """Run a command to its end and return what it printed; a failure shows all of it."""
    # No PYTHONPATH and the like: the outer run's settings must not be what makes this pass.
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environ,
        check=False,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def copy_tree(target: Path, *, with_links: bool) -> Path:
    """Copy what a clone would have, with or without the links for static tools."""
    links = {Path(name.replace(".", "/")) for name in LINKED}

    def ignored(folder: str, names: list[str]) -> set[str]:
        here = Path(folder).relative_to(ROOT)
        return {
            name
            for name in names
            if name.startswith((".", "__pycache__"))
            or name.endswith(".egg-info")
            or name in {"build", "dist", "venv", "reports"}
            or (here / name in links and not with_links)
        }

    shutil.copytree(ROOT, target, symlinks=True, ignore=ignored)
    return target


class Environment:
    """A fresh environment that sees our dependencies, but gets its own trialogue."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.python = path / "bin" / "python"
        run([sys.executable, "-m", "venv", "--without-pip", path], path.parent)
        (site_packages,) = path.glob("lib/python*/site-packages")
        # After its own: a path file is read for paths alone, so that an editable trialogue of
        # the outer environment, which needs code to run, stays outside.
        outer = [entry for entry in sys.path if entry.endswith("-packages")]
        (site_packages / "outer.pth").write_text("\n".join(outer), "utf-8")

    def install(self, *arguments: str | Path) -> None:
        """Install without network."""
        pip: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            self.python,
            "--quiet",
            "install",
        ]
        offline = ["--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
        run([*pip, *offline, *arguments], self.path)

    def import_everything(self) -> Path:
        """Import every package, away from any tree; return where ``trialogue`` is."""
        said = run([self.python, "-I", "-c", IMPORT_EVERYTHING, *PACKAGES], self.path)
        return Path(said.strip()).parent


def build(what: str, tree: Path, target: Path) -> Path:
    """Build an sdist or a wheel of ``tree``, with the build backend that is here."""
    code = f"from setuptools.build_meta import *; build_{what}({str(target)!r})"
    run([sys.executable, "-c", code], tree)
    suffix = {"sdist": "*.tar.gz", "wheel": "*.whl"}[what]
    (built,) = target.glob(suffix)
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A wheel that was built from an sdist, which is how an installer gets it from an index."""
    pytest.importorskip("pip", reason="an environment without pip, such as uv's")
    work = tmp_path_factory.mktemp("wheel")
    sdist = build("sdist", copy_tree(work / "tree", with_links=True), work)
    shutil.unpack_archive(sdist, work / "sdist", filter="data")
    (unpacked,) = (work / "sdist").iterdir()
    yield build("wheel", unpacked, work)
    shutil.rmtree(work)


def test_every_folder_with_python_is_a_listed_package() -> None:
    """An unlisted sub-package works in an editable install, and is missing from the wheel."""
    found = {
        ".".join([name, *file.parent.relative_to(ROOT / folder).parts])
        for name, folder in FOLDERS.items()
        for file in (ROOT / folder).rglob("*.py")  # which does not walk into the links
    }
    assert found == set(PACKAGES)


@needs_links
@pytest.mark.parametrize("name", LINKED)
def test_each_folder_has_its_link(name: str) -> None:
    folder = name.removeprefix("trialogue.")
    assert FOLDERS[name] == folder
    assert os.readlink(ROOT / "trialogue" / folder) == f"../{folder}"


@pytest.mark.parametrize("name", LINKED)
def test_folder_refuses_its_wrong_name(name: str) -> None:
    """`import core` from the repository's root would make a second copy of every class."""
    folder = FOLDERS[name]
    code = f"try: import {folder}\nexcept ImportError as exc: print(exc)"
    assert f"import this as '{name}'" in run([sys.executable, "-c", code], ROOT)


@pytest.mark.parametrize("kind", ["agents", "stores", "transports"])
def test_every_public_module_stands_in_the_contract_of_its_kind(kind: str) -> None:
    """import-linter takes a list; a new transport that is not in it could import the others."""
    contracts = {c["id"]: c for c in PYPROJECT["tool"]["importlinter"]["contracts"]}
    layers: list[str] = contracts[kind]["layers"]
    named = {part.strip(" ()") for layer in layers for part in layer.split("|")}
    there = {path.stem for path in (ROOT / kind).glob("*") if path.stem[0] not in "_."}
    assert there <= named


@pytest.mark.slow
def test_wheel_has_every_package_once(wheel: Path) -> None:
    """Neither a package too few, nor a second copy by way of the links or under a bare name."""
    names = zipfile.ZipFile(wheel).namelist()
    inside = {str(Path(name).parent).replace("/", ".") for name in names if name.endswith(".py")}
    assert inside == set(PACKAGES)
    assert len(names) == len(set(names))
    assert "trialogue/py.typed" in names
    page = {f"trialogue/web/{file.relative_to(ROOT / 'web')}" for file in WEB_FILES}
    assert page <= set(names)


@pytest.mark.slow
def test_wheel_installs_and_everything_imports(wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv")
    environment.install(wheel)
    assert environment.import_everything().is_relative_to(environment.path)
    assert "trialogue" in run([tmp_path / "venv/bin/trialogue", "--help"], tmp_path)


@pytest.mark.campaign  # who runs the tests has it installed so, as a rule
@pytest.mark.parametrize(
    "with_links",
    [pytest.param(True, id="links", marks=needs_links), pytest.param(False, id="no-links")],
)
def test_editable_install_works(tmp_path: Path, *, with_links: bool) -> None:
    """The links may be lost, in an archive say: they are for static tools alone."""
    pytest.importorskip("pip", reason="an environment without pip, such as uv's")
    tree = copy_tree(tmp_path / "tree", with_links=with_links)
    assert (tree / "trialogue" / "core").is_symlink() == with_links
    environment = Environment(tmp_path / "venv")
    environment.install("--editable", tree)
    assert environment.import_everything() == tree / "trialogue"
    for cwd in (tmp_path, tree):
        assert "trialogue" in run([environment.python, "-m", "trialogue", "--help"], cwd)


@pytest.mark.slow
def test_wheel_is_the_same_without_the_links(wheel: Path, tmp_path: Path) -> None:
    tree = copy_tree(tmp_path / "tree", with_links=False)
    other = build("wheel", tree, tmp_path)
    assert sorted(zipfile.ZipFile(other).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


BARE_INSTALL = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in {"cyclopts", "prompt_toolkit", "rich", "typed_settings", "trialogue.cli.main"}:
            raise ModuleNotFoundError(name="cyclopts")

sys.meta_path.insert(0, Absent())
from trialogue.__main__ import main
main()
"""


def test_bare_install_says_what_the_command_line_needs() -> None:
    """Without the extra [cli] the command ends with one line and exit code 2."""
    done = subprocess.run(
        [sys.executable, "-c", BARE_INSTALL],
        check=False,
        capture_output=True,
        encoding="utf-8",
        timeout=30,
    )
    said = "trialogue: the command line needs 'cyclopts': pip install 'trialogue[cli]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_both_type_checkers_see_the_examples() -> None:
    """mypy refuses a folder without Python, so the first example has to add itself."""
    if any((ROOT / "examples").rglob("*.py")):
        assert "examples" in PYPROJECT["tool"]["mypy"]["files"]
    assert "examples" in PYPROJECT["tool"]["pyright"]["include"]
