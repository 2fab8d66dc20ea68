"""What a release says of itself agrees, and the sources that it is built from are in it."""

import re
import tomllib
from pathlib import Path

import yaml

import settx_fast


def test_every_place_names_the_same_version() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    citation = yaml.safe_load(Path("CITATION.cff").read_text())
    assert project["version"] == settx_fast.__version__ == citation["version"]
    assert citation["license"] == project["license"]
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}


def test_what_the_native_module_is_built_from_is_in_a_source_distribution() -> None:
    manifest = Path("MANIFEST.in").read_text()
    folders = {
        Path(path).parts[0] for path in re.findall(r"\b\w[\w/]+\.(?:cpp|cu|py|h)\b", Path("CMakeLists.txt").read_text())
    }
    assert folders == {"csrc"}
    assert "graft csrc\n" in manifest
    assert "CMakeLists.txt" in manifest
