"""Hostile texts: YAML, JSON and CSV that no tool of good will writes."""

from __future__ import annotations

import json
from typing import Any

from walk import Make, cut, folder_instead, loop, sparse

DEEP = 100_000


def _of(**texts: str | bytes) -> dict[str, Make]:
    return {name.replace("_", " "): lambda path, text=text: text for name, text in texts.items()}  # type: ignore[misc]


_CONFIG = "checkpoint: a.pt\noutput: run\ndata: {path: photos}\n"

YAML: dict[str, Make] = {
    **_of(
        laughs_of_mappings="a0: &a0 {x: 1}\n"
        + "".join(f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}, z: *a{n - 1}}}\n" for n in range(1, 60)),
        laughs_of_lists="a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)),
        laughs_in_a_value=_CONFIG
        + "seeds: &b0 [1]\n"
        + "".join(f"b{n}: &b{n} [*b{n - 1}, *b{n - 1}]\n" for n in range(1, 60)),
        laughs_as_arms="a0: &a0 [x]\n"
        + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
        + "arms: *a39\n",
        mapping_in_itself="a: &a\n  b: *a\n",
        list_in_itself=_CONFIG + "arms: &a [*a]\n",
        merge_of_itself="a: &a\n  <<: *a\n  b: 1\n",
        merge_of_text="a:\n  <<: text\n",
        python_object="a: !!python/object/apply:os.system [true]\n",
        unknown_tag="a: !mine x\n",
        no_such_day=_CONFIG + "output: 2001-99-99\n",
        no_such_time="a: 2001-01-01 99:99:99\n",
        no_number="a: !!int abc\n",
        no_float="a: !!float abc\n",
        no_truth="a: !!bool maybe\n",
        no_set="a: !!set x\n",
        no_order="a: !!omap [1]\n",
        no_pairs="a: !!pairs [[1]]\n",
        no_base64="a: !!binary é\n",
        endless_number="a: " + "9" * 10_000 + "\n",
        sexagesimal="a: " + "1:" * 5000 + "1\n",
        list_as_key="? [a, b]\n: 1\n",
        mapping_as_key="? {a: b}\n: 1\n",
        null_as_key="null: 1\n",
        number_as_key="1: 1\n1.5: 2\ntrue: 3\n",
        number_as_inner_key=_CONFIG + "training: {1: 2}\n",
        long_key="a" * 5000 + ": 1\n",
        nul="checkpoint: a\0b.pt\n",
        escape="checkpoint: \x1b[31mred\n",
        escaped_nul='checkpoint: "a\\0b"\ndata: {path: "\\0"}\noutput: "\\0"\n',
        surrogate='checkpoint: "\\ud800"\n',
        two_documents="a: 1\n---\nb: 2\n",
        tab="a:\n\tb: 1\n",
        nothing="",
        comment="# nothing\n",
        a_list="- 1\n",
        a_text="text\n",
        nan=_CONFIG + "channel: {weight: .nan}\n",
        infinite=_CONFIG + "training: {epochs: .inf}\n",
        negative=_CONFIG + "training: {epochs: -1}\n",
        huge=_CONFIG + "training: {epochs: 1.0e+400}\n",
        text_for_number=_CONFIG + "training: {epochs: many}\n",
        list_for_section=_CONFIG + "training: [1]\n",
        null_section=_CONFIG + "training: null\n",
        deep_mapping="".join(f"{' ' * n}a:\n" for n in range(2000)),
        deep_list="a: " + "[" * DEEP,
        deep_dashes="- " * DEEP,
        wide_utf=("a: 1\n").encode("utf-16"),
        latin="a: é\n".encode("latin1"),
        half_a_letter=b"a: \xc3",
        binary=bytes(range(256)),
    ),
    "loop": loop,
    "folder": folder_instead,
    "far too large": sparse(5 << 30, b"a: 1\n#"),
}

_COLUMNS = "path,label\n"

