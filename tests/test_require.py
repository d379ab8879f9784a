"""The skip that CI forbids: missing programs skip by name, and fail where TAM_EDGE_REQUIRE is set."""

import sys
from pathlib import Path

import pytest


@pytest.fixture
def no_programs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_missing_package_skips_by_name(require, no_programs, monkeypatch):
    monkeypatch.delenv("TAM_EDGE_REQUIRE", raising=False)
    with pytest.raises(pytest.skip.Exception, match="Debian package chromium"):
        require("chromium")


def test_missing_package_fails_where_required(require, no_programs, monkeypatch):
    monkeypatch.setenv("TAM_EDGE_REQUIRE", "1")
    with pytest.raises(pytest.fail.Exception, match="Debian package chromium"):
        require("chromium")


def test_present_package_gives_its_program(require, no_programs):
    (no_programs / "chromium").symlink_to(sys.executable)
    assert require("chromium") == Path(no_programs / "chromium")


def test_ci_installs_every_package_a_test_may_need():
    script = (Path(__file__).parents[1] / ".ci" / "run").read_text()
    lines = script.split("packages=(\n")[1].split("\n)")[0].splitlines()
    listed = [line.partition("#")[0].strip() for line in lines]
    used = {
        line.split('require("')[1].split('"')[0]
        for path in Path(__file__).parent.glob("test_*.py")
        if path.name != Path(__file__).name
        for line in path.read_text().splitlines()
        if 'require("' in line
    }
    assert used == set(listed)
