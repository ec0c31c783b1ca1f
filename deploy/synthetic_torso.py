"""Puts a synthetic CT and MR into the stack's archive, to try it without a patient's data. Runs in the server:

docker compose exec -T server .venv/bin/python - <synthetic_torso.py
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import httpx

sys.path.insert(0, "scripts")

from phantom_series import SERIES

url = os.environ.get("ARCHIVE_URL", "http://archive:8042")
password = Path(os.environ.get("ARCHIVE_PASSWORD_FILE", "/run/secrets/archive_password")).read_text().strip()
with (
    tempfile.TemporaryDirectory() as folder,
    httpx.Client(base_url=url, auth=("server", password), timeout=60) as archive,
):
    for series in SERIES:
        for file in series.write(Path(folder)):
            archive.post("/instances", content=file.read_bytes()).raise_for_status()
    print(f"The archive has {len(archive.get('/studies').json())} studies")
