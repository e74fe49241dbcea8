"""Which images are examined, and what is said of them before."""

import warnings

import pytest

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.diagnosis.setup import splits_to_use, warn_of_familiar
from modeldoctor.errors import ModelDoctorWarning


class Split:
    def __init__(self, split: str):
        self.split = split


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        (["train", "test"], {}, "pass --examine test"),
        (["train", "test", "eval"], {}, "pass --examine eval"),
        (["0", "1", "2"], {}, "of 0, 1, 2, the images of 0 are examined; pass --examine 1"),
        (["0", "1", "2"], {"split": "2"}, None),
        (["train"], {}, "put images that it was not trained on into a folder val"),
        (["train", "val", "test"], {}, None),
        (["train", "test"], {"examine": "train"}, None),
        (["train", "test"], {"examine": "test"}, None),
        (["all"], {}, None),
    ],
)
def test_examining_what_was_trained_on_is_warned_of(names, options, said):
    splits, config = {name: Split(name) for name in names}, DiagnoseConfig(**options)
    _, examined = splits_to_use(splits, config)
    if said:
        with pytest.warns(ModelDoctorWarning, match=said):
            warn_of_familiar(splits, examined, config)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_of_familiar(splits, examined, config)
