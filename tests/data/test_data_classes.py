import itertools
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from timm.data import ImageNetInfo
from torchvision.datasets.folder import find_classes
from torchvision.models._meta import _IMAGENET_CATEGORIES

from modeldoctor.data.classes import accuracy_warning, match_classes
from modeldoctor.errors import DataError


def test_same_names_same_order():
    match = match_classes(("a", "b"), ("a", "b"), 2)
    assert match.mapping.tolist() == [0, 1]
    assert match.names == ("a", "b")
    assert match.notes == match.warnings == ()


def test_another_order_is_matched_by_name():
    match = match_classes(("a", "b", "c"), ("c", "a", "b"), 3)
    assert match.mapping.tolist() == [1, 2, 0]
    assert match.names == ("c", "a", "b")
    assert "another order" in match.notes[0]


def test_a_subset_is_matched_by_name():
    match = match_classes(("b", "d"), ("a", "b", "c", "d"), 4)
    assert match.mapping.tolist() == [1, 3]
    assert match.notes == ("2 of 4 classes have no folder: a, c",)


def test_spelling_is_ignored_as_a_second_try_only():
    match = match_classes(("Great_White-shark", "tench"), ("tench", "great white shark"), 2)
    assert match.mapping.tolist() == [1, 0]
    assert any("without regard to case" in note for note in match.notes)
    exact = match_classes(("A", "a"), ("a", "A"), 2)
    assert exact.mapping.tolist() == [1, 0]
    with pytest.raises(DataError):
        match_classes(("A",), ("a", "a_"), 2)


def test_a_misspelt_folder_is_named_with_its_neighbour():
    with pytest.raises(DataError, match="1 of 2 class folders are no classes of the checkpoint: dogg") as caught:
        match_classes(("cat", "dogg"), ("cat", "dog", "cow"), 3)
    assert "dogg → dog" in caught.value.hint


def test_no_name_matches():
    match = match_classes(("x", "y"), ("0 - zero", "1 - one"), 2)
    assert match.mapping.tolist() == [0, 1]
    assert match.names == ("0 - zero", "1 - one")
    assert "text order" in match.warnings[0]
    with pytest.raises(DataError, match="none of the 2 class folders"):
        match_classes(("x", "y"), ("a", "b", "c"), 3)


def test_more_folders_than_outputs():
    with pytest.raises(DataError, match="3 class folders, but the network has 2 outputs"):
        match_classes(("a", "b", "c"), None, 2)


def test_fewer_folders_and_no_names():
    match = match_classes(("a", "b"), None, 4)
    assert match.mapping.tolist() == [0, 1]
    assert match.names == ("a", "b", "class 2", "class 3")
    assert "2 folders, the network has 4 classes" in match.warnings[0]
    assert match_classes(("a", "b"), None, 2).warnings == ()


def test_numbers_are_mapped_by_number():
    text_order = sorted(map(str, range(11)))
    match = match_classes(text_order, None, 11)
    assert match.mapping.tolist() == [int(name) for name in text_order]
    assert match.names == tuple(map(str, range(11)))
    assert "by number" in match.notes[0]
    assert match.warnings == ()
    assert match_classes(("0", "1"), None, 2).notes == ()
    assert match_classes(("003", "007"), None, 10).mapping.tolist() == [3, 7]
    named = match_classes(("1", "0"), ("cat", "dog"), 2)
    assert named.mapping.tolist() == [1, 0]
    assert named.names == ("cat", "dog")


def test_numbers_from_one():
    text_order = sorted(map(str, range(1, 11)))
    match = match_classes(text_order, None, 10)
    assert match.mapping.tolist() == [int(name) - 1 for name in text_order]
    assert "number 1 is the first output" in match.notes[0]


def test_numbers_in_text_order_that_say_nothing():
    match = match_classes(("class1", "class10", "class2"), None, 3)
    assert match.mapping.tolist() == [0, 1, 2]
    assert "text order puts class10 before class2" in match.warnings[0]
    assert not match_classes(("-1", "0", "1"), None, 3).warnings  # both orders are the same
    assert "text order" in match_classes(("100", "20"), None, 2).warnings[0]


