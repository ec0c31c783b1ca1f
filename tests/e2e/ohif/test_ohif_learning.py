"""People label two studies in OHIF and press *Update Model*; the label of the third then comes by itself."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import requests
from pydicom.dataset import Dataset

from e2e.ohif.test_ohif_clicks import SPLEEN, dice, open_series
from phantom_series import ORGANS, SERIES, Series
from support.ohif import OhifPage
from support.server_process import SAM_APP, Server, running_server

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1200)]
"""A training waits for whatever else the machine does."""

LABEL = "spleen"


@dataclass(frozen=True)
class Patient(Series):
    """The torso of one of several patients, who lie a little differently in the scanner.

    Args:
        name: Of the patient.
        moved: Rows and columns.
    """

    name: str = ""
    moved: tuple[int, int] = (0, 0)

    def values(self) -> np.ndarray:
        return np.roll(super().values(), self.moved, axis=(1, 2))

    def spleen(self) -> np.ndarray:
        return np.roll(self.grid.label(SPLEEN), self.moved, axis=(1, 2))

    def place(self) -> tuple[float, float, float]:
        x, y, z = ORGANS[SPLEEN].centre
        rows, columns = self.moved
        return x + columns * self.grid.spacing[2], y + rows * self.grid.spacing[1], z

    def _header(self) -> Dataset:
        dataset = super()._header()
        dataset.PatientName = dataset.PatientID = self.name
        return dataset


CT = SERIES[0].grid
PATIENTS = [
    Patient("CT", f"axial {name}", CT, name, moved)
    for name, moved in (("Alpha", (3, 5)), ("Beta", (-4, -6)), ("Gamma", (-2, 4)))
]


@pytest.fixture
def learner(tmp_path: Path, orthanc) -> Iterator[Server]:
    """A server with the three patients, whose model folder is its own."""
    app = tmp_path / "sam_app"
    shutil.copytree(SAM_APP, app, ignore=shutil.ignore_patterns("__pycache__", "results", "logs", "learned", "*.pt*"))
    for patient in PATIENTS:
        orthanc.store(*patient.write(tmp_path / patient.name))
    variables = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(tmp_path / "cache")}
    with running_server(tmp_path, app=app, studies=orthanc.dicomweb, variables=variables) as server:
        yield server


@pytest.fixture
def ohif(browser, learner: Server) -> Iterator[OhifPage]:
    page = OhifPage(browser, learner.url)
    yield page
    page.close()
    assert page.failures == []


def test_two_are_labelled_and_the_third_comes_by_itself(ohif: OhifPage, picture, learner: Server) -> None:
    page = ohif.page
    for patient in PATIENTS[:2]:
        open_series(ohif, patient.name)
        ohif.choose_model("sam_tiny_3d")
        ohif.choose_label(LABEL)
        ohif.go_to(patient.place())
        ohif.click(patient.place())
        _, answer = ohif.run()
        picture(f"label of {patient.name}")
        assert dice(ohif.labels() > 0, patient.spleen()) > 0.7
        saved = requests.put(
            f"{learner.url}/datastore/label?image={patient.series_uid}&tag=final",
            data={"params": json.dumps({"label_info": [{"name": LABEL, "idx": 1}]})},
            files={"label": ("label.nrrd", answer.body(), "application/octet-stream")},
            timeout=60,
        )
        assert saved.status_code == 200, saved.text

    page.get_by_text("Options / Configurations").click()
    page.locator("select[name=selectSection]").select_option("train")
    page.locator("[id='trainsam_tinyteach']").select_option("labels")
    page.locator("[id='trainsam_tinyminutes']").fill("1")
    picture("options")
    page.get_by_text("Confirm", exact=True).click()
    page.get_by_text("Active Learning", exact=True).click()
    with page.expect_response(lambda answer: answer.url.endswith("/train/") and answer.request.method == "POST"):
        page.get_by_role("button", name="Update Model").click()
    page.get_by_role("button", name="Stop Training").wait_for()
    picture("training")
    until = time.monotonic() + 800
    while (state := learner.get("/train/").json())["status"] == "RUNNING":
        assert time.monotonic() < until, state
        time.sleep(0.5)
    [result] = state["results"]
    assert result["title"] == "auto_spleen@1" and result["served"], result

    third = PATIENTS[2]
    open_series(ohif, third.name)
    page.get_by_text("Auto-Segmentation", exact=True).click()
    panel = page.locator(".tab", has=page.get_by_text("Auto-Segmentation", exact=True))
    panel.locator("select.selectBox").select_option("auto_spleen")
    with page.expect_response(lambda answer: "/infer/auto_spleen" in answer.url) as answered:
        panel.locator("button.actionButton").click()
    assert answered.value.status == 200
    answered.value.finished()
    page.wait_for_timeout(3000)
    picture("found by itself")
    assert dice(ohif.labels() > 0, third.spleen()) > 0.5
