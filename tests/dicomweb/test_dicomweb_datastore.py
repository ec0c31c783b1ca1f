"""How the datastore of a DICOMweb server is opened."""

from __future__ import annotations

import socket

import pytest
from monailabel.config import Settings

from lib.dicomweb import datastore as dicomweb_datastore
from lib.dicomweb.datastore import AddressError, open_dicomweb

URL = "http://127.0.0.1:9/dicom-web"


@pytest.fixture
def settings(monkeypatch, tmp_path) -> Settings:
    """MONAI Label's settings with one variable set."""
    monkeypatch.setenv("MONAI_LABEL_DICOMWEB_CACHE_PATH", str(tmp_path))
    chosen = Settings(_env_file=None)
    monkeypatch.setattr(dicomweb_datastore, "settings", chosen)
    return chosen


@pytest.mark.parametrize("login", ["me:secret@", "me@"])
def test_an_address_with_a_login_is_refused_without_repeating_it(login):
    with pytest.raises(AddressError, match="MONAI_LABEL_DICOMWEB_PASSWORD") as raised:
        open_dicomweb(f"http://{login}127.0.0.1:9/dicom-web")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["http://", "https:///dicom-web", "http://host:port/x", "http://[::1/x", "http://h:99999/"]
)
def test_what_is_no_address_is_named(url):
    with pytest.raises(AddressError, match="must be like http://HOST:PORT"):
        open_dicomweb(url)


def test_upstream_s_defaults_do_not_hold_but_an_operator_s_settings_do(settings, monkeypatch):
    store = open_dicomweb(URL)
    assert (store._lists._filter, store._lists._images.ttl) == ({}, 10)
    monkeypatch.setenv("MONAI_LABEL_DICOMWEB_SEARCH_FILTER", '{"Modality": "MR"}')
    monkeypatch.setenv("MONAI_LABEL_DICOMWEB_CACHE_EXPIRY", "3")
    monkeypatch.setattr(dicomweb_datastore, "settings", Settings(_env_file=None))
    store = open_dicomweb(URL)
    assert (store._lists._filter, store._lists._images.ttl) == ({"Modality": "MR"}, 3)


def test_opening_needs_neither_the_archive_nor_the_internet(settings, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *address: pytest.fail(f"a connection to {address}"))
    open_dicomweb(URL)


def test_ids_that_are_no_uids_are_not_looked_for(settings, tmp_path):
    store = open_dicomweb(URL)
    for image in ("../../secret", "labels", "", "1.2/../3"):
        assert not store.has_image(image)
