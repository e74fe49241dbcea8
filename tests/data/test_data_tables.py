import pytest
from PIL import Image

from modeldoctor.data.classes import match_classes
from modeldoctor.data.tables import open_mini_imagenet, open_table
from modeldoctor.errors import DataError, ModelDoctorWarning


def images(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)


def refused(folder, text, found):
    """What reading a table of one or the other image ends with."""
    images(folder, "1.jpg", "a/1.jpg")
    (folder / "list.csv").write_text(text)
    with pytest.raises(DataError, match=found) as caught:
        open_table(folder / "list.csv")
    return caught.value


def test_rows_keep_their_order(tmp_path):
    images(tmp_path, "2.jpg", "1.jpg", "sub/3.jpg")
    file = tmp_path / "list.csv"
    file.write_text("path,label,group\n2.jpg,dog,x\n1.jpg,cat,y\n./sub/3.jpg,dog,x\n", encoding="utf-8-sig")
    content = open_table(file)["all"]
    assert list(content.paths) == ["2.jpg", "1.jpg", "sub/3.jpg"]
    assert content.class_names == ("cat", "dog")
    assert content.labels.tolist() == [1, 0, 1]
    assert content.pictures.read(2, "RGB").size == (4, 4)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_semicolons_and_tabs_separate_columns_where_the_header_has_no_comma(tmp_path, separator):
    images(tmp_path, "a, b.jpg", "1.jpg")
    file = tmp_path / "list.csv"
    rows = [("path", "label"), ("a, b.jpg", "dog"), ('"1.jpg"', "cat, wild")]
    file.write_text("".join(f"{separator.join(row)}\r\n" for row in rows))
    content = open_table(file)["all"]
    assert list(content.paths) == ["a, b.jpg", "1.jpg"]
    assert content.class_names == ("cat, wild", "dog")


def test_class_is_preferred_to_label_and_splits_are_spelled_alike(tmp_path):
    images(tmp_path, "1.jpg", "2.jpg", "3.jpg", "4.jpg")
    file = tmp_path / "list.csv"
    rows = ["2.jpg,0,cat,Validation", "4.jpg,1,dog,Validation", "1.jpg,0,cat,train", "3.jpg,1,dog,train"]
    file.write_text("\n".join(["Path,label,class,split", *rows]))
    contents = open_table(file)
    assert list(contents) == ["train", "val"]
    assert contents["val"].class_names == ("cat", "dog")
    assert list(contents["train"].paths) == ["1.jpg", "3.jpg"]


def test_numbers_are_sorted_by_value(tmp_path):
    images(tmp_path, "10.jpg", "2.jpg", "0.jpg")
    file = tmp_path / "list.csv"
    file.write_text("path,label\n" + "".join(f"{number}.jpg,{number}\n" for number in (10, 2, 0)))
    content = open_table(file)["all"]
    assert content.class_names == ("0", "2", "10")
    assert content.labels.tolist() == [2, 1, 0]


def test_root_and_absolute_paths(tmp_path):
    images(tmp_path / "images", "1.jpg", "2.jpg")
    file = tmp_path / "list.csv"
    file.write_text(f"path,label\n1.jpg,a\n{tmp_path / 'images/2.jpg'},a\n")
    content = open_table(file, tmp_path / "images")["all"]
    assert [content.pictures.read(index, "L").size for index in (0, 1)] == [(4, 4), (4, 4)]


@pytest.mark.parametrize(
    ("text", "found", "where"),
    [
        ("file,label\n1.jpg,a\n", "the columns are file, label", "line 1"),
        ("1.jpg,a\n", "the columns are 1.jpg, a", "line 1"),
        ("", "the columns are missing", "line 1"),
        ("path,label\n1.jpg,a\n1.jpg,\n", "an empty label", "line 3"),
        ("path,label,split\n1.jpg,a,\n", "an empty split", "line 2"),
        ("path,label\nx.jpg,a\ny.jpg,a\n", "none of 2 listed images is there, for example .*x.jpg", "list.csv"),
        ("path,label\n", "no rows", "list.csv"),
    ],
)
def test_wrong_tables_say_what_was_found(tmp_path, text, found, where):
    assert where in refused(tmp_path, text, found).where


def test_unreadable_tables(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"path,label\n\xff\xfe,a\n")
    for file in ("list.csv", "gone.csv"):
        with pytest.raises(DataError, match="cannot be read"):
            open_table(tmp_path / file)


