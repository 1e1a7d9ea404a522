"""Reports: escaped, self-contained, readable without JavaScript, small enough."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wellposed.benchmark import Record, card_names, read_card
from wellposed.benchmark.page import card_facts, records_page
from wellposed.benchmark.record import place_of, write_pictures
from wellposed.reconstruction import Reconstruction
from wellposed.report import (
    Album,
    Chart,
    Facts,
    Figure,
    Group,
    Link,
    Page,
    Point,
    Table,
    as_html,
    gallery,
    reconstruction_page,
    versions,
    write_page,
)
from wellposed.report import chart as charts
from wellposed.report.pictures import SIDES, SLICES, held, viewer
from wellposed.units import Units

EVIL = ("<script>alert(1)</script>", '"onmouseover="alert(2)', "'><img src=x onerror=alert(3)>")
EMPTY = {"meta", "img", "input", "br", "link"}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


class Reader(HTMLParser):
    """Checks the nesting of tags; collects tags, texts and attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.attributes = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *each) for each in attrs]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *each) for each in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)


def image(level=0.5, shape=(1, 8, 8)):
    return torch.linspace(0, level, int(np.prod(shape))).reshape(shape)


def record(solver="hqs", problem="a", psnr=30.0, **more):
    scores = {"PSNR": psnr, "residual": 1.1, "coverage": 0.8}
    facts = {"scores": scores, "samples": 2, "evaluations": 20, "seconds": 1.5, "method": "HQS"}
    return Record(solver=solver, instance=problem, identity="0", **(facts | more))


def html_of(records, folder, facts=None, allowed=None):
    return as_html(records_page("A card", records, folder, facts or {}, allowed))


@pytest.fixture
def pictured(tmp_path):
    """Return records of two solvers on two problems, with pictures, and their folder."""
    records = [record(s, p, 20.0 + k) for k, s in enumerate(("hqs", "mmps")) for p in ("a", "b")]
    for each in records:
        pictures = {"truth": image(), "input": image(0.1), "mean": image(0.4), "error": image(0.1)}
        place = place_of(tmp_path, each.solver, each.instance)
        write_pictures(place.with_suffix(".npz"), pictures)
    return records, tmp_path


@pytest.mark.parametrize("name", EVIL)
def test_what_is_shown_is_escaped(tmp_path, name):
    records = [
        record(name, name, settings={name: name}, method=name),
        record(name, "b", scores={}, error=name),
    ]
    place = place_of(tmp_path, name, name)
    write_pictures(place.with_suffix(".npz"), {name: image(), "mean": image(), "error": image()})
    page = records_page(name, records, tmp_path, {name: {name: name}})
    extra = [Figure(title=name, uri="data:image/png;base64,", text=name)]
    text = as_html(Page(title=name, note=name, parts=[*page.parts, *extra]))
    found, plain = Reader(text), Reader(html_of([record()], tmp_path))
    assert found.tags.count("script") == plain.tags.count("script") == 1
    assert not [each for each in found.attributes if each[1].startswith("on")]
    assert all(value.startswith("data:") for _, name, value in found.attributes if name == "src")
    assert any(name in each for each in found.texts)
    assert name in [value for tag, what, value in found.attributes if what == "alt"]


