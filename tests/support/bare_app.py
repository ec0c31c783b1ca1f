"""A MONAI Label app as small as can be, so that what its server does is upstream's doing alone."""

from __future__ import annotations

from pathlib import Path

MAIN = '''
import os
import shutil
import tempfile

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType


class Copy(InferTask):
    """Answers the image that it was to segment."""

    def __init__(self, checkpoint):
        super().__init__(InferType.SEGMENTATION, ["organ"], 3, "copies")
        self._checkpoint = checkpoint

    def get_path(self, validate=True):
        return self._checkpoint

    def is_valid(self):
        return True

    def __call__(self, request):
        handle, path = tempfile.mkstemp(suffix=".nii.gz")
        os.close(handle)
        shutil.copyfile(request["image"], path)
        return path, {}


class BareApp(MONAILabelApp):
    def __init__(self, app_dir, studies, conf):
        self.checkpoint = os.path.join(app_dir, "checkpoint.pt")
        super().__init__(app_dir, studies, conf, name="bare")

    def _download_dcmqi_tools(self):
        """Not here: nothing is downloaded in a test."""

    def init_infers(self):
        return {"sam_tiny": Copy(self.checkpoint)}
'''

CHECKPOINT = b"weights of the bare app"


def write_bare_app(folder: Path) -> Path:
    """Write it into ``folder``; its one model copies images and is called as our default one."""
    folder.mkdir()
    (folder / "main.py").write_text(MAIN)
    (folder / "checkpoint.pt").write_bytes(CHECKPOINT)
    return folder