@pytest.mark.filterwarnings("ignore::modeldoctor.errors.ModelDoctorWarning")
def test_mini_imagenets_split_files(tmp_path):
    """The usual split files list other classes in each split; labels count through all of them."""
    images(tmp_path, "images/n01.jpg", "images/n02.jpg", "images/n03.jpg")
    for split, number in (("train", 2), ("val", 1), ("test", 3)):
        (tmp_path / f"{split}.csv").write_text(f"filename,label\nn0{number}.jpg,n0{number}\n")
    contents = open_mini_imagenet(tmp_path)
    assert list(contents) == ["train", "val", "test"]
    assert contents["train"].class_names == ("n01", "n02", "n03")
    assert contents["train"].labels.tolist() == [1]
    assert list(contents["test"].paths) == ["images/n03.jpg"]
    assert open_mini_imagenet(tmp_path / "images") is None


def table(folder, *rows):
    file = folder / "list.csv"
    file.write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    return file


def test_whole_numbers_written_as_fractions(tmp_path):
    images(tmp_path, "1.jpg", *(f"{at}.jpg" for at in range(13)))
    content = open_table(table(tmp_path, *(f"{at}.jpg,{number}.0" for at, number in enumerate((*range(12), 3)))))["all"]
    assert content.class_names == tuple(map(str, range(12)))
    assert content.labels.tolist() == [*range(12), 3]
    assert open_table(table(tmp_path, "1.jpg,0.5", "2.jpg,1.0"))["all"].class_names == ("0.5", "1.0")


def test_paths_as_people_have_them(tmp_path):
    """Each means the same file, below another root; what lies elsewhere keeps its whole path."""
    root = tmp_path / "images"
    images(root, "train/e\u0301t/a.v2.JPG")
    images(tmp_path, "other/1.jpg")
    rows = ["train\\\u00e9t\\a.v2.JPG", "train/\u00e9t/a.v2.JPG", "train/e\u0301t/a.v2", "train\\e\u0301t\\a.v2",
            f"{root}/train/e\u0301t/a.v2.JPG", f"{root}/train/\u00e9t/a.v2", "/train/e\u0301t/a.v2.JPG",
            "./train/e\u0301t/a.v2.JPG"]  # fmt: skip
    elsewhere = f"{tmp_path}/other/1.jpg"
    for row in rows:
        content = open_table(table(tmp_path, *(f"{path},x" for path in (row, elsewhere, "train/gone.jpg"))), root)[
            "all"
        ]
        assert list(content.paths) == ["train/e\u0301t/a.v2.JPG", elsewhere, "train/gone.jpg"]
        assert content.pictures.read(0, "RGB").size == (4, 4)
    with pytest.warns(ModelDoctorWarning, match=f"{len(rows) - 1} rows name an image that its split has already"):
        assert len(open_table(table(tmp_path, *(f"{row},x" for row in rows)), root)["all"].paths) == 1


