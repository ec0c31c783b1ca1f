"""What viewers may send in ``params``, as it is on the wire, and what becomes of it."""

import json
from typing import Any

import pytest
from fastapi import HTTPException

from lib.imaging.image import Window
from lib.sam.prompts import PromptError
from lib.server.upstream.viewer_params import BatchParams, ViewerParams, read_params
from lib.transforms.request import Drawing, LabelFormat, SegmentOptions, SegmentRequest, Source, ViewerPrompts
from lib.transforms.viewer_options import WINDOWS


def asked(**params: Any) -> SegmentRequest:
    return read_params(ViewerParams, params).request(model="sam_tiny", image="ball")


def test_ohif():
    params = json.loads(
        '{"foreground":[[171,256,9]],"background":[[205,256,9]],"result_extension":".nrrd","result_dtype":"uint8",'
        '"result_compress":false,"restore_label_idx":false,"window":"lung","candidates":"single"}'
    )
    request = asked(**params)
    assert request.source is Source.VIEWER
    assert request.prompts == ViewerPrompts(((171, 256, 9),), ((205, 256, 9),))
    assert request.options == SegmentOptions(window="lung", multimask=False)
    assert request.label_format == LabelFormat(".nrrd") and request.save_as is None and request.object_name is None


def test_slicer():
    params = {
        **{"label": "organ", "foreground": [[60, 50, 56]], "background": [], "slice": 56, "client_id": "ann"},
        **{"roi": [9, 1, 8, 2, 7.0, 3], "result_extension": ".nrrd", "result_dtype": "uint8", "max_slices": "3"},
        **{"window": "auto", "box_from_points": True, "fill_holes": "false", "largest_component": 1},
    }
    request = asked(**params)
    assert request.prompts == ViewerPrompts(((60, 50, 56),), (), (9, 1, 8, 2, 7, 3), 56)
    flags = {"box_from_points": True, "largest_component": True, "fill_holes": False}
    assert request.options == SegmentOptions(max_slices=3, **flags)
    assert request.object_name == "organ" and read_params(ViewerParams, params).client_id == "ann"


@pytest.mark.parametrize("value", [5, "cpu", None, [], {}, True])
@pytest.mark.parametrize(
    "key",
    [
        *("image", "image_path", "model", "session", "sam_input", "earlier", "automatic", "client", "object_name"),
        *("prompt_label", "label_values", "sent_label", "skip_writer", "by_index", "device", "logging", "request"),
        *("latencies", "centroids", "timeout", "description", "multimask", "surprise"),
    ],
)
def test_what_no_viewer_may_say_is_ignored(key, value):
    assert read_params(ViewerParams, {key: value}) == read_params(ViewerParams, {})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in ("label", "label_tag", "client_id") for value in (5, [], {}, True)),
        *(("result_extension", value) for value in (5, {}, ".exe", "nrrd")),
        *(("result_dtype", value) for value in (5, [], "float128", "")),
        *((key, value) for key in ("foreground", "background") for value in (5, "1,2,3", [1, 2, 3], [[1]], {"x": 1})),
        *(("roi", value) for value in ("all", 5, [1, 2, 3], [[1, 2, 3, 4, 5, 6]], {})),
        *(("slice", value) for value in ("1", True, [1], float("nan"))),
        *(("prompts", value) for value in ("everything", 5, [], {}, "rest", "viewer")),
        *(("save_label", value) for value in ("maybe", 5, [])),
        *(("label_info", value) for value in ("liver", 5, {"name": "liver"})),
        *(("scribbles", value) for value in (5, {}, [5], [{"points": []}], [{"points": [[1, 2, 3]], "width": 0}])),
        *(
            ("scribbles", value)
            for value in ([{"points": [[1, 2, 3]], "colour": 1}], [{"points": [[1, 2, 3]] * 10_001}])
        ),
        *(
            ("lassos", value)
            for value in ([{"points": [[1, 2, 3]] * 2}], [{"points": [[1, 2, 3]] * 3, "width": 1}], [{}])
        ),
        *(("lassos", [{"points": [[1, 2, 3]] * 3, "positive": value}]) for value in (5, [], "maybe")),
        *(("start_from_label", value) for value in ("maybe", 5, [])),
        *(("max_slices", value) for value in ("many", -1, 1.5, [1], True)),
        *(("slices", value) for value in ("1,2", 5, [1], [1, 2, 3], [-1, 4], [1, 2.5], [1, True], [1, float("nan")])),
        *(("seconds", value) for value in ("soon", -1, 0.5, [1], True, float("nan"), float("inf"))),
    ],
)
def test_a_value_of_another_kind_is_refused_by_its_key(key, value):
    with pytest.raises(PromptError, match=key):
        read_params(ViewerParams, {key: value})


def test_a_part_of_a_mask_is_for_a_client_that_can_go_on_and_never_stored():
    sent = read_params(ViewerParams, {"foreground": [[1, 2, 3]], "seconds": "2", "slices": [9, 1.0]})
    options = sent.request(model="sam_tiny_3d", image="ball", client="a").options
    assert (options.seconds, options.slices) == (2, (1, 9))
    with pytest.raises(PromptError, match="seconds: send a client_id"):
        sent.request(model="sam_tiny_3d", image="ball")
    with pytest.raises(PromptError, match="seconds: a part of a mask is not stored"):
        asked(seconds=2, save_label=True)


def test_null_is_as_if_it_were_not_sent():
    assert read_params(ViewerParams, dict.fromkeys(ViewerParams.model_fields)) == read_params(ViewerParams, {})


