"""The vendored files of the page are the published ones, and the land polygons follow from the coast line."""

from __future__ import annotations

import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
STATIC = ROOT / "web" / "static"
VENDOR = STATIC / "vendor"
#: Where the open mainland line is closed inland; the same points stand in vendor/README.md.
INLAND = [[119.2, 34.9], [116.5, 34.4], [116.5, 39], [124, 39], [124, 37.1]]


def _listed() -> dict[str, str]:
    """Return {path in vendor/: sha256} from SHA256SUMS."""
    lines = (VENDOR / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}


def _geojson(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((STATIC / "data" / name).read_text(encoding="utf-8"))
    return document


def _signed_area(ring: list[list[float]]) -> float:
    """Shoelace sum in square degrees; positive when the ring runs counter-clockwise."""
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring)) / 2


def test_every_vendored_file_is_listed_and_unchanged() -> None:
    """What lies in vendor/ is what SHA256SUMS names, byte for byte, nothing more and nothing less."""
    found = {
        path.relative_to(VENDOR).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.glob("*/**/*")
        if path.is_file()
    }
    assert found == _listed()


def test_every_package_names_its_version_and_brings_its_licence() -> None:
    """The README names each folder with a version, and the folder holds the licence text."""
    readme = (VENDOR / "README.md").read_text(encoding="utf-8")
    for folder in sorted(path for path in VENDOR.iterdir() if path.is_dir()):
        assert re.search(rf"`{folder.name}/` \| \S+ \| \d+\.\d+\.\d+ \|", readme), folder.name
        licences = list(folder.glob("LICENSE*"))
        assert licences, f"{folder.name} has no licence text"
        assert "copyright" in licences[0].read_text(encoding="utf-8").lower()


def test_land_follows_from_the_coast() -> None:
    """Closing the coast's lines as the README says gives exactly the shipped polygons."""
    expected = []
    for feature in _geojson("qingdao_coast_osm.geojson")["features"]:
        line = feature["geometry"]["coordinates"]
        ring = line if line[0] == line[-1] else [*line, *INLAND, line[0]]
        expected.append(ring if _signed_area(ring) > 0 else ring[::-1])
    land = [feature["geometry"]["coordinates"] for feature in _geojson("land.geojson")["features"]]
    assert land == [[ring] for ring in expected]


def test_words_are_complete_in_both_languages() -> None:
    """Each line of the page's dictionary has a Chinese and an English text with the same placeholders."""
    source = (STATIC / "js" / "i18n.js").read_text(encoding="utf-8")
    table = source[source.index("export const WORDS = {") : source.index("\n};\n")]
    string = r'"((?:[^"\\]|\\.)*)"'
    pairs = re.findall(rf"^  (\w+): \[\s*{string},\s*{string},?\s*\],$", table, flags=re.MULTILINE)
    keys = re.findall(r"^  (\w+):", table, flags=re.MULTILINE)
    assert [key for key, _, _ in pairs] == keys
    assert len(set(keys)) == len(keys)
    for key, zh, en in pairs:
        assert zh.strip(), key
        assert en.strip(), key
        assert set(re.findall(r"\{\d\}", zh)) == set(re.findall(r"\{\d\}", en)), key


def test_page_uses_only_words_that_exist_and_no_word_is_idle() -> None:
    """Every key used in a module or in the page stands in the dictionary, and each entry is used somewhere."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted((STATIC / "js").glob("*.js"))}
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    words = texts.pop(STATIC / "js" / "i18n.js")
    keys = set(re.findall(r"^  (\w+): \[", words, flags=re.MULTILINE))
    code = "\n".join(texts.values())
    used = set(re.findall(r'\bt\("(\w+)"', code)) | set(re.findall(r'data-t(?:-label|-title)?="(\w+)"', page))
    assert used <= keys, sorted(used - keys)
    stems = set(re.findall(r"`(\w+_)\$\{", code))
    idle = {key for key in keys - used if f'"{key}"' not in code and not any(key.startswith(s) for s in stems)}
    assert not idle, sorted(idle)


def test_every_step_of_an_explanation_has_words_and_is_documented() -> None:
    """What the service calls its steps, the page names in both languages and docs/api.md lists, no more and no less."""
    sources = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "qingtu").glob("explain*.py")))
    steps = set(re.findall(r'\bstep\(\s*"(\w+)"', sources))
    assert {"raw", "override", "neighbour", "replay"} <= steps, "steps are written in another way now"
    words = (STATIC / "js" / "i18n.js").read_text(encoding="utf-8")
    assert set(re.findall(r"^  step_(\w+):", words, flags=re.MULTILINE)) == steps
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    told = page[page.index("`steps` in this order") :].split(". ")[0]
    assert steps <= set(re.findall(r"`(\w+)`", told)), sorted(steps)


def test_no_module_writes_html_from_data() -> None:
    """No module of ours has a way to turn text into HTML, run text as code, or write to the console."""
    for path in sorted((STATIC / "js").glob("*.js")):
        text = path.read_text(encoding="utf-8")
        for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "console."):
            assert forbidden not in text, f"{path.name}: {forbidden}"
        assert text.startswith("//"), f"{path.name} does not say what it is for"
        assert len(text.splitlines()) <= 300, f"{path.name} is longer than 300 lines"


def test_page_has_no_inline_script_or_style_and_no_other_host() -> None:
    """The strict Content-Security-Policy would block them; the page must not need them."""
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|https?://", page)
    for attributes, body in re.findall(r"<script([^>]*)>(.*?)</script>", page, flags=re.DOTALL):
        assert "src=" in attributes
        assert not body.strip()
    for path in (STATIC / "css").glob("*.css"):
        assert "url(" not in path.read_text(encoding="utf-8"), path.name