def test_nothing_is_loaded(pictured):
    text = html_of(*pictured)
    found = Reader(text)
    links = [v for _, name, v in found.attributes if name in ("src", "href", "srcset", "action")]
    assert links and all(v.startswith(("data:", "#")) for v in links)
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttp|import\(", text)
    ids = {v for _, name, v in found.attributes if name == "id"}
    assert {v[1:] for v in links if v.startswith("#")} <= ids


def test_only_its_own_script_may_run(pictured):
    """The policy names the hash of the script, and nothing may come from elsewhere."""
    text = html_of(*pictured)
    script = text.split("<script>")[1].split("</script>")[0]
    mark = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    assert f"script-src 'sha256-{mark}'" in text.replace("&#43;", "+").replace("&#39;", "'")


def test_the_same_records_give_the_same_bytes(pictured, tmp_path):
    records, folder = pictured
    first = write_page(tmp_path / "1" / "report.html", records_page("t", records, folder, {}))
    second = write_page(tmp_path / "2" / "report.html", records_page("t", records, folder, {}))
    assert first.read_bytes() == second.read_bytes()
    assert str(tmp_path) not in first.read_text()


def test_it_is_readable_without_javascript(pictured):
    found = Reader(html_of(*pictured))
    for text in ("hqs", "mmps", "21.00", "truth", "mmps: mean", "1.210", "0.800"):
        assert text in found.texts, text
    # The truth and the input of each problem, and mean and error of each solver.
    assert found.tags.count("img") == 2 * (2 + 2 * 2)
    assert ("div", "hidden", None) in found.attributes  # controls that need the script


def test_failures_and_single_solvers_and_no_pictures(tmp_path):
    failed = record("dps", "a", scores={}, error="diverged", evaluations=0, seconds=0.0)
    for records in ([record()], [failed], [record(), failed], [], [record(scores={"gap": 1.0})]):
        found = Reader(html_of(records, tmp_path, allowed=10))
        assert "img" not in found.tags
        assert ("diverged" in found.texts) == (failed in records)
        assert ("20!" in found.texts) == any(not r.error for r in records)


def test_worst_problems_come_first(tmp_path):
    records = [record(problem=f"p{k}", psnr=float(k)) for k in (3, 1, 2, 7, 6, 5, 4)]
    parts = {part.title: part for part in records_page("t", records, tmp_path, {}).parts}
    rows = parts["Worst 5 problems of each solver by PSNR"].rows
    assert [row[2] for row in rows] == ["p1", "p2", "p3", "p4", "p5"]
    distances = [record(problem=f"p{k}", scores={"distance": float(k)}) for k in range(7)]
    parts = {part.title: part for part in records_page("t", distances, tmp_path, {}).parts}
    rows = parts["Worst 5 problems of each solver by distance"].rows
    assert [row[2] for row in rows] == ["p6", "p5", "p4", "p3", "p2"]


def test_facts_of_all_cards():
    for name in card_names():
        facts = card_facts(read_card(name))
        assert facts["Card"]["card"] == name
        assert all(isinstance(v, str) for each in facts.values() for v in each.values())
    other = card_facts(read_card("photographs-random-inpainting"), Path("mine"))
    assert other["Data"] == {"source": "images of mine"} and "Hashes (sha256)" not in other


def decoded(uri):
    return Image.open(BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_pictures_hold_their_values():
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8)
    found = viewer(Album(title="t", anchor="a", images={"x": values}, maps={"e": values / 10}))
    shown = np.asarray(decoded(found.pictures[0].uri)) / 255
    assert np.abs(shown - values[0]).max() <= 0.5 / 255 + 1e-6
    assert (found.low, found.high) == (0, 1) and found.most == pytest.approx(0.1, rel=0.01)
    assert decoded(found.pictures[1].uri).mode == "P"


def test_windows_keep_half_of_the_steps():
    wide = [np.array([-1000.0, 3000.0])]
    assert held((-160, 240), wide) == (-360, 440)
    assert held((-160, 240), [np.array([-200.0, 100.0])]) == (-200, 240)


@pytest.mark.parametrize(
    ("array", "mode", "size", "slices"),
    [
        (np.ones((1, 6, 4)), "L", (4, 6), 1),
        (np.ones((3, 6, 4)), "RGB", (4, 6), 1),
        (np.ones((2, 6, 4)), "L", (4, 6), 1),
        (np.full((1, 6, 4), 1j, np.complex64), "L", (4, 6), 1),
        (np.ones((1, 5, 6, 4)), "L", (4, 6), 5),
        (np.ones((1, 100, 6, 4)), "L", (4, 6), SLICES),
        (np.full((1, 6, 4), np.nan), "L", (4, 6), 1),
        (np.ones((1, 1, 2000)), "L", (512, 1), 1),
    ],
)
def test_shapes_of_pictures(array, mode, size, slices):
    picture = viewer(Album(title="t", anchor="a", images={"x": array})).pictures[0]
    sheet = decoded(picture.uri)
    assert sheet.mode == mode and (picture.width, picture.height) == size
    assert len(picture.slices) == slices
    rows = -(-slices // picture.columns)
    assert sheet.size == (picture.columns * size[0], rows * size[1])


def test_slices_are_where_the_page_says():
    volume = np.arange(40, dtype=np.float32)[None, :, None, None].repeat(4, 2).repeat(3, 3) / 39
    found = viewer(Album(title="t", anchor="a", images={"x": volume})).pictures[0]
    sheet = np.asarray(decoded(found.uri))
    for k, number in enumerate(found.slices):
        y, x = k // found.columns * found.height, k % found.columns * found.width
        assert sheet[y, x] == round(255 * number / 39)


def test_pictures_of_a_page_fit_together():
    noise = np.random.default_rng(0).random((1, 300, 300), dtype=np.float32)
    albums = [lambda: Album(title="t", anchor="a", images={"x": noise})] * 6
    free, tight = gallery("Pictures", albums), gallery("Pictures", albums, 300_000)
    least = gallery("Pictures", albums, 20_000)
    assert {v.pictures[0].width for v in free.parts} == {300}
    assert {v.pictures[0].width for v in tight.parts} == {192} and len(tight.parts) == 6
    assert sum(v.size for v in tight.parts) <= 300_000
    assert len(least.parts) < 6 and "left out" in least.note
    assert {v.pictures[0].width for v in least.parts} == {SIDES[-1]}


@pytest.mark.parametrize("count", [0, 1, 12])
def test_names_of_points_do_not_overlap(count):
    points = [Point(f"solver {k}", 10.0 + 0.1 * (k % 3), 30.0 + 0.05 * k) for k in range(count)]
    points.append(Point("broken", float("nan"), 1.0))
    found = Chart(title="t", x="seconds", y="PSNR", points=points)
    boxes = []
    for mark in found.marks:
        width = charts.LETTER * len(mark.label)
        left = mark.label_x - (width if mark.anchor == "end" else 0)
        boxes.append((left, mark.label_y - 11, left + width, mark.label_y + 4))
        assert 0 <= left and left + width <= charts.WIDTH
    pairs = [(a, b) for k, a in enumerate(boxes) for b in boxes[:k]]
    assert len(boxes) == count and not any(charts._overlap(a, b) for a, b in pairs)
    Reader(as_html(Page(title="t", parts=[Group(title="g", parts=[found])])))


def test_axes_show_round_numbers_in_order():
    for low, high in ((0, 30), (4.8, 20), (1e-3, 9e4), (28.11, 28.13), (-3, 5)):
        ticks = charts.axis([low, high], 0, 100, True).ticks
        assert 2 <= len(ticks) <= 12
        assert [t.place for t in ticks] == sorted(t.place for t in ticks)
        assert all(low - 1e-9 <= float(t.text) <= high + 1e-9 for t in ticks)


def reconstructed(shape=(1, 1, 8, 8), samples=3, dtype=torch.float32):
    truth = image(1.0, shape).to(dtype)
    noise = torch.randn(samples, *shape, generator=torch.Generator().manual_seed(0))
    return truth, Reconstruction(
        samples=truth + 0.1 * noise,
        residual=torch.full((samples, 1), 1.1),
        nfe=20,
        seconds=1.0,
        solver="DDS",
        settings={"eta": 0.85},
        seed=0,
        measured=torch.tensor([64.0]),
        units=Units(name="HU", offset=-1000, scale=2000, spacing=(1.0,) * (len(shape) - 2)),
    )


@pytest.mark.parametrize(
    ("shape", "samples", "dtype"),
    [
        ((1, 1, 8, 8), 3, torch.float32),
        ((1, 1, 8, 8), 1, torch.complex64),
        ((1, 1, 4, 8, 8), 2, torch.float32),
    ],
)
def test_pages_of_reconstructions(shape, samples, dtype):
    truth, found = reconstructed(shape, samples, dtype)
    others = {"plain": truth / 2}
    page = reconstruction_page("t", found, others=others, truth=truth, facts=versions())
    texts = Reader(as_html(page)).texts
    for text in ("truth", "plain", "error", "0.85", "1.210"):
        assert text in texts
    assert ("std of 3" in texts) == (samples == 3)
    Reader(as_html(reconstruction_page("t", found, others={}, facts={})))


SCRIPT = """
addEventListener("load", () => setTimeout(() => {
  const one = (q) => document.querySelector(q), all = (q) => [...document.querySelectorAll(q)];
  const found = {errors: window.failures};
  const column = (k) => all("table.sortable tbody tr").map((r) => r.cells[k].textContent);
  const click = (k) => all("table.sortable th button")[k].click();
  click(1); found.up = column(1);
  click(1); found.down = column(1);
  click(0); found.names = column(0);
  const set = (q, v) => { one(q).value = v; one(q).dispatchEvent(new Event("input")); };
  const at = (canvas, x, y) => [...canvas.getContext("2d").getImageData(x, y, 1, 1).data];
  const picture = one(".pictures canvas"), stage = one(".stage");
  found.tools = one(".tools").hidden;
  found.first = at(picture, 0, 0)[0];
  set(".slice", 0); found.slice = at(picture, 0, 0)[0];
  set(".slice", 3); set(".to", 0.8); found.window = at(picture, 0, 0)[0];
  set(".left", 0); set(".right", 1);
  set(".divider", 1); found.left = at(stage, 3, 3)[0];
  set(".divider", 0); found.right = at(stage, 9, 3)[0];
  found.lens = at(one(".lenses canvas"), 64, 64)[0];
  found.options = all(".left option").map((o) => o.textContent);
  one(".reset").click(); found.reset = one(".to").value;
  console.log("FOUND " + JSON.stringify(found));
}, 1500));
"""


def told_by_browser(path):
    """Return what the page writes to the console after "FOUND"."""
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr")
    command = [BROWSER, *flags, f"--user-data-dir={path.parent / 'user'}", f"file://{path}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as browser:
        late = threading.Timer(60, browser.kill)
        late.start()
        lines = []
        for line in browser.stderr:
            lines.append(line)
            if "FOUND" in line:
                break
        late.cancel()
        browser.kill()
    found = re.search(r'FOUND (.*)", source', lines[-1])
    assert found, "".join(lines)
    return json.loads(found[1])


@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_controls_work_in_a_browser(tmp_path):
    steps = torch.tensor([0.0, 0.2, 0.4, 0.6])[None, :, None, None].expand(1, 4, 8, 8).numpy()
    table = Table(
        title="T",
        header=["solver", "PSNR"],
        rows=[("a", "9.5"), ("b", "-"), ("c", "10"), ("d", "1e-3")],
    )
    images = {"rising": steps, EVIL[0]: steps[:, ::-1]}
    pictures = gallery("Pictures", [lambda: Album(title="t", anchor="a", images=images)])
    text = as_html(Page(title=EVIL[2], parts=[table, pictures]))
    # The policy allows no further script, so that this one replaces it.
    open_text = re.sub(r"<meta http-equiv[^>]*>", "", text)
    listen = "window.failures = []; addEventListener('error', (e) => failures.push(e.message));"
    path = tmp_path / "page.html"
    path.write_text(open_text.replace("</head>", f"<script>{listen}{SCRIPT}</script></head>"))
    found = told_by_browser(path)
    assert found["errors"] == [] and found["tools"] is False
    assert found["up"] == ["1e-3", "9.5", "10", "-"] and found["down"] == [
        "10",
        "9.5",
        "1e-3",
        "-",
    ]
    assert found["names"] == ["a", "b", "c", "d"]
    assert (found["first"], found["slice"], found["window"]) == (102, 0, 191)
    assert (found["left"], found["right"]) == (191, 0)
    assert found["lens"] == 191
    assert found["options"] == ["rising", EVIL[0]] and float(found["reset"]) == 1


def test_links_and_facts():
    row = [Link("a", "there"), "1.5"]
    table = Table(title="t", header=["problem", "PSNR"], rows=[row], folded=True)
    found = Reader(as_html(Page(title="t", parts=[table, Facts(title="f", facts={"a": "b"})])))
    assert ("a", "href", "#there") in found.attributes and "details" in found.tags
    assert ("td", "class", "number") in found.attributes
