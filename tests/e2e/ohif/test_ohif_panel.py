"""What this app adds to OHIF: Undo, Box, Load from PACS and Store in PACS, and Run that works after errors."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import requests
from playwright.sync_api import expect
from pydicom import Dataset, dcmread

from e2e.ohif.test_ohif_clicks import CT, LESION, SPLEEN, dice, open_series
from phantom_series import ORGANS

pytestmark = pytest.mark.e2e

LIST_OF_ORGANS = "Choose an organ in the list below"


@pytest.fixture
def stored(orthanc):
    """Reads the DICOM SEGs in the PACS, the oldest first, each with its masks; at first there is none."""

    def read() -> list[tuple[Dataset, dict[str, np.ndarray]]]:
        found = [(segmentation, masks(segmentation)) for _, segmentation in segmentations(orthanc)]
        return sorted(found, key=lambda one: (one[0].ContentDate, one[0].ContentTime))

    for url, _ in segmentations(orthanc):
        requests.delete(url, timeout=30).raise_for_status()
    return read


def segmentations(orthanc) -> list[tuple[str, Dataset]]:
    """With their addresses in Orthanc."""
    ids = requests.get(f"{orthanc.url}/instances", timeout=30).json()
    urls = [f"{orthanc.url}/instances/{one}" for one in ids]
    found = [(url, dcmread(io.BytesIO(requests.get(f"{url}/file", timeout=30).content))) for url in urls]
    return [(url, dataset) for url, dataset in found if dataset.Modality == "SEG"]


def masks(segmentation: Dataset) -> dict[str, np.ndarray]:
    """``(K, rows, columns)`` bool by label, placed by the positions of the frames."""
    names = {int(one.SegmentNumber): str(one.SegmentLabel) for one in segmentation.SegmentSequence}
    found = {name: np.zeros(CT.grid.shape, bool) for name in names.values()}
    frames = segmentation.pixel_array.reshape(-1, *CT.grid.shape[1:])
    for frame, groups in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        name = names[int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)]
        place = tuple(map(float, groups.PlanePositionSequence[0].ImagePositionPatient))
        found[name][CT.grid.index(place)[2]] |= frame.astype(bool)
    return found


def select(ohif, name: str, place: tuple[float, float, float]) -> None:
    ohif.choose_label(name)
    ohif.go_to(place)


def set_option(ohif, model: str, name: str, value: str) -> None:
    ohif.page.get_by_text("Options / Configurations").click()
    ohif.page.locator("select[name=selectSection]").select_option("infer")
    ohif.page.locator("select[name=selectName]").select_option(model)
    ohif.page.locator(f"[id='infer{model}{name}']").fill(value)
    ohif.page.get_by_text("Confirm", exact=True).click()


@pytest.mark.long
def test_run_undo_box_and_store(ohif, picture, stored):
    open_series(ohif, "Phantom, CT")
    spleen, lesion = ORGANS[SPLEEN].centre, ORGANS[LESION].centre
    run = ohif.page.get_by_title("Run PointPrompts")

    run.click()
    ohif.expect_message(LIST_OF_ORGANS)
    select(ohif, "spleen", spleen)
    run.click()
    ohif.expect_message("Nothing marks the spleen yet")

    steps = []
    x, y, z = spleen
    for place in (spleen, (x, y + 22, z), (x, y - 22, z)):
        ohif.click(place)
        asked, answer = ohif.run()
        assert answer.status == 200
        steps.append(ohif.labels().copy())
    assert len(asked["foreground"]) == 3
    assert not np.array_equal(steps[0], steps[1]) and not np.array_equal(steps[1], steps[2])

    for earlier in (steps[1], steps[0]):
        with ohif.page.expect_response(lambda response: "/infer/" in response.url):
            ohif.press("Undo")
        wait_for(ohif, earlier)
    ohif.press("Undo")
    wait_for(ohif, np.zeros_like(steps[0]))
    ohif.press("Undo")
    ohif.expect_message("There is no point or box of the spleen to take back")

    ohif.click(spleen)
    ohif.choose_model("sam_tiny_3d")
    expect(ohif.page.locator(".viewport-element svg circle")).not_to_have_count(0)
    set_option(ohif, "sam_tiny_3d", "max_slices", "-1")
    with ohif.page.expect_response(lambda response: "/infer/" in response.url) as answered:
        run.click()
    said = answered.value.json()["detail"]
    assert answered.value.status == 422 and "max_slices" in said
    ohif.expect_message(said)
    ohif.page.wait_for_timeout(500)  # it moves in
    picture("what the server says")
    ohif.failures.clear()
    set_option(ohif, "sam_tiny_3d", "max_slices", "0")
    _, answer = ohif.run()
    assert answer.status == 200
    picture("run after the model was switched")
    volume = ohif.labels() > 0
    assert dice(volume, CT.grid.label(SPLEEN)) > 0.7

    ohif.choose_model("sam_tiny")
    select(ohif, "lesion", lesion)
    ohif.press("Box")
    x, y, z = lesion
    with ohif.page.expect_response(lambda response: "/infer/" in response.url) as answered:
        ohif.drag((x - 17, y - 16, z), (x + 17, y + 16, z))
    assert answered.value.status == 200 and '"foreground":[]' in answered.value.request.post_data
    k = ohif.voxel(lesion)[2]
    wait_for(ohif, lambda labels: dice((labels[k] > 0) & ~volume[k], CT.grid.label(LESION)[k]) > 0.85)
    picture("box")

    ohif.press("Store in PACS")
    ohif.expect_message("Stored in the PACS as DICOM SEG: lesion, spleen.")
    picture("stored")
    [(segmentation, found)] = stored()
    assert {name: int(mask.sum()) for name, mask in found.items()} == {
        "spleen": int(volume.sum()), "lesion": int((ohif.labels() > 0).sum() - volume.sum()),
    }  # fmt: skip
    assert np.array_equal(found["spleen"], volume)
    assert np.array_equal(found["lesion"] | found["spleen"], ohif.labels() > 0)
    assert {one.SegmentAlgorithmName for one in segmentation.SegmentSequence} == {"sam_tiny"}


def wait_for(ohif, expected) -> None:
    """Until the viewer's labels are these, or as this function wants them."""
    is_there = expected if callable(expected) else lambda labels: np.array_equal(labels, expected)
    for _ in range(50):
        if is_there(ohif.labels()):
            return
        ohif.page.wait_for_timeout(100)
    raise AssertionError("the mask is another")


