"""Redirects of a DICOMweb server."""

from __future__ import annotations

import pytest

from lib.dicomweb.connection import DicomWebSession, DicomWebStatusError
from support.dicomweb_stand_in import Answer, StandIn, running_stand_in


def redirect(stand_in: StandIn, location: str) -> None:
    """Have it redirect from ``/from``, and answer all else."""
    moved = Answer(302, body=[], headers={"Location": location, "Content-Length": "0"})
    stand_in.answer = lambda path: moved if path.endswith("/from") else Answer()


def test_a_redirect_to_another_server_is_not_followed_and_gets_no_login():
    with running_stand_in() as other, running_stand_in() as archive, DicomWebSession(("user", "secret"), 5) as session:
        redirect(archive, f"{other.url}/to")
        with pytest.raises(DicomWebStatusError) as refused:
            session.request("GET", f"{archive.url}/from")
        assert refused.value.status == 302 and other.requests == []


@pytest.mark.parametrize("location", ["/to", "to?x=1"])
def test_a_redirect_within_the_server_is_followed(location):
    with running_stand_in() as archive, DicomWebSession(("user", "secret"), 5) as session:
        redirect(archive, location)
        assert session.request("GET", f"{archive.url}/from").status_code == 200
        expected = location if location.startswith("/") else f"/dicom-web/{location}"
        assert [path for _, path, _ in archive.requests] == ["/dicom-web/from", expected]
        assert all(headers.get("authorization") for _, _, headers in archive.requests)