CSV: dict[str, Make] = {
    **_of(
        nothing="",
        mark_alone=b"\xef\xbb\xbf",
        header_alone=_COLUMNS,
        empty_header=",\na,b\n",
        other_columns="file,kind\na.png,cat\n",
        semicolons="path;label\na.png;cat\n",
        short_row=_COLUMNS + "a.png\n",
        empty_label=_COLUMNS + "a.png,\n",
        empty_path=_COLUMNS + ",cat\n",
        open_quote=_COLUMNS + '"a.png,cat\n' * 5,
        nul=_COLUMNS + "a\0b.png,cat\n",
        long_path=_COLUMNS + "a" * 5000 + ".png,cat\n",
        long_folder=_COLUMNS + "a" * 5000 + "/é,cat\n",
        long_field=_COLUMNS + "a" * 200_000 + ",cat\n",
        itself=_COLUMNS + "file.csv,cat\n",
        folder=_COLUMNS + ".,cat\n",
        above=_COLUMNS + "../../../../../..,cat\n",
        device=_COLUMNS + "/dev/zero,cat\n/dev/stdin,dog\n",
        endings=_COLUMNS + "a.png,cat\r\r\nb.png,dog\n",
        backslashes=_COLUMNS + "\\\\server\\share\\\0.png,cat\n",
        wide_utf=(_COLUMNS + "a.png,cat\n").encode("utf-16"),
        latin=(_COLUMNS + "é.png,cat\n").encode("latin1"),
        zip_file=b"PK\x03\x04" + bytes(100),
        page="<!DOCTYPE html><html></html>",
    ),
    "loop/file.csv": loop,
    "a folder/file.csv": folder_instead,
    "far too large/file.csv": sparse(5 << 30, b"path,label\na.png,cat\n"),
}

GROUPS: dict[str, Make] = {
    **_of(
        nothing="",
        other_columns="path,colour\na,b\n",
        short_row="path,group\n1.png\n",
        nul="path,group\n1.png,a\0\n",
        open_quote='path,group\n"1.png,a\n',
        long_field="path,group\n1.png," + "a" * 200_000 + "\n",
        missing_rows="path,group\nother.png,a\n",
        empty_group="path,group\n1.png,\n",
        two_groups_of_an_image="path,group\n1.png,a\n1.png,b\n",
        wide_utf="path,group\n1.png,a\n".encode("utf-16"),
        latin="path,group\n1.png,é\n".encode("latin1"),
    ),
    "loop": loop,
    "folder": folder_instead,
    "far too large": sparse(5 << 30, b"path,group\n1.png,a\n"),
}


def trials(good: dict[str, Any]) -> dict[str, Make]:
    """A `trial.json` that says what cannot be."""

    def changed(**changes: object) -> str:
        return json.dumps(good | changes)

    arms = good["arms"]
    text = json.dumps(good)
    seed = '"seed": '
    texts: dict[str, str | bytes] = {
        "NaN": text.replace(seed, '"seed": NaN, "x": ', 1),
        "infinity": text.replace(seed, '"seed": Infinity, "x": ', 1),
        "beyond floats": text.replace(seed, '"seed": 1e999, "x": ', 1),
        "endless number": text.replace(seed, f'"seed": {"9" * 10_000}, "x": ', 1),
        "schema of text": changed(schema="2"),
        "schema true": changed(schema=True),
        "schema of a list": changed(schema=[2]),
        "schema of the future": changed(schema=3),
        "no arms": changed(arms=[]),
        "arms of text": changed(arms="treat"),
        "one arm twice": changed(arms=arms + arms),
        "no original": changed(arms=arms[1:]),
        "arm without images": changed(arms=[{**arm, "images": 0} for arm in arms]),
        "negative images": changed(arms=[{**arm, "images": -5} for arm in arms]),
        "seeds of nothing": changed(arms=[{**arm, "seeds": []} for arm in arms]),
        "fewer figures than seeds": changed(
            arms=[{**arm, "by_seed": {name: [] for name in arm["by_seed"]}} for arm in arms]
        ),
        "no metrics": changed(arms=[{**arm, "metrics": {}, "by_seed": {}} for arm in arms]),
        "handed back nobody": changed(handed_back="nobody"),
        "ruling of nobody": changed(
            ruling={**good["ruling"], "against_original": {**good["ruling"]["against_original"], "arm": "nobody"}}
        ),
        "outcome of nobody": changed(ruling={**good["ruling"], "outcome": "splendid"}),
        "cells of other classes": changed(arms=[{**arm, "classes": arm["classes"][:1]} for arm in arms[:1]] + arms[1:]),
        "deep provenance": text.replace('"provenance": {', '"provenance": {"a": ' + "[" * DEEP + "]" * DEEP + ", ", 1),
        "provenance of a list": changed(provenance=[1]),
        "config of a list": changed(provenance={**good["provenance"], "config": [1]}),
        "checkpoint of a number": changed(provenance={"checkpoint_sha256": 5}),
        "wide": text.encode("utf-16"),
        "with a mark": b"\xef\xbb\xbf" + text.encode(),
        "a zero at the end": text.encode() + b"\0",
        "two objects": text + text,
        "a schema-1 trial of nothing": '{"schema": 1, "arms": [{}], "ruling": {}}',
    }
    return {
        **{f"{name}/trial.json": lambda path, text=text: text for name, text in texts.items()},  # type: ignore[misc]
        **{f"{name}/trial.json": make for name, make in cut(text.encode(), 12).items()},
        "loop/trial.json": loop,
        "far too large/trial.json": sparse(5 << 30, b"{"),
    }


