"""What is often handed over in place of a PyTorch checkpoint: each kind is named, with the one right next step."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import AnyStr, Generic

SAVE_WEIGHTS = (
    "load the model in the script that made it and save its weights: torch.save(model.state_dict(), 'model.pt')"
)
SAVE_EAGER = f"TorchScript and exported programs cannot be diagnosed; {SAVE_WEIGHTS} from the eager model"
OTHER_FRAMEWORK = "pass the PyTorch checkpoint from which it was converted; this format cannot be diagnosed"
PORT = "rebuild the network in PyTorch, copy the weights into it and save its state_dict(): only PyTorch is read"
UNPACK = "unpack it first, and pass the checkpoint in it"
MERGE = (
    "merge it into its base network in your own code: PeftModel.from_pretrained(base, FOLDER).merge_and_unload()"
    ".save_pretrained(OUT), and pass OUT"
)
JOIN_DCP = "join it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER ckpt.pt"
MERGE_FSDP = "join it: accelerate merge-weights FOLDER/pytorch_model_fsdp_0 OUT, and pass the file in OUT"
JOIN_DEEPSPEED = "join it with the script that DeepSpeed put there: python zero_to_fp32.py . ckpt.pt"
ADAPTER = re.compile(r"\.(lora_[AB]|lora_(up|down)|lora_embedding_[AB]|lora_magnitude_vector|hada_w1_a)(\.|$)")


@dataclass(frozen=True)
class Foreign(Generic[AnyStr]):
    """A kind of file or folder, told by a pattern."""

    pattern: re.Pattern[AnyStr]
    what: str
    hint: str


def _bytes(magic: bytes, what: str, hint: str) -> Foreign[bytes]:
    return Foreign(re.compile(magic, re.S), what, hint)


FILES = (
    _bytes(rb"version https://git-lfs", "a Git LFS pointer, not the weights", "run `git lfs pull`"),
    _bytes(rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<net\s", "an OpenVINO model", OTHER_FRAMEWORK),
    _bytes(
        rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|\?xml)",
        "an HTML page, probably a saved error or login page",
        "download the file again from its direct link",
    ),
    _bytes(rb"\x89HDF\r\n\x1a\n", "an HDF5 file, perhaps of Keras", PORT),
    _bytes(rb".{4}TFL3", "a TensorFlow Lite model", OTHER_FRAMEWORK),
    _bytes(rb"GGUF", "a GGUF file of quantized weights", OTHER_FRAMEWORK),
    _bytes(rb"[fp]trt", "a TensorRT engine", OTHER_FRAMEWORK),
    _bytes(rb"7767517\s", "an ncnn model", OTHER_FRAMEWORK),
    _bytes(rb"\x93NUMPY", "a NumPy array", SAVE_WEIGHTS),
    _bytes(rb"\x1f\x8b", "a gzip archive", UNPACK),
    _bytes(rb"7z\xbc\xaf\x27\x1c|Rar!|BZh|\xfd7zXZ\0|\x28\xb5\x2f\xfd", "a compressed archive", UNPACK),
    _bytes(rb".{257}ustar", "a tar archive", UNPACK),
    _bytes(rb"\x89PNG|\xff\xd8\xff|%PDF", "a picture or document", "pass the checkpoint, and the pictures with --data"),
    _bytes(rb"\x08[\x01-\x20]\x12", "an ONNX model", OTHER_FRAMEWORK),
)
"""Told by how a file begins; the first that fits."""

SUFFIXES = {
    ".mlmodel": ("a Core ML model", OTHER_FRAMEWORK),
    ".distcp": ("a part of a distributed checkpoint (torch.distributed.checkpoint)", JOIN_DCP),
    ".pdparams": ("weights of PaddlePaddle", PORT),
    ".msgpack": ("weights of Flax", PORT),
    ".pb": ("a TensorFlow graph", PORT),
    ".mar": ("a TorchServe archive", UNPACK),
    ".engine": ("a TensorRT engine", OTHER_FRAMEWORK),
    ".mnn": ("an MNN model", OTHER_FRAMEWORK),
}
"""Told by a file's ending, since the bytes say less."""

_UNKNOWN = {
    ".onnx": ("an ONNX model", OTHER_FRAMEWORK),
    ".caffemodel": ("weights of Caffe", PORT),
    ".prototxt": ("a network's description of Caffe, without its weights", PORT),
    ".weights": ("weights of Darknet", PORT),
    ".cfg": ("a configuration, such as Darknet's", PORT),
    ".params": ("weights of MXNet", PORT),
    ".index": ("a part of a TensorFlow checkpoint", PORT),
    ".plan": ("a TensorRT engine", OTHER_FRAMEWORK),
    ".py": ("code, not its weights", "pass the checkpoint, and the code as --arch FILE.py:FUNCTION"),
    ".yaml": ("a configuration, not a checkpoint", "pass the checkpoint, and the file with --config"),
    ".json": ("JSON, not a checkpoint", "pass the file of the weights, or the folder of both"),
    ".csv": ("a table, not a checkpoint", "pass the checkpoint, and the table with --data"),
}
"""Told by the ending of a file whose bytes say nothing."""