_ON_SCREEN = """(place) => {
    const viewport = cornerstone.getRenderingEngines()[0].getViewports()[0];
    const box = viewport.element.getBoundingClientRect();
    const [x, y] = viewport.worldToCanvas(place);
    return [box.x + x, box.y + y];
}"""


def brush(ohif, *places: tuple[float, float, float]) -> None:
    """Open the DICOM SEG of the CT in the mode *Segmentation*, and brush the spleen along places on one slice."""
    page = ohif.page
    ohif.open_list()
    page.get_by_text("Phantom, CT").first.click()
    page.get_by_role("button", name="Segmentation").click()
    page.locator('[data-cy="study-browser-thumbnail-no-image"]').dblclick()
    page.get_by_text("Yes", exact=True).click()
    page.get_by_text("spleen", exact=True).click()
    page.locator('[data-cy="Brush"]').click()
    k = int(CT.grid.index(places[0])[2])
    page.evaluate("(k) => cornerstone.getRenderingEngines()[0].getViewports()[0].setImageIdIndex(k)", k)
    page.wait_for_timeout(1000)
    page.mouse.move(*page.evaluate(_ON_SCREEN, places[0]))
    page.mouse.down()
    for place in places:
        page.mouse.move(*page.evaluate(_ON_SCREEN, place), steps=4)
    page.mouse.up()


def export(ohif) -> None:
    page = ohif.page
    page.locator("xpath=//button[@role='combobox']/preceding::button[@aria-haspopup='menu'][1]").click()
    page.get_by_role("menuitem", name="Export & Download").hover()
    page.get_by_role("menuitem", name="Export DICOM SEG").click()
    ohif.expect_message("Stored in the PACS as DICOM SEG: lesion, spleen.")


@pytest.mark.long
def test_stored_brushed_and_continued(ohif, picture, stored, dicomweb_server):
    labels = CT.grid.label(LESION) + 2 * CT.grid.label(SPLEEN).astype(np.uint8)
    names = [{"name": "lesion", "idx": 1}, {"name": "spleen", "idx": 2}]
    answer = requests.put(
        f"{dicomweb_server.url}/datastore/label?image={CT.series_uid}&tag=final",
        data={"params": json.dumps({"label_info": names})},
        files={"label": ("label.bin", labels.tobytes())},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    [(_, first)] = stored()
    x, y, z = ORGANS[SPLEEN].centre
    k = int(CT.grid.index((x, y, z))[2])
    brush(ohif, (x - 60, y - 10, z), (x - 50, y - 10, z))
    picture("brush")
    export(ohif)
    [_, (_, brushed)] = stored()
    added = brushed["spleen"] & ~first["spleen"]
    assert set(np.flatnonzero(added.any(axis=(1, 2)))) == {k} and not (first["spleen"] & ~brushed["spleen"]).any()

    open_series(ohif, "Phantom, CT")
    ohif.press("Load from PACS")
    ohif.expect_message("Loaded: lesion, spleen, as stored on")
    ohif.go_to((x, y, z))
    wait_for(ohif, lambda labels: np.array_equal(labels > 0, brushed["spleen"] | brushed["lesion"]))
    picture("loaded")
    loaded = ohif.labels().copy()
    number = int(loaded[k][added[k]].max())
    assert np.array_equal(loaded == number, brushed["spleen"])

    wrong = (x - 55, y - 10, z)
    select(ohif, "background", wrong)
    ohif.click(wrong)
    ohif.choose_label("spleen")
    ohif.click((x, y, z))
    _, answer = ohif.run()
    picture("corrected")
    assert answer.status == 200
    corrected = ohif.labels() == number
    i, j, _ = ohif.voxel(wrong)
    assert loaded[k, j, i] == number and not corrected[k, j, i]
    others = np.arange(len(loaded)) != k
    assert np.array_equal(corrected[others], brushed["spleen"][others])
    assert dice(corrected, first["spleen"]) > 0.95
    assert np.array_equal(ohif.labels()[loaded != number] != 0, loaded[loaded != number] != 0)

    ohif.press("Store in PACS")
    ohif.expect_message("Stored in the PACS as DICOM SEG: lesion, spleen.")
    [*_, (_, last)] = stored()
    assert np.array_equal(last["spleen"], corrected)


def test_another_panel_stays_as_it_is_and_runs_again_after_an_error(ohif):
    """The panel's component has another method: nothing is added, and the plugin does what it always did."""

    def change(route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace("onRunInference", "onAsk"))

    ohif.page.route("**/3933.bundle.*.js", change)
    open_series(ohif, "Phantom, CT")
    assert ohif.page.locator("#samPanel").count() == 0
    with ohif.page.expect_console_message(lambda message: "TypeError" in message.text):
        ohif.page.get_by_title("Run PointPrompts").click()
    ohif.page.get_by_text("Clear All Points").click()
    place = ORGANS[SPLEEN].centre
    select(ohif, "spleen", place)
    ohif.click(place)
    _, answer = ohif.run()
    assert answer.status == 200 and ohif.labels().any()