def test_an_image_is_counted_once_and_has_one_label(tmp_path):
    images(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    with pytest.warns(ModelDoctorWarning, match=r"list.csv: 2 rows name an image .* 1.jpg; each is counted once"):
        content = open_table(table(tmp_path, "2.jpg,b", "1.jpg,a", "./1.jpg,a", "1.jpg,a", "3.jpg,a"))["all"]
    assert list(content.paths) == ["2.jpg", "1.jpg", "3.jpg"]
    assert content.labels.tolist() == [1, 0, 0]
    with pytest.raises(DataError, match=r"the image 1.jpg has two labels, a and b"):
        open_table(table(tmp_path, "1.jpg,a", "2.jpg,b", "1.jpg,b"))


@pytest.mark.parametrize(
    "begin", ["C:\\Users\\me\\data\\", "c:/data/", "\\\\server\\share\\", "/home/else/data/", "file:///C:/data/", "C:"]
)
def test_absolute_paths_of_another_machine_are_found_by_their_ends(tmp_path, begin):
    """The longest end that is there counts, and none is taken for another class's image of the same name."""
    images(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "1.jpg")
    separator = "\\" if "\\" in begin else "/"
    names = ["train/cat/1.jpg", "train/dog/1.jpg", "1"]
    rows = [f"{begin}{name.replace('/', separator)},{label}" for name, label in zip(names, "cdx", strict=True)]
    content = open_table(table(tmp_path, *rows))["all"]
    assert list(content.paths) == ["train/cat/1.jpg", "train/dog/1.jpg", "1.jpg"]


def test_class_names_in_both_forms_are_one(tmp_path):
    images(tmp_path, "1.jpg", "2.jpg")
    content = open_table(table(tmp_path, "1.jpg,\u00e9pinard", "2.jpg,e\u0301pinard"))["all"]
    assert content.class_names == ("\u00e9pinard",)
    match = match_classes(("ble\u0301", "e\u0301pinard"), ("\u00e9pinard", "bl\u00e9"), 2)
    assert match.mapping.tolist() == [1, 0]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-8"])
def test_a_table_in_the_unicodes_that_spreadsheets_write(tmp_path, encoding):
    images(tmp_path, "é.jpg", "2.jpg")
    file = tmp_path / "list.csv"
    file.write_text("path\tlabel\r\né.jpg\tépinard\r\n2.jpg\tnan-bread\r\n", encoding=encoding)
    content = open_table(file)["all"]
    assert list(content.paths) == ["é.jpg", "2.jpg"]
    assert content.class_names == ("nan-bread", "épinard")


@pytest.mark.parametrize("missing", ["nan", "NaN", "<NA>", ""])
def test_a_missing_label_is_no_class(tmp_path, missing):
    images(tmp_path, "1.jpg", "2.jpg")
    file = tmp_path / "list.csv"
    file.write_text(f"path,label\n1.jpg,0\n2.jpg,{missing}\n")
    with pytest.raises(DataError, match="an empty label") as refused:
        open_table(file)
    assert "line 3" in refused.value.where


ROWS = "a/1.jpg,cat\na/2.jpg,dog\n"


@pytest.mark.parametrize(
    "text",
    [
        "\n\npath,label\n" + ROWS,
        "path,label\n,\n" + ROWS + " , \n",
        "path,label\n" + ROWS.replace("\n", ",\n"),
        "sep=;\npath;label\n" + ROWS.replace(",", ";"),
        '"sep=,"\r\npath,label\r\n' + ROWS,
        "path,x,x,label\n" + ROWS.replace(",", ",1,2,"),
        "path,label\n" + ROWS.replace("a/", "a/../a/"),
    ],
    ids=["blank lines first", "rows without a value", "trailing commas", "sep", "quoted sep", "unused twice", "turns"],
)
def test_what_programs_leave_in_tables_is_no_row(tmp_path, text):
    images(tmp_path, "a/1.jpg", "a/2.jpg")
    (tmp_path / "list.csv").write_text(text, newline="")
    content = open_table(tmp_path / "list.csv")["all"]
    assert list(content.paths) == ["a/1.jpg", "a/2.jpg"]
    assert content.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("text", "found", "hint"),
    [
        (
            "path,label\na/1.jpg,cat, brown\n",
            "line 2 has values beyond the header's columns, such as 'brown'",
            "quotes",
        ),
        ("path,label\n\na, b/1.jpg,cat\n", "line 3 has values beyond", "quotes"),
        ("path,label,Label\na/1.jpg,cat,dog\n", "two columns called label", "delete one"),
        ("path,label\n", "no rows", "add them"),
    ],
)
def test_tables_that_say_two_things_are_refused(tmp_path, text, found, hint):
    assert hint in refused(tmp_path, text, found).hint


def test_two_spellings_of_a_path_are_one_image(tmp_path):
    images(tmp_path, "a/1.jpg", "a/2.jpg")
    (tmp_path / "list.csv").write_text(f"path,label\n{ROWS}../{tmp_path.name}/a/1.jpg,dog\n")
    with pytest.raises(DataError, match="two labels"):
        open_table(tmp_path / "list.csv")


def test_addresses_of_files_and_decimal_commas(tmp_path):
    images(tmp_path, "a/1.jpg", "a/2.jpg")
    (tmp_path / "list.csv").write_text(f"path;label\nfile://{tmp_path}/a/1.jpg;0,0\nfile:///C:/x/a/2.jpg;1,0\n")
    content = open_table(tmp_path / "list.csv")["all"]
    assert list(content.paths) == ["a/1.jpg", "a/2.jpg"]
    assert content.class_names == ("0", "1")


@pytest.mark.parametrize("names", [("cat", "cat\u200b"), ("\ufb01sh", "fish"), ("01", "1"), ("t-shirt", "T_shirt")])
def test_names_that_look_alike_are_said(tmp_path, names):
    images(tmp_path, "a/1.jpg", "a/2.jpg")
    (tmp_path / "list.csv").write_text(f"path,label\na/1.jpg,{names[0]}\na/2.jpg,{names[1]}\n", encoding="utf-8")
    with pytest.warns(ModelDoctorWarning, match="look alike"):
        assert len(open_table(tmp_path / "list.csv")["all"].class_names) == 2