_PARTNERS = {".xml": ("the weights of an OpenVINO model", OTHER_FRAMEWORK), ".param": ("ncnn weights", OTHER_FRAMEWORK)}
"""Told by the file of the same name beside it."""

ARCHIVES = (
    Foreign(re.compile(r"(^|/)(constants\.pkl|code/.*)$"), "a TorchScript archive", SAVE_EAGER),
    Foreign(
        re.compile(r"(^|/)(archive_format|models/[^/]*\.json|serialized_exported_program\.json)$"),
        "a torch.export program (.pt2)",
        SAVE_EAGER,
    ),
    Foreign(re.compile(r"(^|/)model\.weights\.h5$"), "a Keras model", PORT),
    Foreign(re.compile(r"com\.apple\.CoreML|\.mlmodel$"), "a Core ML package", OTHER_FRAMEWORK),
    Foreign(re.compile(r"^MAR-INF/"), "a TorchServe archive", UNPACK),
    Foreign(re.compile(r"^[^/]*\.npy$"), "an archive of NumPy arrays", SAVE_WEIGHTS),
)
"""Told by a name in a zip archive."""

_FOLDERS = (
    (r"adapter_config\.json", "a PEFT adapter, which holds only what changes in another network", MERGE),
    (r".*\.distcp|\.metadata", "a distributed checkpoint (torch.distributed.checkpoint)", JOIN_DCP),
    (r"pytorch_model_fsdp_\d+", "a distributed checkpoint of accelerate", MERGE_FSDP),
    (r"zero_to_fp32\.py|.*_(model|optim)_states\.pt|global_step\d+", "a DeepSpeed checkpoint", JOIN_DEEPSPEED),
    (
        r"data\.pkl",
        "an archive of torch.save that was unpacked",
        "pass the archive itself, or pack the folder again without compression: cd FOLDER/.. && zip -r -0 ckpt.pt NAME",
    ),
    (r"saved_model\.pbt?(xt)?", "a TensorFlow SavedModel", PORT),
    (r"coremldata\.bin|com\.apple\.CoreML|.*\.mlmodel", "a Core ML package", OTHER_FRAMEWORK),
    (r"MLmodel", "an MLflow model", "pass the checkpoint in its folder `data`"),
)
_FOLDERS_WITHOUT_TORCH = (
    (r".*\.xml", "an OpenVINO model", OTHER_FRAMEWORK),
    (r".*\.onnx", "an ONNX model", OTHER_FRAMEWORK),
    (r".*\.tflite", "a TensorFlow Lite model", OTHER_FRAMEWORK),
    (r".*\.keras|.*\.h5", "a Keras or TensorFlow model", PORT),
    (r".*\.msgpack", "weights of Flax", PORT),
    (r"checkpoint|.*\.ckpt\.index", "a TensorFlow checkpoint", PORT),
    (r".*\.pdparams", "weights of PaddlePaddle", PORT),
    (r".*\.gguf", "a GGUF file of quantized weights", OTHER_FRAMEWORK),
    (r"_CHECKPOINT_METADATA|_METADATA|_sharding", "an Orbax checkpoint of JAX", PORT),
    (r".*\.(engine|plan)", "a TensorRT engine", OTHER_FRAMEWORK),
)
_NESTED = ("Data", "archive", "checkpoint")


def of_file(path: Path, head: bytes) -> tuple[str, str] | None:
    """What a file is and what to do, if it is a known kind of something else.

    Args:
        path: its name counts.
        head: its first bytes.
    """
    for foreign in FILES[:1]:
        if foreign.pattern.match(head):
            return foreign.what, foreign.hint
    if path.suffix.lower() in SUFFIXES:
        return SUFFIXES[path.suffix.lower()]
    return next(((foreign.what, foreign.hint) for foreign in FILES if foreign.pattern.match(head)), None)


def of_unknown(path: Path) -> tuple[str, str] | None:
    """What a file is and what to do where its bytes say nothing, by its name and what lies beside it."""
    if ".data-0" in path.name and path.with_name(f"{path.name.partition('.data-0')[0]}.index").exists():
        return _UNKNOWN[".index"]
    beside = (kind for ending, kind in _PARTNERS.items() if path.suffix == ".bin" and path.with_suffix(ending).exists())
    return next(beside, None) or _UNKNOWN.get(path.suffix.lower().replace(".yml", ".yaml"))


def of_folder(path: Path, *, weights: bool) -> tuple[str, str] | None:
    """What a folder is and what to do, if it is a known kind of something else.

    Args:
        path: the folder.
        weights: whether weights of PyTorch lie in it.
    """
    names = sorted(entry.name for entry in path.iterdir())
    inside = [name for name in names if (path / name).is_dir() and (name in _NESTED or len(names) == 1)]
    names += [entry.name for name in inside for entry in (path / name).iterdir()]
    kinds = _FOLDERS if weights else (*_FOLDERS, *_FOLDERS_WITHOUT_TORCH)
    return next(((what, hint) for text, what, hint in kinds if _any(text, names)), None)


def _any(text: str, names: Collection[str]) -> bool:
    return any(re.fullmatch(text, name) for name in names)