def test_an_order_of_the_data_s_own_is_no_text_order():
    """Fashion-MNIST's classes have their own order, in which text order and number order play no part."""
    assert match_classes(("Trouser", "Pullover", "Dress"), None, 3).warnings == ()


@pytest.mark.parametrize("pattern", ["{}", "class{}", "{}_bird", "img-{}-b"])
def test_text_order_is_that_of_torchvision_s_folders(tmp_path: Path, pattern: str) -> None:
    names = [pattern.format(number) for number in range(12)]
    for name in names:
        (tmp_path / name).mkdir()
    order, index = find_classes(str(tmp_path))
    match = match_classes(names, tuple(names), 12, "text")  # also where the file has names: the user goes first
    assert match.names == tuple(order)
    assert match.mapping.tolist() == [index[name] for name in names]
    numbered = match_classes(order, None, 12, "number")
    assert numbered.names == tuple(names)
    assert numbered.mapping.tolist() == [names.index(name) for name in order]
    assert "in number order, as stated" in numbered.notes[0]
    assert numbered.warnings == ()


def test_an_order_of_some_of_the_classes_says_nothing() -> None:
    with pytest.raises(DataError, match="2 class folders, but the network has 3") as caught:
        match_classes(("1", "10"), None, 3, "text")
    assert "--class-order FILE" in caught.value.hint


def test_wordnet_folders_of_an_imagenet_network():
    imagenet = ImageNetInfo("imagenet-1k")
    folders = ("n02102040", "n03028079", "n01440764")
    for names in (None, tuple(f"name {index}" for index in range(1000))):
        match = match_classes(folders, names, 1000)
        assert [imagenet.index_to_label_name(output) for output in match.mapping] == list(folders)
        assert match.warnings == ()


def test_names_that_do_not_fit_the_head_are_not_used():
    match = match_classes(("b", "a"), ("a", "b", "c"), 2)
    assert match.mapping.tolist() == [0, 1]
    assert "names 3 different classes" in match.warnings[0]


def test_data_without_class_names():
    match = match_classes((), None, 3)
    assert match.mapping.tolist() == [0, 1, 2]
    assert match_classes((), ("a", "b", "c"), 3).names == ("a", "b", "c")


def confusion(accuracy, classes, total, seed=0):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, total)
    predicted = np.where(rng.random(total) < accuracy, true, rng.integers(0, classes, total))
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (true, predicted), 1)
    return counts


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
@pytest.mark.parametrize("accuracy", [0.4, 0.7, 1.0])
def test_sound_networks_raise_no_warning(classes, accuracy):
    assert accuracy_warning(confusion(accuracy, classes, 2000)) is None


def test_a_permuted_network_is_told_by_the_best_permutation():
    counts = confusion(0.9, 5, 1000)
    order = [1, 2, 0, 3, 4]
    permuted = counts[:, np.argsort(order)]
    best = max(permuted[range(5), columns].sum() for columns in itertools.permutations(range(5))) / 1000
    text = accuracy_warning(permuted, ["ant", "bee", "cat", "dog", "elk"])
    assert f"but {best:.1%} if the classes were in another order" in text
    assert "images of ant are predicted as bee" in text
    assert "elk" not in text


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("total", [40, 300, 5000])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_untrained_network_is_not_mistaken_for_a_permuted_one(classes, total, seed):
    text = accuracy_warning(confusion(0.0, classes, total, seed))
    assert re.search(rf"(no|on {total:,} images not clearly) better than chance", text)
    assert "weights that were not loaded" in text


def test_classes_without_images_are_in_no_pair():
    counts = np.zeros((6, 6), dtype=np.int64)
    counts[0, 4] = counts[1, 3] = 50
    text = accuracy_warning(counts, ["ant", "bee", "cat", "dog", "elk", "fox"])
    assert "images of ant are predicted as elk, images of bee are predicted as dog. " in text


def test_few_images_may_not_tell_a_network_from_chance():
    text = accuracy_warning(np.array([[4, 1, 1], [1, 4, 1], [1, 1, 4]]))
    assert "accuracy is 66.7%, on 18 images not clearly better than chance (33.3%)" in text


