"""Images, labels, masks: from what the user calls their data to batches for a network."""

from modeldoctor.data.augmentation import Augmentation
from modeldoctor.data.classes import ClassMatch, accuracy_warning, match_classes, order_warning
from modeldoctor.data.imageset import Broken, ImageSet, Sample
from modeldoctor.data.loader import Batch, make_loader
from modeldoctor.data.masks import Masks, MaskTree
from modeldoctor.data.sampling import choose_confident, choose_to_annotate
from modeldoctor.data.sources import open_data
from modeldoctor.data.streams import StreamSet
from modeldoctor.data.transforms import make_transform

__all__ = [
    "Augmentation",
    "Batch",
    "Broken",
    "ClassMatch",
    "ImageSet",
    "MaskTree",
    "Masks",
    "Sample",
    "StreamSet",
    "accuracy_warning",
    "choose_confident",
    "choose_to_annotate",
    "make_loader",
    "make_transform",
    "match_classes",
    "open_data",
    "order_warning",
]
