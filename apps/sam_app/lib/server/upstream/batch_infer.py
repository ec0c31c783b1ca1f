"""Fix: MONAI Label 0.8.5's batch inference accepts paths as images, and runs in a second server next to the first.

A client's parameters become those of a process that loads the app again, with its models, and writes the same datastore
at the same time; one image's failure ends the batch. Here a batch runs in this server, see :mod:`lib.server.batch`. Its
images are those of the datastore, its parameters those of :class:`~lib.server.upstream.viewer_params.BatchParams`, and
it cannot make labels ``final``: only people make those, and they go to the DICOMweb server.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType
from monailabel.interfaces.utils.app import app_instance

from lib.base.request_record import note
from lib.server.batch import BatchInference
from lib.server.upstream.arguments import known_image
from lib.server.upstream.viewer_params import BatchParams, read_params
from lib.studies.storable import check_storable

router = APIRouter(tags=["Infer"])

_User = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))]
_Admin = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))]


@router.get("/batch/infer", summary="How far batch inference is")
def status(request: Request, user: _User, all: bool = False, check_if_running: bool = False) -> Any:
    """Return the latest batch, or all recent ones; 404 if there is none or, with ``check_if_running``, none running."""
    batches: BatchInference = request.app.state.batches
    return batches.runs.described(all=all, check_if_running=check_if_running)


@router.post("/batch/infer/{model}", summary="Run a model on many images")
def run(
    request: Request,
    model: str,
    user: _Admin,
    images: BatchInferImageType = BatchInferImageType.IMAGES_ALL,
    params: dict[str, Any] | None = None,
    run_sync: bool = False,
) -> Any:
    """Segment images of the datastore and store the results as labels.

    ``params``: ``prompts`` is ``automatic`` (every object of the middle slice) or ``labels`` (points inside the labels
    that an image has); ``label_tag`` names the results; ``images`` lists ids instead of all, ``labeled`` or
    ``unlabeled`` ones: with a final label, or with neither that nor a result of this name, so that a batch goes on
    where it was ended; ``max_batch_size`` bounds their number; ``window`` and ``candidates`` are the model's options.
    Other keys are ignored. With ``run_sync`` the response is sent at the end: the results by image.
    """
    app = app_instance()
    app.require_model(model)
    given = params or {}
    check_storable(given)
    sent = read_params(BatchParams, given)
    asked = sent.request(model=model)
    if sent.label_tag == DefaultLabelTag.FINAL:
        raise HTTPException(422, "a batch cannot store labels as final, unchecked by anybody: use another tag")
    chosen = _images(images, sent)
    shown: dict[str, Any] = {key: given[key] for key in ("window", "candidates") if key in given}
    shown |= {"model": model, "label_tag": sent.label_tag, "prompts": str(asked.source)}
    note(model=model)
    batches: BatchInference = request.app.state.batches
    batch = batches.start(asked, chosen, shown, wait=run_sync)
    return batch.results if run_sync else batch.as_dict()


@router.delete("/batch/infer", summary="Stop batch inference")
def stop(request: Request, user: _Admin) -> Any:
    """Stop the running batch after its current images; null if none is running."""
    batches: BatchInference = request.app.state.batches
    batch = batches.stop()
    return batch.as_dict() if batch else None


def _images(which: BatchInferImageType, sent: BatchParams) -> list[str]:
    datastore = app_instance().datastore()
    if isinstance(sent.images, list):
        images = [known_image(str(image)) for image in sent.images]
    else:
        try:
            which = BatchInferImageType(sent.images or which)
        except ValueError:
            raise HTTPException(422, "images must be a list of ids, or all, labeled or unlabeled") from None
        if which == BatchInferImageType.IMAGES_LABELED:
            images = datastore.get_labeled_images()
        elif which == BatchInferImageType.IMAGES_UNLABELED:
            unlabeled = datastore.get_unlabeled_images()
            images = [one for one in unlabeled if sent.label_tag not in datastore.get_labels_by_image_id(one)]
        else:
            images = datastore.list_images()
    return sorted(images)[: sent.max_batch_size] if sent.max_batch_size else images
