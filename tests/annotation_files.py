"""Annotations of one polygon and one box in each format, made as the tools write them."""

import io
import json
import pickle

import numpy as np
from PIL import Image

from modeldoctor.data.masks import open_masks

WIDTH, HEIGHT = 31, 22

SIZE = (WIDTH, HEIGHT)

POLYGON = [(4.2, 3.1), (25.9, 6.3), (21.3, 18.6), (8.9, 15.2)]

BOX_POINTS = [(5, 3), (19, 3), (19, 12), (5, 12)]

PATH = "train/cat/1.jpg"

Y, X = np.mgrid[:HEIGHT, :WIDTH] + 0.5


def inside_box():
    return (X > 5) & (X < 19) & (Y > 3) & (Y < 12)


def labelme(*shapes, **changes):
    return json.dumps({"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": "../1.jpg", "imageData": None}
                      | {"imageWidth": WIDTH, "imageHeight": HEIGHT} | changes)  # fmt: skip


def shape(kind, points, **changes):
    return {"label": "x", "points": points, "group_id": None, "shape_type": kind, "flags": {}} | changes


def png(mask):
    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(stream, "PNG")
    return stream.getvalue()


def coco(*segmentations, name=PATH, size=SIZE, **changes):
    image = {"id": 7, "file_name": name, "width": size[0], "height": size[1]}
    annotations = [
        {"id": i, "image_id": 7, "category_id": 1, "iscrowd": int(isinstance(one, dict)), "segmentation": one} | changes
        for i, one in enumerate(segmentations)
    ]
    return json.dumps({"images": [image], "annotations": annotations, "categories": []})


def voc(*boxes, size=SIZE, head=""):
    objects = "".join(
        "<object><name>x</name><bndbox>"
        + "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        + "</bndbox></object>"
        for box in boxes
    )
    size = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"{head}<annotation>{size}{objects}</annotation>"


def flat(points):
    return [value for point in points for value in point]


def put(folder, path, content):
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def read(folder, image=PATH, size=SIZE):
    masks = pickle.loads(pickle.dumps(open_masks(folder, [image])))
    return masks.read(masks.find(image), size)


GOOD = shape("rectangle", [(5, 3), (19, 12)])
