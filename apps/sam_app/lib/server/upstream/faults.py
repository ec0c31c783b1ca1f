"""The faults of MONAI Label that this app fixes, one row each.

The routes that replace MONAI Label's are those of this table, :mod:`lib.server.upstream.check` checks it at each start,
and ``docs/upstream.md`` shows it. When MONAI Label fixes a fault, delete its row here and in that page, then its test
and file; remaining uses of the file then fail at import.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi import APIRouter
from monailabel.endpoints import activelearning, datastore, info

from lib.server.upstream import (
    batch_infer,
    datastore_routes,
    dicom_proxy,
    infer_route,
    next_sample,
    session_routes,
    train_routes,
    unserved_routes,
    viewer,
)
from lib.server.upstream.guarded_routes import Guard, guarded_router

WRITTEN_FOR = "0.8.5"
"""The version of MONAI Label that has these faults."""

_LOCAL = "monailabel.datastore.local:LocalDatastore"
_DICOM = "monailabel.datastore.dicom:DICOMWebDatastore"
_APP = "monailabel.interfaces.app:MONAILabelApp"
_ATTACKS = "integration/test_upstream_faults.py::test_the_same_attack_fails_on_ours"
_DICOM_ATTACKS = "integration/test_upstream_faults.py::test_the_same_attack_fails_on_ours_with_dicomweb"


@dataclass(frozen=True)
class Fault:
    """One fault of MONAI Label and its fix.

    Args:
        id: Short and unique.
        wrong: What MONAI Label does.
        file: Our file with the fix, in ``lib/``.
        test: Test in ``tests/`` that fails without it.
        relies_on: Functions of MONAI Label that are overridden or called for it, ``module:name(arguments)``.
        router: Replaces MONAI Label's routes.
        guards: Checks around MONAI Label's routes, by method and path.
        version: Version of MONAI Label that has the fault.
    """

    id: str
    wrong: str
    file: str
    test: str
    relies_on: tuple[str, ...] = ()
    router: APIRouter | None = None
    guards: Mapping[str, Guard] = field(default_factory=dict)
    version: str = WRITTEN_FOR


FAULTS = (
    Fault(
        "open-routes",
        "whatever no route's own dependency guards is open, and a body is read before anybody asks for a login",
        "server/auth/gate.py",
        "integration/test_auth.py::test_an_upload_is_refused_before_it_is_read",
        ("monailabel.endpoints.user.auth:RBAC.__call__(self, user)",),
    ),
    Fault(
        "oidc-tokens",
        "the check of OpenID Connect refuses every token, and a provider that is away is a 500",
        "server/auth/oidc.py",
        "server/auth/test_oidc.py::test_tokens_for_this_server",
    ),
    Fault(
        "login-routes",
        "without OpenID Connect there is no /auth, and a wrong password is a 500",
        "server/auth/login.py",
        "integration/test_auth.py::test_a_wrong_password_is_refused",
    ),
    Fault(
        "token-parameter",
        "the documentation offers a query parameter for tokens that does nothing",
        "server/auth/openapi.py",
        "server/test_app.py::test_the_documentation_has_every_route_once_and_the_login_where_one_is_needed",
    ),
    Fault(
        "logs-name-patients",
        "whole requests, paths and ids are logged, and logging is set up anew for each request",
        "server/observe/log_hygiene.py",
        "integration/test_observability.py::test_no_log_names_the_patient_or_the_place_of_the_images",
    ),
    Fault(
        "cors",
        "pages of every origin may read what is answered, with credentials",
        "server/upstream/cors.py",
        "integration/test_rest.py::test_cors",
    ),
    Fault(
        "docs-need-cdn",
        "the API's documentation loads its scripts from elsewhere, so that it is blank offline",
        "server/upstream/docs.py",
        "integration/test_rest.py::test_the_routes_are_in_the_api_documentation_which_needs_no_other_host",
    ),
    Fault(
        "unchecked-forms",
        "a form may have any number of parts, as large as one likes",
        "server/http/forms.py",
        "server/http/test_forms.py::test_the_number_of_parts_is_bounded",
    ),
    Fault(
        "unchecked-arguments",
        "ids, tags and names become paths as they come, and work is done on the event loop",
        "server/upstream/guarded_routes.py",
        "server/upstream/test_guarded_routes.py::test_what_a_check_raises_is_raised_before_upstream_s_function",
    ),
    Fault(
        "datastore-paths",
        "/datastore writes and reads outside the datastore, takes any file, and tells paths of the server",
        "server/upstream/datastore_routes.py",
        _ATTACKS,
        ("monailabel.endpoints.datastore:download_label(label, tag, check_only)",),
        datastore_routes.router,
        datastore_routes.GUARDS,
    ),
    Fault(
        "next-sample-path",
        "/activelearning tells the image's path on the server",
        "server/upstream/next_sample.py",
        _ATTACKS,
        (f"{_APP}.next_sample(self, request)",),
        guards=next_sample.GUARDS,
    ),
    Fault(
        "random-weights",
        "the strategy random fails when every image was offered within one second",
        "activelearning/random_sample.py",
        "activelearning/test_random_sample.py::test_images_that_were_all_offered_just_now_are_offered_again",
        (f"{_APP}.init_strategies(self)",),
    ),
    Fault(
        "session-archives",
        "/session unpacks archives to anywhere, tells paths, and loses one of two files of one name",
        "server/upstream/session_routes.py",
        _ATTACKS,
        router=session_routes.router,
    ),
    Fault(
        "session-owners",
        "a session is anybody's who guesses its id, is readable for all users, and is not removed after a restart",
        "server/upstream/session_store.py",
        "server/upstream/test_session_store.py::test_everything_of_a_session_is_private_and_its_id_is_random",
        (
            f"{_APP}._load_sessions(self, load)",
            "monailabel.utils.sessions:Sessions.get_session(self, session_id, update_ts, fetch_cache)",
            "monailabel.utils.sessions:Sessions.remove_session(self, session_id)",
            "monailabel.utils.sessions:Sessions.remove_expired(self)",
        ),
    ),
    Fault(
        "infer-reads-paths",
        "/infer opens any file of the server that a client names, works on the event loop, and leaves files behind",
        "server/upstream/infer_route.py",
        _ATTACKS,
        (
            f"{_APP}.infer(self, request, datastore)",
            "monailabel.endpoints.infer:send_response(datastore, result, output, background_tasks)",
        ),
        infer_route.router,
    ),
    Fault(
        "save-label",
        "any text counts as yes to save_label, the label has no name, and two that save at once lose one",
        "server/upstream/saved_inference.py",
        "integration/test_batch.py::test_a_label_saved_with_an_inference",
    ),
    Fault(
        "changed-image",
        "an inference works on whatever the id names by now, and not on what its client sees",
        "server/upstream/displayed_image.py",
        "studies/test_displayed_images.py::test_who_reads_it_here_is_refused_until_it_is_read_anew",
    ),
    Fault(
        "train-second-server",
        "training loads the app again in a second server, which writes the same datastore, with a client's parameters",
        "server/upstream/train_routes.py",
        "integration/test_upstream_faults.py::test_the_same_attack_fails_on_ours",
        router=train_routes.router,
    ),
    Fault(
        "batch-second-server",
        "a batch takes paths for images, and runs in a second server that writes the same datastore",
        "server/upstream/batch_infer.py",
        _ATTACKS,
        router=batch_infer.router,
    ),
    Fault(
        "ohif-files",
        "OHIF's files in subfolders are answered with its start page, and its plugin looks for port 8000 without TLS",
        "server/upstream/viewer.py",
        "integration/test_repaired_routes.py::test_ohif_s_files_are_served_and_everything_else_is_its_start_page",
        router=viewer.router,
    ),
    Fault(
        "proxy-anywhere",
        "the DICOMweb proxy reaches what administers the archive, drops queries, and blocks the event loop",
        "server/upstream/dicom_proxy.py",
        _DICOM_ATTACKS,
        router=dicom_proxy.router,
    ),
    Fault(
        "needless-routes",
        "routes replace checkpoints, start processes, show logs, and load the app anew without a login",
        "server/upstream/unserved_routes.py",
        _ATTACKS,
        router=unserved_routes.router,
    ),
    Fault(
        "temporary-files",
        "uploads, archives and a log's configuration stay among the temporary files",
        "server/upstream/temporary_files.py",
        "integration/test_scratch_folder.py::test_no_file_stays_after_a_request",
    ),
    Fault(
        "folder-replaces",
        "an image takes the place of another, labels of any size are stored, and what is no image is offered for ever",
        "studies/folder_datastore.py",
        "studies/test_folder_datastore.py::test_an_image_never_takes_the_place_of_another",
        (
            f"{_LOCAL}.refresh(self)",
            f"{_LOCAL}.list_images(self)",
            f"{_LOCAL}.get_labeled_images(self, label_tag, labels)",
            f"{_LOCAL}.get_unlabeled_images(self, label_tag, labels)",
            f"{_LOCAL}.status(self)",
            f"{_LOCAL}.json(self)",
            f"{_LOCAL}.add_image(self, image_id, image_filename, image_info)",
            f"{_LOCAL}.remove_image(self, image_id)",
            f"{_LOCAL}.save_label(self, image_id, label_filename, label_tag, label_info)",
            f"{_LOCAL}._reconcile_datastore(self)",
            f"{_LOCAL}._to_id(self, file)",
        ),
    ),
    Fault(
        "folder-in-place",
        "list, labels and images are written in place, so that a crash or a full disk loses them",
        "studies/local_store.py",
        "studies/test_folder_datastore.py::test_a_crash_while_the_list_is_written_leaves_the_one_before",
        (
            f"{_LOCAL}.remove_label(self, label_id, label_tag)",
            f"{_LOCAL}.update_image_info(self, image_id, info)",
            f"{_LOCAL}.update_label_info(self, label_id, label_tag, info)",
            f"{_LOCAL}._init_from_datastore_file(self, throw_exception)",
            f"{_LOCAL}._update_datastore_file(self, lock)",
        ),
    ),
    Fault(
        "folder-odd-list",
        "one odd value in a folder's list ends the server with a stack trace",
        "studies/folder_index.py",
        "studies/test_folder_datastore.py::test_odd_values_of_a_list_are_left_out_and_named",
    ),
    Fault(
        "folder-read-only",
        "studies that cannot be written end the server with a stack trace",
        "studies/folder_place.py",
        "studies/test_folder_place.py::test_a_read_only_file_system_is_served",
        (f"{_APP}.init_datastore(self)",),
    ),
    Fault(
        "dicomweb-waits",
        "a DICOMweb server is waited for without end, asked for one media type, and followed to other machines",
        "dicomweb/connection.py",
        "dicomweb/test_dicomweb_redirects.py::test_a_redirect_to_another_server_is_not_followed_and_gets_no_login",
    ),
    Fault(
        "dicomweb-first-found",
        "the first series of an answer is taken for that which was asked for, and one page for all",
        "dicomweb/search.py",
        "dicomweb/test_dicomweb_search.py::test_the_series_that_was_asked_for_is_found_among_others",
    ),
    Fault(
        "dicomweb-retrieve",
        "instances are fetched uncompressed and written anew, and an answer that ends early goes unnoticed",
        "dicomweb/retrieve.py",
        "dicomweb/test_dicomweb_series.py::test_it_comes_as_it_is_stored_byte_for_byte",
    ),
    Fault(
        "dicomweb-stale-series",
        "a series that changes on the server, or was fetched in part, stays so, readable for all users",
        "dicomweb/series.py",
        "dicomweb/test_dicomweb_series.py::test_slices_that_arrive_later_are_fetched",
    ),
    Fault(
        "dicomweb-lists",
        "CT alone is listed, lists are two hours old, and each asks for every segmentation's metadata",
        "dicomweb/lists.py",
        "dicomweb/test_dicomweb_lists.py::test_series_of_every_modality_that_has_images",
        (f"{_DICOM}.list_images(self)", f"{_DICOM}.get_labeled_images(self, label_tag, labels)"),
    ),
    Fault(
        "dicomweb-nifti",
        "inference reads a NIfTI file of the series, without modality, windows and tilt; dcmqi is downloaded at start",
        "dicomweb/datastore.py",
        "integration/test_dicomweb.py::test_the_window_is_that_of_the_dicom_series",
        (
            f"{_APP}.init_remote_datastore(self)",
            f"{_APP}.info(self)",
            f"{_DICOM}.get_image_uri(self, image_id)",
            f"{_DICOM}._dicom_info(self, series_id)",
        ),
    ),
    Fault(
        "dicomweb-labels",
        "a label that the server refused counts as stored, and the label of an image is looked for under its own id",
        "dicomweb/labels.py",
        "integration/test_dicomweb_labels.py::test_a_saved_label_is_in_the_study_and_comes_back_bit_for_bit",
        (
            f"{_DICOM}.save_label(self, image_id, label_filename, label_tag, label_info, label_id)",
            f"{_DICOM}.get_label_uri(self, label_id, label_tag, image_id)",
        ),
    ),
    Fault(
        "dicomweb-seg",
        "DICOM SEG codes every label alike, names labels by their place in a list, and fails on empty masks",
        "dicomweb/dicom_seg.py",
        "integration/test_dicomweb_labels.py::test_a_click_is_answered_with_a_segmentation_where_it_was",
    ),
)


_GUARDED = (info.router, activelearning.router, datastore.router)
_UNCHECKED = ("GET /info/",)
"""Routes that are served unchanged, except that they work off the event loop."""


def upstream_routers() -> list[APIRouter]:
    """Return MONAI Label's routes, fixed and without its login, which :mod:`lib.server.auth` replaces.

    Raises:
        UpstreamError: If MONAI Label's routes are not those that the guards were written for.
    """
    guards = dict.fromkeys(_UNCHECKED, Guard())
    for fault in FAULTS:
        guards.update(fault.guards)
    ours = [fault.router for fault in FAULTS if fault.router is not None]
    return [*ours, guarded_router(_GUARDED, guards)]
