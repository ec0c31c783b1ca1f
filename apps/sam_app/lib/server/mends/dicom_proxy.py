"""Mend: MONAI Label 0.8.5's DICOMweb proxy goes to any path of the DICOM server's machine, with its password.

``/proxy/dicom/%2e%2e/…`` leaves the DICOMweb root, and with POST as well as GET reaches what administers the DICOM
server. Here a path is a resource of DICOMweb (PS3.18): studies, series or instances, and plain segments below.
"""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.endpoints.proxy import proxy_dicom
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.utils.app import app_instance

router = APIRouter(include_in_schema=False)

_RESOURCE = re.compile(r"(studies|series|instances)(/(?!\.{1,2}(/|$))[A-Za-z0-9._,~-]+)*/?")
_SERVICES = ("wado", "qido", "stow")


@router.api_route("/proxy/dicom/{path:path}", methods=["GET", "POST"])
async def proxy(
    request: Request, path: str, user: Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))]
) -> Response:
    """Hand on a request for a resource to the DICOMweb server, if asked for under the prefix of one of its services."""
    if not isinstance(app_instance().datastore(), DICOMWebDatastore):
        raise HTTPException(404, "there is no DICOMweb server behind this one: its images are in a folder")
    service, _, rest = path.partition("/")
    service, resource = (service, rest) if service in _SERVICES else ("", path)
    if not _RESOURCE.fullmatch(resource):
        raise HTTPException(404, "this is no DICOMweb resource below studies, series or instances")
    answer: Response = await proxy_dicom(request, service, resource)
    return answer
