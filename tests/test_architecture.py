"""DESIGN's layout as assertions: who may import whom, which modules are pure, and how large a module gets."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("shared", "supervisor", "worker")
FOLDERS = {*PACKAGES, "bin", "docs", "systemd", "tests"}
MADE = {"build", "htmlcov"}
"""By tools, and not in the repository."""
MAX_LINES = 400

# Pure: they decide and translate, and a test of them needs neither a clock nor a loop.  A package stands for all in it.
PURE = (
    "shared.clientkeys",
    "shared.config",
    "shared.errors",
    "shared.events",
    "shared.framing",
    "shared.history",
    "shared.messages",
    "shared.records",
    "shared.routing",
    "supervisor.backoff",
    "supervisor.cli.launcher.catalogue",
    "supervisor.cli.launcher.explain",
    "supervisor.cli.launcher.plan",
    "supervisor.cli.launcher.tables",
    "supervisor.cli.launcher.commandline",
    "supervisor.cli.launcher.environment",
    "supervisor.cli.layout",
    "supervisor.cli.tomledit",
    "supervisor.control",
    "supervisor.exposition",
    "supervisor.fdnames",
    "supervisor.gauges",
    "supervisor.handover",
    "supervisor.health",
    "supervisor.heartbeat",
    "supervisor.metrics",
    "supervisor.plan",
    "supervisor.ratelimit",
    "supervisor.recent",
    "supervisor.registry",
    "supervisor.schema",
    "supervisor.unwritten",
    "worker.agent.conversation",
    "worker.agent.editing",
    "worker.agent.errors",
    "worker.agent.excerpt",
    "worker.agent.output",
    "worker.agent.instructions",
    "worker.agent.presenter",
    "worker.agent.progress",
    "worker.agent.turn",
    "worker.agent.wish",
    "worker.agent.program",
    "worker.agent.sandbox",
    "worker.agent.warden.tape",
    "worker.agent.public_address",
    "worker.agent.frames",
    "worker.agent.message",
    "worker.auth",
    "worker.cors",
    "worker.cost",
    "worker.dialects",
    "worker.flood",
    "worker.lost",
    "worker.openapi",
    "worker.upstream.policy",
)
IMPURE = {
    "asyncio", "hypercorn", "httptools", "httpx", "io", "multiprocessing", "os", "pathlib", "platformdirs", "random",
    "select", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl", "structlog", "subprocess", "tempfile",
    "threading", "time", "trio",
}  # fmt: skip
# What stands in a pure package and yet is none, with the reason.
EXCEPTIONS = {
    "shared.history.reader": "reads the database",
    "shared.config.locate": "finds and reads the configuration file",
}
# Modules of the standard library that a pure module may use for what touches no system.
ALLOWED = {
    "shared.config.bind": {"os"},  # fsencode: a path's length in bytes
}


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


SOURCES = {module_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imports(module: str) -> set[str]:
    """The absolute names of what `module` imports, modules and names in them alike."""
    path = SOURCES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=source, names=names, level=level):
                if level:
                    base = ".".join(package.split(".")[: len(package.split(".")) - level + 1])
                    source = f"{base}.{source}" if source else base
                found |= {source, *(f"{source}.{alias.name}" for alias in names)}
    return found


def packages_of(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def is_pure(module: str) -> bool:
    return module not in EXCEPTIONS and any(module == pure or module.startswith(f"{pure}.") for pure in PURE)


@pytest.mark.parametrize("module", SOURCES)
def test_every_module_says_what_it_is_for(module):
    tree = ast.parse(SOURCES[module].read_text())
    assert ast.get_docstring(tree) or (SOURCES[module].name == "__init__.py" and not tree.body)


@pytest.mark.parametrize("module", SOURCES)
def test_the_parts_meet_as_processes_only(module):
    part = module.partition(".")[0]
    forbidden = {"shared": {"supervisor", "worker"}, "supervisor": {"worker"}, "worker": {"supervisor"}}[part]
    assert not packages_of(imports(module)) & {*forbidden, "tests", "fakes"}


@pytest.mark.parametrize("module", [module for module in SOURCES if is_pure(module)])
def test_pure_modules_touch_nothing(module):
    assert not packages_of(imports(module)) & IMPURE - ALLOWED.get(module, set())


@pytest.mark.parametrize("module", SOURCES)
def test_a_module_is_read_in_one_sitting(module):
    assert len(SOURCES[module].read_text().splitlines()) <= MAX_LINES


def test_the_top_folders_are_those_of_the_design():
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))}
    assert {name for name in folders - MADE if not name.endswith(".egg-info")} <= FOLDERS


def test_every_package_is_installed():
    include = re.search(r"^include = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert include is not None
    assert include[1] == ", ".join(f'"{package}*"' for package in PACKAGES)
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), f"{path.parent} is no package"


def test_exceptions_are_still_needed():
    assert set(EXCEPTIONS) <= set(SOURCES)
    assert set(ALLOWED) <= set(SOURCES)
    for module, allowed in ALLOWED.items():
        assert allowed <= packages_of(imports(module)), f"{module} needs no exception any more"


@pytest.mark.parametrize("lock", ["requirements.txt", "test.txt"])
def test_lock_files_name_no_address(lock):
    text = (ROOT / "bin/lock" / lock).read_text()
    assert not re.search(r"://|^\s*-(?!-hash=sha256:)|^\s*#|@", text, re.MULTILINE)
    pinned = re.findall(r"^[a-z0-9-]+==\S+", text, re.MULTILINE)
    assert pinned
    assert len(re.findall(r"^\S.*\\\n\s+--hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)) == len(pinned)


def test_the_tests_run_with_what_the_service_runs_with():
    def pins(lock):
        return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "bin/lock" / lock).read_text(), re.MULTILINE))

    service, tests = pins("requirements.txt"), pins("test.txt")
    assert {name: tests.get(name) for name in service} == service