def test_drawings_and_a_label_to_start_from():
    outline = [[1, 2, 3], [9, 2, 3], [9, 9, 3]]
    params = {"lassos": [{"points": outline, "positive": "false"}], "scribbles": [{"points": [[1, 2, 3]], "width": 5}]}
    prompts = asked(**params).prompts
    assert isinstance(prompts, ViewerPrompts) and prompts.count == 2
    assert prompts.lassos == (Drawing(((1, 2, 3), (9, 2, 3), (9, 9, 3)), positive=False),)
    assert prompts.scribbles == (Drawing(((1, 2, 3),), width=5),)
    null = asked(scribbles=[{"points": [[1, 2, 3]], "width": None, "positive": None}]).prompts
    assert isinstance(null, ViewerPrompts) and null.scribbles == (Drawing(((1, 2, 3),), positive=True, width=3),)
    sent = read_params(ViewerParams, {**params, "start_from_label": True})
    assert sent.counts() == {
        "foreground": 0, "background": 0, "roi": 0, "scribbles": 1, "lassos": 1, "start": 1
    }  # fmt: skip
    request = sent.request(model="sam_tiny", image="ball", sent_label="here")
    assert request.options.start_from_label and request.prompting_label == "here"
    assert asked(**params).prompting_label is None
    with pytest.raises(PromptError, match="start_from_label is for a client's own prompts"):
        asked(prompts="labels", start_from_label=True)


def test_the_tag_of_a_label_that_is_kept():
    assert asked(label_tag="mine").save_as is None
    assert asked(save_label="true").save_as == "original"
    assert asked(save_label=True, label_tag="mine").save_as == "mine"
    with pytest.raises(HTTPException, match="label_tag"):
        asked(label_tag="../x")


@pytest.mark.parametrize("source", [Source.LABELS, Source.AUTOMATIC])
def test_prompts_of_another_source(source):
    request = asked(prompts=str(source), foreground=[[1, 2, 3]])
    assert request.source is source and request.prompts is None and request.automatic is (source is Source.AUTOMATIC)


def test_a_batch():
    request = read_params(BatchParams, {"window": "bone", "fill_holes": True, "foreground": 5}).request(
        model="sam_tiny"
    )
    assert request.source is Source.AUTOMATIC and request.automatic and request.save_as == "original"
    assert request.options == SegmentOptions(window="bone")
    request = read_params(BatchParams, {"prompts": "labels", "label_tag": "pre"}).request(model="sam_tiny")
    assert request.source is Source.LABELS and not request.automatic and request.save_as == "pre"
    for key, value in {"max_batch_size": -1, "prompts": "rest", "candidates": "four"}.items():
        with pytest.raises(PromptError, match=key):
            read_params(BatchParams, {key: value})


@pytest.mark.parametrize(
    ("candidates", "multimask"),
    [
        ("auto", None),
        ("single", False),
        ("best of three", True),
        (None, None),
        (["auto", "single", "best of three"], None),  # what MONAI Label fills in when the client chose nothing
    ],
)
def test_candidates(candidates, multimask):
    assert asked(candidates=candidates).options.multimask is multimask


@pytest.mark.parametrize(
    ("value", "flag"),
    [(True, True), ("true", True), ("True", True), (1, True), (False, False), ("", False), (0, False)],
)
@pytest.mark.parametrize("name", ["box_from_points", "largest_component", "fill_holes"])
def test_boxes_that_are_ticked(name, value, flag):
    assert getattr(asked(**{name: value}).options, name) is flag


def test_what_is_not_sent_is_off():
    flags = {"box_from_points": False, "largest_component": None, "fill_holes": False}
    assert asked().options == SegmentOptions(window="auto", multimask=None, max_slices=0, **flags)


@pytest.mark.parametrize(
    ("window", "meant"),
    [
        (None, "auto"),
        ("", "auto"),
        (WINDOWS, "auto"),  # what MONAI Label fills in when the client chose nothing
        ("lung", "lung"),
        ({"center": 400, "width": 800}, Window(400, 800)),
        ({"width": 1.5, "center": -3.5}, Window(-3.5, 1.5)),
    ],
)
def test_windows(window, meant):
    assert asked(window=window).options.window == meant


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("candidates", value) for value in ("four", 3, {}, [], ["single"], True, {"single": 1})),
        *(("fill_holes", value) for value in ("maybe", [1], {}, [], 2, 0.5)),
        ("box_from_points", {}),
        ("largest_component", [True]),
        *(("window", value) for value in (5, 0, True, False, [], {}, ["lung"], "lungs", 40.5, [40, 400])),
        ("window", {"center": 40}),
        ("window", {"center": "40", "width": "400"}),
        ("window", {"center": 40, "width": True}),
        ("window", {"center": 40, "width": 0}),
        ("window", {"center": 40, "width": -400}),
        ("window", {"center": float("nan"), "width": 400}),
        ("window", {"center": 40, "width": 10**400}),
        ("window", {"center": 40, "width": 400, "functions": "SIGMOID"}),
        ("window", {"center": 40, "width": 400, "x": "y" * 1000}),
    ],
)
def test_what_cannot_be_chosen_is_refused_by_its_name(option, value):
    with pytest.raises(PromptError, match=option) as refused:
        asked(**{option: value})
    assert len(str(refused.value)) < 300
    with pytest.raises(PromptError, match=option):
        read_params(BatchParams, {option: value})
