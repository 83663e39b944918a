"""Every check, and the demo. `nox` runs all that CI runs; `nox -s demo` trains a transformer.

The packages are those in packages/; each is tested from its built wheel, with the versions of
constraints.txt.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

import nox
from packaging.requirements import Requirement

ROOT = Path(__file__).parent
CORE = "athena-core"
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
WITH_ORACLES = [name for name in PACKAGES if (ROOT / "packages" / name / "tests" / "oracles").is_dir()]
TIERS = sorted(path.name for path in (ROOT / "packages/athena-xpu/tiers").iterdir() if path.is_dir())
RL = ["stable-baselines3", "sb3-contrib", "torchrl", "tensordict"]
PARALLEL = "pytest-xdist"
WHEELS: dict[str, str] = {}

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = (
    "lint",
    "build",
    "tests",
    "oracles",
    "tiers",
    "integration",
    "scaffold",
    "types",
    "docs",
    "lowest",
)


def project(package: str) -> dict:
    return nox.project.load_toml(str(ROOT / "packages" / package / "pyproject.toml"))


def group(package: str, name: str) -> list[str]:
    return list(nox.project.dependency_groups(project(package), name))


def wheels(session: nox.Session) -> dict[str, str]:
    """Each package's wheel by name, built once a nox process."""
    if not WHEELS:
        folder = Path(tempfile.mkdtemp(prefix="athena-wheels-"))
        sources = [str(ROOT / "packages" / name) for name in PACKAGES]
        session.run("python", "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), *sources)
        for name in PACKAGES:
            WHEELS[name] = str(next(folder.glob(f"{name.replace('-', '_')}-*.whl")))
    return WHEELS


def install(
    session: nox.Session, *packages: str, also: list[str], constraints: Path = ROOT / "constraints.txt"
) -> None:
    """Install the wheels of these packages, anew, and what else is named, under the constraints."""
    forget_others(session)
    mine = [wheels(session)[name] for name in packages]
    session.install("-q", "-c", str(constraints), *mine, *also)
    session.install("-q", "--force-reinstall", "--no-deps", *mine)


def run_tests(session: nox.Session, *arguments: str) -> None:
    """Run pytest in a process a core, four at most, each with one thread and whole files."""
    workers = min(4, os.cpu_count() or 1)
    options = ["-n", str(workers), "--dist", "loadfile", *arguments, *session.posargs]
    session.run("pytest", *options, env={"OMP_NUM_THREADS": "1"})


def forget_others(session: nox.Session) -> None:
    """With ``CI`` set, remove the environments of other sessions: all together take over 20 GB."""
    if os.environ.get("CI"):
        own = Path(session.virtualenv.location)
        for other in own.parent.iterdir():
            if other.is_dir() and other != own:
                shutil.rmtree(other)


def together(package: str) -> list[str]:
    """The package with the core under it."""
    return [CORE] if package == CORE else [CORE, package]


@nox.session
def demo(session: nox.Session) -> None:
    """Train a transformer on real text, from parts found by name: the main job."""
    install(session, *PACKAGES, also=["matplotlib"])
    session.run("athena", "list")
    session.run("athena", "run", "lm", *session.posargs)
    session.log(f"this environment stays: `. {session.bin}/activate` brings the command `athena`")


@nox.session
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def tests(session: nox.Session, package: str) -> None:
    """Test the wheel of one package with the core's alone: this proves what its metadata declares."""
    install(session, *together(package), also=[*group(package, "tests"), PARALLEL])
    folder = ROOT / "packages" / package / "tests"
    run_tests(session, str(folder), f"--ignore={folder / 'oracles'}")


@nox.session
@nox.parametrize("package", WITH_ORACLES, ids=WITH_ORACLES)
def oracles(session: nox.Session, package: str) -> None:
    """Compare one package with other libraries."""
    also = [*group(package, "tests"), *group(package, "oracles"), PARALLEL]
    install(session, *together(package), also=also)
    run_tests(session, str(ROOT / "packages" / package / "tests" / "oracles"))


@nox.session
@nox.parametrize("tier", TIERS, ids=TIERS)
def tiers(session: nox.Session, tier: str) -> None:
    """Prove one side of athena-xpu without its device, on what the other packages do there."""
    install(session, *PACKAGES, also=[*group("athena-xpu", "tiers"), *RL[:1], PARALLEL])
    run_tests(session, str(ROOT / "packages" / "athena-xpu" / "tiers" / tier))


@nox.session
def integration(session: nox.Session) -> None:
    """Test what needs several packages."""
    install(session, *PACKAGES, also=[*group(CORE, "tests"), "hatchling", "scikit-learn", *RL, PARALLEL])
    run_tests(session, str(ROOT / "integration"))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install("-q", "-c", "constraints.txt", "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, and that pyright looked at every source file."""
    also = ["pyright[nodejs]", "matplotlib", "tensorboard", "pytest", "nox", "scikit-learn", "onnxscript"]
    also += [*RL, "triton", "metaworld"]
    # From the checkout: a class of a wheel is another one than that of the file which is looked at.
    editable = [part for name in PACKAGES for part in ("-e", str(ROOT / "packages" / name))]
    session.install("-q", "-c", "constraints.txt", *editable, *also)
    output = session.run("pyright", "--stats", silent=True) or ""  # nox prints it all if there are errors
    sources = [path for path in ROOT.glob("packages/*/src/**/*") if path.suffix in (".py", ".pyi")]
    counted = re.search(r"files checked: (\d+)", output)
    checked = int(counted[1]) if counted else 0
    if checked < len(sources):
        session.error(
            f"pyright must check all {len(sources)} files of packages/*/src; see `include`:\n{output}"
        )
    session.log(f"{checked} files checked")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    install(session, *PACKAGES, also=["sphinx", "myst-parser", "furo", "matplotlib", "pytest", *RL])
    output = ROOT / "docs" / "_build"
    session.run("sphinx-build", "-W", "--keep-going", "-q", "-b", "html", "docs", str(output))
    session.log(f"built {output / 'index.html'}")


@nox.session
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def lowest(session: nox.Session, package: str) -> None:
    """Test one package with the oldest versions it declares; torch stays at the constrained one."""
    floors = {}
    for name in together(package):
        metadata = project(name)["project"]
        extras = metadata.get("optional-dependencies", {})
        optional = [text for extra in ("plot", "gym") for text in extras.get(extra, [])]
        for requirement in map(Requirement, [*metadata["dependencies"], *optional]):
            lower = [s.version for s in requirement.specifier if s.operator == ">="]
            if requirement.name != "torch" and not requirement.name.startswith("athena-"):
                floors[requirement.name] = f"{requirement.name}=={lower[0]}"
    constraints = Path(session.create_tmp()) / "lowest.txt"
    torch = next(
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch==")
    )
    constraints.write_text("\n".join([torch, *floors.values()]) + "\n")
    also = [*group(package, "tests"), PARALLEL]
    install(session, *together(package), also=also, constraints=constraints)
    folder = ROOT / "packages" / package / "tests"
    # Old releases warn of what newer ones have mended; only their behaviour is tested.
    options = ["-q", "-W", "default", "--disable-warnings", f"--ignore={folder / 'oracles'}"]
    run_tests(session, *options, str(folder))


@nox.session
def scaffold(session: nox.Session) -> None:
    """Make a package with `athena new`, install it, and run its own tests."""
    install(session, CORE, also=["pytest", "hatchling"])
    folder = Path(session.create_tmp()) / "my-plugin"
    shutil.rmtree(folder, ignore_errors=True)
    session.run("python", "-m", "pip", "uninstall", "-q", "-y", "my-plugin")  # of an earlier run
    session.run("athena", "new", str(folder))
    session.install("-q", "--no-build-isolation", "--no-deps", "--force-reinstall", str(folder))
    listed = session.run("athena", "list", silent=True) or ""
    if "my-plugin" not in listed:
        session.error(f"`athena list` does not show the new package:\n{listed}")
    session.chdir(folder)
    session.run("pytest", "-q", "-p", "no:cacheprovider")


@nox.session
def build(session: nox.Session) -> None:
    """Build wheels and sdists, and check their metadata and contents."""
    session.install("-q", "-c", "constraints.txt", "build", "twine")
    output = Path(session.create_tmp()) / "dist"
    shutil.rmtree(output, ignore_errors=True)
    for package in PACKAGES:
        session.run("python", "-m", "build", "-o", str(output), str(ROOT / "packages" / package), silent=True)
        check_contents(session, package, output)
        check_bounds(session, package)
    session.run("twine", "check", "--strict", *map(str, sorted(output.iterdir())))


def check_contents(session: nox.Session, package: str, folder: Path) -> None:
    module = package.replace("-", "_")
    wheel = zipfile.ZipFile(next(folder.glob(f"{module}-*.whl")))
    with tarfile.open(next(folder.glob(f"{module}-*.tar.gz"))) as sdist:
        listings = {"wheel": wheel.namelist(), "sdist": sdist.getnames()}
    for kind, names in listings.items():
        for wanted in ("py.typed", "__init__.pyi", "_plugin.py"):
            if not any(name.endswith(f"{module}/{wanted}") for name in names):
                session.error(f"{package}: {module}/{wanted} is not in the {kind}")


def check_bounds(session: nox.Session, package: str) -> None:
    metadata = project(package)["project"]
    optional = metadata.get("optional-dependencies", {}).values()
    for text in [*metadata["dependencies"], *(item for extra in optional for item in extra)]:
        operators = {s.operator for s in Requirement(text).specifier}
        if not (">=" in operators and operators & {"<", "<="}):
            session.error(f"{package}: the dependency `{text}` must be bounded both ways")


@nox.session
def bench(session: nox.Session) -> None:
    """Time one package beside its peers: `nox -s bench -- optim`."""
    names = [argument for argument in session.posargs if not argument.startswith("-")]
    package = f"athena-{names[0].removeprefix('athena-')}" if names else ""
    if package not in PACKAGES:
        session.error(f"name a package: {', '.join(PACKAGES)}")
    peers = group(package, "bench") if "bench" in project(package).get("dependency-groups", {}) else []
    install(session, *PACKAGES, also=[*peers, "pytest", "matplotlib"])
    for script in sorted((ROOT / "packages" / package / "benchmarks").glob("bench_*.py")):
        session.run("python", str(script), *session.posargs[1:])