def _labelme(shapes: object, **changes: object) -> str:
    return json.dumps({"shapes": shapes, "imageWidth": 64, "imageHeight": 48} | changes)


def _shape(points: object, kind: object = "polygon", **more: object) -> list[dict[str, object]]:
    return [{"points": points, "shape_type": kind, **more}]


_ZIGZAG = [[x, (-1e6, 1e6)[n % 2]] for n, x in enumerate(range(30_000))]

LABELME: dict[str, Make] = _of(
    nothing="",
    a_list="[]",
    no_shapes="{}",
    shapes_of_text=_labelme("x"),
    shapes_of_numbers=_labelme([1, 2]),
    shapes_of_mapping=_labelme({"a": 1}),
    no_points=_labelme([{}]),
    points_of_text=_labelme(_shape("abc")),
    points_of_mapping=_labelme(_shape({"a": 1})),
    points_of_nan=_labelme(_shape([[float("nan"), 1], [2, 3], [4, 5]])),
    points_at_infinity=_labelme(_shape([[float("inf"), 1], [2, 3], [4, 5]])),
    points_far_away=_labelme(_shape([[1e300, 1], [2, -1e300], [4, 5]])),
    points_of_three=_labelme(_shape([[1, 2, 3], [4, 5, 6]])),
    points_of_lists=_labelme(_shape([[[1], [2]], [[3], [4]]])),
    ragged_points=_labelme(_shape([[1, 2], [3]])),
    points_of_null=_labelme(_shape([[None, None]] * 3)),
    points_of_truth=_labelme(_shape(True)),
    empty_points=_labelme(_shape([])),
    circle_of_one=_labelme(_shape([[1, 1]], "circle")),
    rectangle_of_none=_labelme(_shape([], "rectangle")),
    kind_of_a_list=_labelme(_shape([[1, 1]], ["circle"])),
    kind_of_escapes=_labelme(_shape([[1, 1]], "\x1b[31m\n")),
    mask_of_number=_labelme(_shape([[1, 1], [2, 2]], "mask", mask=5)),
    mask_of_nonsense=_labelme(_shape([[1, 1], [2, 2]], "mask", mask="AAAA")),
    mask_of_far_corners=_labelme(_shape([[1e6, 1e6], [9e6, 9e6]], "mask", mask="AAAA")),
    size_of_text=_labelme(_shape([[1, 1]]), imageWidth="64", imageHeight=[48]),
    negative_size=_labelme(_shape([[1, 1]]), imageWidth=-64, imageHeight=-48),
    endless_number='{"shapes": [' + "9" * 10_000 + "]}",
    deep='{"shapes": ' + "[" * DEEP,
    shapes_twice='{"shapes": [], "shapes": 5}',
    wide_utf=_labelme([]).encode("utf-16"),
    half_a_letter=b'{"shapes": "\xc3',
    zigzag=_labelme(_shape(_ZIGZAG), imageWidth=None, imageHeight=None),
)

VOC: dict[str, Make] = _of(
    nothing="",
    unclosed="<annotation><object>",
    entity='<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>',
    outside='<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>',
    other_root="<html/>",
    no_objects="<annotation/>",
    size_of_text="<annotation><size><width>wide</width><height>high</height></size></annotation>",
    size_of_nan="<annotation><size><width>nan</width><height>nan</height></size><object/></annotation>",
    size_at_infinity="<annotation><size><width>1e999</width><height>1</height></size></annotation>",
    box_of_text="<annotation><object><bndbox><xmin>a</xmin></bndbox></object></annotation>",
    box_of_nan="<annotation><object><bndbox><xmin>nan</xmin><ymin>nan</ymin><xmax>nan</xmax><ymax>nan</ymax></bndbox>"
    "</object></annotation>",
    unknown_encoding='<?xml version="1.0" encoding="klingon"?><annotation/>',
    seven_bit='<?xml version="1.0" encoding="utf-7"?><annotation/>',
    wide_utf="<annotation/>".encode("utf-16"),
    deep="<annotation>" + "<a>" * DEEP,
    deep_and_closed="<annotation>" + "<object>" * 20_000 + "</object>" * 20_000 + "</annotation>",
    nul="<annotation>\0</annotation>",
)

