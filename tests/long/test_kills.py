"""Nothing that was acknowledged is lost when the server is killed, and nothing half-written is served.

The real server is killed at random moments while clients write everything that it acknowledges. After each kill it
starts, lists, opens everything, and what was acknowledged is there.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from support.promises import Clients, Ledger, check_outcome, studies_of
from support.server_process import running_server

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(3, id="3 times", marks=pytest.mark.timeout(900)),
        pytest.param(100, id="100 times", marks=[pytest.mark.long, pytest.mark.timeout(7200)]),
    ],
)
def test_what_was_acknowledged_is_there_after_each_kill(tmp_path: Path, kills: int) -> None:
    studies, ledger, moments = studies_of(tmp_path), Ledger(), random.Random(kills)
    clients = Clients(ledger)
    variables = {"MONAI_LABEL_SESSION_PATH": str(tmp_path / "sessions")}
    for run in range(kills + 1):
        conf = ("results", str(tmp_path / "store"), "max_queue", "16")
        with running_server(tmp_path / f"run {run}", *conf, studies=studies, variables=variables) as server:
            ledger.check(server)
            assert "damaged" not in server.log.read_text(errors="replace")
            if run < kills:
                with clients.at_work(server):
                    time.sleep(moments.uniform(0.2, 4))
                    while run == kills - 1 and not (ledger.results and ledger.accepted):  # on a slow machine
                        time.sleep(0.1)
                    server.process.send_signal(signal.SIGKILL)
                    server.process.wait(20)
            else:
                for timestamp in ledger.accepted:
                    check_outcome(server, timestamp)
                for timestamp in ledger.results:
                    assert server.get(f"/get_segmented_image/{timestamp}?view=mask").status_code == 200, timestamp
        assert not ledger.faults, ledger.faults
        left = [path for path in studies.rglob("*.part") if run == kills]
        assert not left, "what killed servers left is removed at the next start"
    print(f"{kills} kills: {ledger.acknowledged} acknowledged writes, {len(ledger.kept)} places, none lost")
    assert ledger.acknowledged > 5 * kills and ledger.results and ledger.accepted
