"""Packages: their siblings are of this distribution, and what is built holds all of it and runs anywhere."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from setuptools import find_packages

from circuits.common.siblings import PACKAGES, check_siblings

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def said(program: str, where: Path, *paths: Path) -> str:
    """What a program prints that looks for packages in ``paths``, the script's own folder first."""
    script = where / "mine.py"
    script.write_text(program)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run([sys.executable, str(script)], cwd=where, env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr


IMPORTS = """
from importlib import import_module
for name in {names}:
    try:
        import_module(name)
        print("imported", name)
    except ImportError as error:
        print(f"{{type(error).__name__}} of {{name}}: {{error}}")
"""


def test_own_siblings_pass(tmp_path: Path) -> None:
    check_siblings()
    program = IMPORTS.format(names=[*PACKAGES, "experiments.cli"])
    for paths in ((), (ROOT,)):
        assert said(program, tmp_path, *paths).splitlines() == [f"imported {n}" for n in (*PACKAGES, "experiments.cli")]


def test_a_link_to_the_same_folder_is_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(ROOT)
    (tmp_path / "work").mkdir()
    program = IMPORTS.format(names=list(PACKAGES))
    assert said(program, tmp_path / "work", tmp_path / "linked").count("imported") == 4


@pytest.mark.parametrize("foreign", PACKAGES)
@pytest.mark.parametrize("kind", ["package", "module"])
def test_a_foreign_sibling_is_named_with_what_to_do(kind: str, foreign: str, tmp_path: Path) -> None:
    mine = tmp_path / (f"{foreign}.py" if kind == "module" else foreign)
    if kind == "module":
        mine.write_text("")
    else:
        mine.mkdir()
        (mine / "__init__.py").write_text("")
    others = [name for name in PACKAGES if name != foreign]
    lines = said(IMPORTS.format(names=others), tmp_path).splitlines()
    assert len(lines) == 3
    for name, line in zip(others, lines, strict=True):
        assert line.startswith(f"ImportError of {name}: 'import {foreign}' finds {mine}, "), line
        assert f"the package '{foreign}' of valuestream (that is in {ROOT})" in line
        assert f"Rename it, start Python in another directory, or put {ROOT} before it on sys.path" in line
    first = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    assert said(first + IMPORTS.format(names=others), tmp_path).count("imported") == 3, "what it says to do, helps"


@pytest.mark.parametrize("name", PACKAGES)
def test_a_folder_of_data_is_no_package(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "plot.png").write_bytes(b"")
    assert said(f"import {name}\nprint({name}.__file__)", tmp_path).strip() == str(ROOT / name / "__init__.py")
    assert said(IMPORTS.format(names=list(PACKAGES)), tmp_path).count("imported") == 4


def test_a_foreign_module_that_is_imported_already_is_seen(tmp_path: Path) -> None:
    program = "import sys, types\nsys.modules['analysis'] = types.ModuleType('analysis')\nimport experiments\n"
    told = said(program, tmp_path)
    assert "ImportError: 'import analysis' finds a module 'analysis' that was put into sys.modules" in told


# --- what is built --------------------------------------------------------------------------------------------------


def sources() -> set[str]:
    """Every file of Python in the packages."""
    return {str(p.relative_to(ROOT)) for package in PACKAGES for p in (ROOT / package).rglob("*.py")}


def data() -> set[str]:
    """What lies in the packages beside Python, and is needed where they are installed."""
    found = {f"{package}/py.typed" for package in PACKAGES}
    patterns = ("experiments/**/*.ipynb", "experiments/**/*.toml", "figures/data/*", "figures/*.md")
    patterns += ("figures/*.[jc]s*", "figures/explore/*.[jc]s*")
    return found | {str(p.relative_to(ROOT)) for pattern in patterns for p in ROOT.glob(pattern)}


def test_every_module_is_in_a_package_that_is_found() -> None:
    settings = SETTINGS["packages"]["find"]
    assert settings["namespaces"] is False, "folders of data are no packages"
    found = find_packages(str(ROOT), include=settings["include"])
    assert set(found) == {str(Path(name).parent).replace("/", ".") for name in sources()}


def test_all_data_is_declared() -> None:
    declared = {
        str(path.relative_to(ROOT))
        for package, patterns in SETTINGS["package-data"].items()
        for folder in (PACKAGES if package == "*" else [package])
        for pattern in patterns
        for path in (ROOT / folder).glob(pattern)
    }
    assert declared == data()


def files_of(site: Path) -> dict[str, str]:
    """Every file of an installation with its hash; compiled modules are the interpreter's."""
    files = (path for path in site.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {str(path.relative_to(site)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def ran(command: Sequence[str | Path], where: Path) -> str:
    """The output of a command that ends well."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], cwd=where, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the packages as they are, built from a copy so that nothing is left behind here."""
    copy = tmp_path_factory.mktemp("copy")
    for name in sources() | data() | {"pyproject.toml", "README.md", "LICENSE"}:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist"]
    ran([sys.executable, "-m", "pip", "wheel", *options, "."], copy)
    [built] = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel alone in it, which finds what it needs in this one's."""
    environment = tmp_path_factory.mktemp("environment")
    ran([sys.executable, "-m", "venv", "--without-pip", environment], environment)
    python = environment / "bin" / "python"
    options = ["--quiet", "--no-deps", "--no-index"]
    ran([sys.executable, "-m", "pip", "--python", python, "install", *options, wheel], environment)
    [site] = environment.glob("lib/python*/site-packages")
    (site / "needed.pth").write_text(sysconfig.get_path("purelib"))
    return environment


@pytest.mark.slow
def test_the_wheel_holds_everything(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == sources() | data()


@pytest.mark.slow
def test_figures_and_tables_are_made_in_an_empty_directory(installed: Path, tmp_path: Path) -> None:
    [site] = installed.glob("lib/python*/site-packages")
    where = ran([installed / "bin" / "python", "-c", "import circuits; print(circuits.__file__)"], tmp_path)
    assert Path(where.strip()) == site / "circuits" / "__init__.py"
    before = files_of(site)
    printed = ran([installed / "bin" / "valuestream", "figures", "--images", "no"], tmp_path)
    assert "figures into figures\n" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["figures"]
    page = (tmp_path / "figures" / "report.md").read_text()
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.json")}
    assert len(drawn) > 30
    assert {path.stem for path in (tmp_path / "figures").glob("*.html")} == drawn
    assert "[controls](controls.html)" in page
    assert "](rendered/" not in page
    assert "<!-- begin controls -->\n| compared | got there |" in page
    assert files_of(site) == before, "nothing is written into the installation"


@pytest.mark.slow
def test_results_are_not_put_into_an_installation(installed: Path, tmp_path: Path) -> None:
    command = [str(installed / "bin" / "valuestream"), "collect"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "came with valuestream and are not written to; say where these go: --bundle DIR" in done.stderr


@pytest.mark.slow
def test_the_demonstration_runs_in_an_empty_directory(installed: Path, tmp_path: Path) -> None:
    [site] = installed.glob("lib/python*/site-packages")
    before = files_of(site)
    ran([installed / "bin" / "valuestream", "demo", "--size", "smallest"], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"demo", "runs"}
    assert (tmp_path / "demo" / "index.html").is_file()
    assert files_of(site) == before


@pytest.mark.slow
def test_a_notebook_and_the_switchboard_are_made_in_an_empty_directory(installed: Path, tmp_path: Path) -> None:
    command = installed / "bin" / "valuestream"
    assert "1_first_look" in ran([command, "notebooks", "1", "--small", "--into", "mine"], tmp_path)
    [run] = (tmp_path / "mine" / "runs").iterdir()
    options = ["--n", "4", "--most-steps", "2", "--root", "mine/runs"]
    assert "switchboard.html" in ran([command, "explore", run.name, *options], tmp_path)
    page = (run / "results" / "switchboard.html").read_text()
    assert run.name in page
    assert 'href="http' not in page
    assert "src=" not in page.partition('type="application/json"')[0], "nothing is loaded"
