from __future__ import annotations

import pytest

from lib.server.auth.pages import warn_if_exposed

START = ["start_server", "--app", "apps/sam_app", "--studies", "studies", "--conf", "results", "x"]


@pytest.mark.parametrize(
    ("more", "host"),
    [
        ([], "0.0.0.0"),
        (["--host", "0.0.0.0"], "0.0.0.0"),
        (["--host=::"], "::"),
        (["-i", "192.168.1.7", "-p", "8000"], "192.168.1.7"),
        (["--host", "sam.hospital.example"], "sam.hospital.example"),
    ],
)
def test_a_server_that_others_reach_is_warned_of(more, host, caplog):
    warn_if_exposed([*START, *more])
    assert f"Anyone in the network can use this server: it listens on {host} without a login" in caplog.text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.0.1"])
def test_one_that_only_this_machine_reaches_is_not(host, caplog):
    warn_if_exposed([*START, "--host", host])
    assert caplog.text == ""