def test_a_collapsed_network():
    counts = np.zeros((10, 10), dtype=np.int64)
    counts[:, 3] = 50
    text = accuracy_warning(counts, [f"c{number}" for number in range(10)])
    assert "accuracy is 10.0%, no better than chance (10.0%)" in text
    assert "100% of the predictions are c3." in text


def test_few_images_and_absent_classes():
    assert accuracy_warning(np.zeros((3, 3), dtype=np.int64)) is None
    assert accuracy_warning(np.diag([4, 4]).astype(np.int64)) is None
    alone = np.zeros((1000, 1000), dtype=np.int64)
    alone[7, 7] = 50
    assert accuracy_warning(alone) is None
    pair = np.zeros((1000, 1000), dtype=np.int64)
    pair[[3, 4], [3, 4]] = 50
    assert accuracy_warning(pair) is None


def test_a_class_name_with_a_slash_is_found_in_a_folder_without_it() -> None:
    match = match_classes(("Bag", "T-shirt-top"), ("T-shirt/top", "Bag"), 2)
    assert match.mapping.tolist() == [1, 0]


@pytest.mark.parametrize("first", [0, 1])
def test_a_network_trained_on_numbered_folders_in_text_order_is_recognised(first: int) -> None:
    """ImageFolder sorts 0, 1, 10, 11, 2: output k is the k-th of these, whereas the folders are taken by number."""
    names = [str(number) for number in range(first, first + 12)]
    trained = sorted(names)
    match = match_classes(trained, None, 12)
    true = np.random.default_rng(0).integers(0, 12, 2000)  # by place in text order, and so the network answers
    counts = np.zeros((12, 12), dtype=np.int64)
    np.add.at(counts, (match.mapping[true], true), 1)
    text = accuracy_warning(counts, match.names)
    assert "but about 100.0% with the classes in text order" in text
    assert "--class-order text" in text
    assert "class_to_idx" in text
    named = match_classes(trained, tuple(trained), 12)
    assert (named.mapping == np.arange(12)).all()


def test_a_network_trained_in_number_order_is_recognised() -> None:
    names = sorted(f"class {number}" for number in range(12))
    natural = sorted(names, key=lambda name: int(name.split()[1]))
    counts = np.zeros((12, 12), dtype=np.int64)
    for name in names:
        counts[names.index(name), natural.index(name)] = 50
    said = accuracy_warning(counts, names)
    assert "with the classes in number order (class 0, class 1, class 2" in said
    assert "--class-order number" in said


def test_the_check_of_the_order_holds_a_few_tables_at_a_time() -> None:
    classes = 500
    counts = np.zeros((classes, classes), dtype=np.int64)
    counts[np.arange(classes), (np.arange(classes) + 1) % classes] = 5
    tracemalloc.start()
    try:
        assert "if the classes were in another order" in accuracy_warning(counts, list(map(str, range(classes))))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * counts.nbytes


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (("0", "1", "2", "3"), ("03", "01", "02", "00")),
        (("cat", "dog", "emu", "fox"), ("fox", "dog\u200b", "emu\n", "cat\u00a0")),
        (("1", "2", "3", "4"), ("\uff14", "\uff12", "\uff13", "\uff11")),
    ],
)
def test_names_that_people_read_alike_are_matched_by_name(folders, names):
    match = match_classes(folders, names, 4)
    assert match.mapping.tolist() == [3, 1, 2, 0]
    assert any("without regard to" in note for note in match.notes)


def test_wordnet_ids_with_words_behind_them():
    """As in Stanford Dogs; the places are those of torchvision's list of ImageNet's classes."""
    names = ("n01440764-tench", "N01443537", "n02085620-Chihuahua")
    expected = [_IMAGENET_CATEGORIES.index(name) for name in ("tench", "goldfish", "Chihuahua")]
    assert match_classes(names, None, 1000).mapping.tolist() == expected


def test_a_wordnet_id_that_imagenet_does_not_have_is_named():
    with pytest.raises(DataError, match=r"1 of 2 class folders .* does not have: n99999999"):
        match_classes(("n01440764", "n99999999"), None, 1000)