YOLO: dict[str, Make] = _of(
    nothing="",
    text="a cat",
    nan="0 nan nan nan nan",
    infinite="0 inf 0.5 0.1 0.1",
    huge="0 1e300 1e300 1e300 1e300",
    negative="0 0.5 0.5 -1 -1e9",
    six="0 1 2 3 4 5",
    nul="0 0.5\0 0.5 0.1 0.1",
    binary=bytes(range(256)),
    endless_line="0 " + "0.5 " * 400_001,
)


def _coco(image: object, annotation: object) -> str:
    return json.dumps({"images": [image], "annotations": [annotation]})


_IMAGE = {"id": 1, "file_name": "cat/1.png", "width": 64, "height": 48}


def _segment(segmentation: object, **more: object) -> str:
    return _coco(_IMAGE, {"image_id": 1, "segmentation": segmentation, **more})


COCO: dict[str, Make] = {
    **_of(
        nothing="",
        a_list='["images", "annotations"]',
        lists_of_nothing='{"images": [], "annotations": []}',
        images_of_text='{"images": "x", "annotations": []}',
        images_of_numbers='{"images": [1], "annotations": []}',
        images_of_null='{"images": [null], "annotations": []}',
        image_without_id=_coco({"file_name": "a"}, {"image_id": 1, "bbox": [0, 0, 1, 1]}),
        ids_of_lists=_coco({**_IMAGE, "id": [1]}, {"image_id": [1], "bbox": [0, 0, 1, 1]}),
        annotation_of_a_list_s=_coco(_IMAGE, {"image_id": [1], "bbox": [0, 0, 1, 1]}),
        annotations_of_text=_coco(_IMAGE, "x"),
        name_of_number=_coco({**_IMAGE, "file_name": 5}, {"image_id": 1, "bbox": [0, 0, 1, 1]}),
        name_of_nothing=_coco({**_IMAGE, "file_name": ""}, {"image_id": 1, "bbox": [0, 0, 1, 1]}),
        name_of_dots=_coco({**_IMAGE, "file_name": "../../etc/passwd"}, {"image_id": 1, "bbox": [0, 0, 1, 1]}),
        name_of_nul=_coco({**_IMAGE, "file_name": "\0"}, {"image_id": 1, "bbox": [0, 0, 1, 1]}),
        name_of_half_a_letter=_coco({**_IMAGE, "file_name": "\ud800"}, {"image_id": 1, "bbox": [0, 0, 1, 1]}),
        size_of_text=_coco({**_IMAGE, "width": "64", "height": {}}, {"image_id": 1, "bbox": [0, 0, 1, 1]}),
        huge_size=_coco({**_IMAGE, "width": 10**9, "height": 10**9}, {"image_id": 1, "bbox": [0, 0, 1, 1]}),
        box_of_text=_coco(_IMAGE, {"image_id": 1, "bbox": "abcd"}),
        box_of_three=_coco(_IMAGE, {"image_id": 1, "bbox": [1, 2, 3]}),
        box_of_nan=_coco(_IMAGE, {"image_id": 1, "bbox": [float("nan")] * 4}),
        box_of_mapping=_coco(_IMAGE, {"image_id": 1, "bbox": {"x": 1}}),
        box_of_number=_coco(_IMAGE, {"image_id": 1, "bbox": 5}),
        segmentation_of_number=_segment(5),
        segmentation_of_text=_segment("abc"),
        segmentation_of_mixed=_segment([[1, 2, 3, 4, 5, 6], 7, "x", None, {}]),
        segmentation_of_nulls=_segment([None]),
        runs_of_nothing=_segment({}),
        runs_without_size=_segment({"counts": [1, 2]}),
        runs_of_other_size=_segment({"size": [10**6, 10**6], "counts": [10**12]}),
        runs_of_negatives=_segment({"size": [48, 64], "counts": [-1, 3073]}),
        runs_beyond=_segment({"size": [48, 64], "counts": [10**30]}),
        runs_of_text=_segment({"size": [48, 64], "counts": "\x00\x01"}),
        runs_without_end=_segment({"size": [48, 64], "counts": "o" * 100_000}),
        runs_of_floats=_segment({"size": [48, 64], "counts": [1.5, 2.5]}),
        size_of_a_word=_segment({"size": "48x64", "counts": [3072]}),
        deep='{"images": [], "annotations": ' + "[" * DEEP,
        endless_number='{"images": [], "annotations": [' + "9" * 10_000 + "]}",
        half_a_letter=b'{"images": [], "annotations": "\xc3',
        wide_utf='{"images": [], "annotations": []}'.encode("utf-16"),
    ),
    "loop": loop,
    "far too large": sparse(5 << 30, b'{"images": [], "annotations": []'),
}
