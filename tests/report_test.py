"""report.html, comparisons, and how they look in a browser."""

import json
import re
import shutil

import numpy as np
import pytest
from conftest import finish, tiny_config

from auxseg_jax.errors import UserError
from auxseg_jax.files import storage
from auxseg_jax.report import charts, pages
from auxseg_jax.runs import comparison, report
from auxseg_jax.runs.run import train
from auxseg_jax.runs.workdir import Workdir


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window; skips where it is not installed."""
    path, control = shutil.which("chromium"), shutil.which("chromedriver")
    if not (path and control):
        pytest.skip("there is no chromium with chromedriver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = path
    for flag in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(control))
    yield driver
    driver.quit()


def opened(browser, path):
    browser.get(f"file://{path}")
    assert not browser.get_log("browser")
    return browser


def wait_until(browser, script):
    ui = pytest.importorskip("selenium.webdriver.support.ui")
    ui.WebDriverWait(browser, 20).until(lambda driver: driver.execute_script(script))


def test_a_run_leaves_a_report_that_needs_no_network(finished):
    text = (finished[0] / "report.html").read_text()
    assert "21 of 21 phases are finished" in text
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert sources and all(source.startswith(("data:", "#")) for source in sources)
    images = re.findall(r"<img[^>]*>", text)
    assert "on same label" in text and "propagated" in text
    assert len(images) > 50 and all(re.search(r'alt="[^"]+"', image) for image in images)
    for section in ("classes", "curves", "photos", "affinity", "confusion", "certainty", "config"):
        assert f'<section id="{section}">' in text


def test_the_report_in_a_browser(finished, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    page = opened(browser, finished[0] / "report.html")
    page.execute_script("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    wait_until(page, "return [...document.images].every(i => i.complete && i.naturalWidth > 0)")
    # The table sorts, in both directions.
    names = (
        "return [...document.querySelectorAll('#classes tbody tr')]"
        ".map(row => row.cells[0].textContent)"
    )
    before = page.execute_script(names)
    head = page.find_element(By.CSS_SELECTOR, "#classes th button")
    head.click()
    rising = page.execute_script(names)
    head.click()
    assert rising == sorted(before) and page.execute_script(names) == rising[::-1] != before
    # The slider shows the pictures of another stage.
    shown = (
        "return [...document.querySelectorAll('[data-stage]')]"
        ".filter(cell => !cell.hidden).map(cell => cell.dataset.stage)"
    )
    assert set(page.execute_script(shown)) == {"1"}
    page.find_element(By.ID, "stage").send_keys(Keys.ARROW_LEFT)
    assert set(page.execute_script(shown)) == {"0"}
    # A click, and a key, change what is seen of the affinity.
    wait_until(page, "return document.getElementById('affinity-text').textContent !== ''")
    pixels = "return document.getElementById('affinity-map').toDataURL()"
    canvas = page.find_element(By.ID, "affinity-map")
    first = page.execute_script(pixels)
    canvas.click()
    canvas.send_keys(Keys.ARROW_RIGHT)
    canvas.send_keys(Keys.ARROW_DOWN)
    assert page.execute_script(pixels) != first
    text = page.find_element(By.ID, "affinity-text").text
    assert re.match(r"row \d of 4, column \d of 4; a position looks at \d+", text)
    assert not page.get_log("browser")


@pytest.mark.parametrize("width", [400, 1400])
def test_no_page_is_wider_than_its_window(finished, browser, width):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    page = opened(browser, finished[0] / "report.html")
    assert page.execute_script("return document.documentElement.scrollWidth") <= width


def test_a_report_of_an_unfinished_run_and_without_its_data(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    folder = Workdir(tmp_path / "run")
    folder.done("stage_01/pseudo").unlink()
    shutil.rmtree(folder.folder("stage_01/explain"))
    report.write(folder, folder.read_config())
    assert "next: stage_01/pseudo" in folder.report.read_text()
    content = storage.read_json(folder.manifest)
    content["data"]["state"] = "gone"
    storage.write_json(folder.manifest, content)
    report.write(folder, folder.read_config())
    assert "<figure><img" not in folder.report.read_text()


def test_names_are_no_markup(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    folder = Workdir(tmp_path / "run")
    text = folder.manifest.read_text().replace("disc", "<script>alert(1)</script>")
    folder.manifest.write_text(text)
    report.write(folder, folder.read_config())
    assert "<script>alert" not in folder.report.read_text()
    assert "&lt;script&gt;alert" in folder.report.read_text()


def test_a_fault_of_the_page_does_not_end_a_run(tmp_path, monkeypatch, capsys):
    def broken(folder, config):
        raise RuntimeError("no paper")

    monkeypatch.setattr(report, "write", broken)
    config = tiny_config(tmp_path)
    config.stages.count, config.report.photos = 1, 0
    results = train(config, tmp_path / "run")
    assert results.final and "report.html could not be written" in capsys.readouterr().err
    assert not (tmp_path / "run/stage_00/explain").exists()


def test_a_run_is_reproduced_from_its_manifest(finished, tmp_path):
    manifest = finished[0] / "manifest.json"
    again = f"--workdir={tmp_path}/again"
    code, output = finish("reproduce", f"--from={manifest}", again, f"--data-root={tmp_path}")
    assert code == 1 and "are generated, and have no root" in output
    code, output = finish("reproduce", f"--from={manifest}", again)
    assert code == 0, output
    assert "config: nothing differs" in output and "together: equal" in output
    folders = (finished[0], tmp_path / "again")
    one, two = (json.loads((folder / "results.json").read_text()) for folder in folders)
    for name in ("classifier", "pseudo", "stages", "final", "cam_sweep"):
        assert one[name] == two[name]


def test_another_run_is_compared(finished, tmp_path, browser):
    other = tmp_path / "other"
    shutil.copytree(finished[0], other)
    for name in ("seed", "walk"):
        content = storage.read_json(other / "config.json")
        content[name] = 5 if name == "seed" else content[name] | {"beta": 3.0}
        storage.write_json(other / "config.json", content)
    record = storage.read_json(other / "classifier/DONE.json")
    record["result"]["map"] += 1.5
    storage.write_json(other / "classifier/DONE.json", record)
    found = comparison.compare(Workdir(finished[0]), Workdir(other))
    assert [d.field for d in found.config] == ["seed", "walk.beta"] and not found.environment
    assert found.verdict == comparison.DIFFERENT
    verdicts = {figure.name: figure.verdict for figure in found.figures}
    assert verdicts["classifier, mAP"] == comparison.DIFFERENT
    assert verdicts["val mIoU"] == comparison.EQUAL
    page = tmp_path / "page.html"
    page.write_text(comparison.page(found, Workdir(finished[0]), Workdir(other)))
    shown = opened(browser, page).find_element("tag name", "body").text
    assert "walk.beta" in shown and "+1.50" in shown


def test_half_a_run_is_equal_as_far_as_it_goes(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "half")
    shutil.rmtree(tmp_path / "half/stage_01/score")
    folders = Workdir(finished[0]), Workdir(tmp_path / "half")
    for first, second in (folders, folders[::-1]):
        found = comparison.compare(first, second)
        assert found.verdict == comparison.PARTLY and found.missing == ["stage_01/score"]


def test_a_workdir_that_orbax_would_misread_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds \[ \], and Orbax"):
        train(tiny_config(tmp_path), tmp_path / "run[1]")
    assert not (tmp_path / "run[1]").exists()


def test_charts():
    svg = charts.lines(
        "a < b", "step", [charts.Line("x & y", [(0, 1.0), (1, float("nan")), (2, 3)])]
    )
    assert "a &lt; b" in svg and "x &amp; y" in svg and "nan" not in svg
    (points,) = re.findall('points="([^"]*)"', svg)
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in points.split())
    assert x0 < x1 and y0 > y1  # Up is more.
    assert charts.lines("", "x", [charts.Line("empty", [])]) == ""
    flat = charts.lines("", "x", [charts.Line("flat", [(0, 2.0), (1, 2.0)])])
    assert "polyline" in flat
    logarithmic = charts.lines("", "x", [charts.Line("l", [(0, 0.0), (1, 1.0), (2, 100.0)])], True)
    assert len(re.findall('points="([^"]*)"', logarithmic)[0].split()) == 2


def test_numbers_travel_as_a_picture():
    levels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert pages.numbers(levels).startswith("data:image/png;base64,")
