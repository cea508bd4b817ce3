"""Saved Hugging Face data sets, with a stand-in for the library and with the library itself."""

import io
import sys
from types import SimpleNamespace

import pytest
from PIL import Image as PillowImage

from condu_cli.cli.hints.making import hint_of
from condu_cli.data.pictures.picture_files import open_picture
from condu_cli.data.sources import hugging_face
from condu_cli.data.sources.hugging_face import is_hugging_face
from condu_cli.data.sources.own_data import read_source, read_source_split
from condu_cli.errors import DataError


class Image:
    """A stand-in for `datasets.Image`; readers go by the name of the class."""

    def __init__(self, decode=True):
        self.decode = decode


class ClassLabel:
    def __init__(self, names):
        self.names = names


class Dataset:
    def __init__(self, columns, features):
        self.columns, self.features = columns, features

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.columns[key]
        assert not self.features["image"].decode
        return {name: values[key] for name, values in self.columns.items()}

    def select_columns(self, names):
        kept = {name: self.columns[name] for name in names}
        return Dataset(kept, {name: self.features[name] for name in names})

    def cast_column(self, name, feature):
        return Dataset(self.columns, {**self.features, name: feature})


def encoded(red: int) -> dict[str, object]:
    content = io.BytesIO()
    PillowImage.new("RGB", (4, 4), (red, 0, 0)).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def dataset(labels, names=("dog", "big_cat", "none"), **more):
    columns = {"image": [encoded(i) for i in range(len(labels))], "label": labels}
    features = {"image": Image(), "label": ClassLabel(list(names)), **more}
    return Dataset(columns, features)


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """`saved(content)` is a folder that the stand-in loads as this content."""

    def save(content, broken=None):
        def load(_):
            if broken:
                raise broken
            return content

        module = SimpleNamespace(load_from_disk=load, Image=Image)
        monkeypatch.setitem(sys.modules, "datasets", module)
        names = ["dataset_dict.json"] if isinstance(content, dict) else []
        for name in names or ["dataset_info.json", "state.json"]:
            (tmp_path / name).write_text("{}")
        return tmp_path

    hugging_face._load.cache_clear()
    hugging_face._undecoded.cache_clear()
    yield save
    hugging_face._load.cache_clear()
    hugging_face._undecoded.cache_clear()


def test_a_plain_folder_is_not_one(tmp_path):
    assert not is_hugging_face(tmp_path)
    (tmp_path / "dataset_info.json").touch()
    assert not is_hugging_face(tmp_path)


def test_columns_are_found_by_their_features_and_labels_named(saved):
    data = read_source(saved(dataset([0, 1] * 5)))
    assert (data.folders, data.class_names) == (("big_cat", "dog"), ("big cat", "dog"))
    assert data.empty_classes == ("none",)
    assert (len(data.train), len(data.test)) == (8, 2)


def test_pictures_are_decoded_when_they_are_opened(saved):
    data = read_source(saved(dataset([0, 1] * 5)))
    for sample in data.train:
        red = open_picture(sample.picture).getpixel((0, 0))[0]
        assert sample.picture.name.endswith(f"[{red}]")
        assert sample.label == 1 - red % 2  # alphabetically: big_cat, dog


def test_a_renamed_folder_is_split_as_before(saved):
    root = saved(dataset([0, 1] * 20))
    before = read_source(root)
    after = read_source(root.rename(root.with_name("renamed")))
    assert [s.picture.name for s in after.test] == [s.picture.name for s in before.test]


def test_splits_are_used_as_saved(saved):
    data = read_source(saved({"train": dataset([0, 1, 1]), "validation": dataset([1])}))
    assert (data.split, len(data.train), len(data.test)) == ("as saved", 3, 1)
    assert data.test[0].picture.name == "validation[0]"


def test_a_test_split_without_labels_is_not_a_test_split(saved):
    splits = {"train": dataset([0, 1] * 5), "test": dataset([-1, None])}
    data = read_source(saved(splits))
    assert data.split == "random 80/20, seed 42"


def test_rows_without_labels_are_counted(saved):
    data = read_source(saved(dataset([0, 1, -1, None, 1, 0])))
    assert data.ignored == 2
    assert "[2]: no label" in data.ignored_names[0]


def test_a_split_is_read_to_measure_on(saved):
    root = saved({"train": dataset([0, 1, 1]), "test": dataset([1, 1])})
    folders, names, samples, _ = read_source_split(root, "test")
    assert (folders, names, len(samples)) == (("big_cat",), ("big cat",), 2)
    assert len(read_source_split(root, "other")[2]) == 5


def test_a_row_without_a_picture_is_unreadable(saved):
    content = dataset([0, 1] * 2)
    content.columns["image"][0] = None
    data = read_source(saved(content))
    broken = next(s for s in (*data.train, *data.test) if s.picture.index == 0)
    with pytest.raises(DataError, match="the row holds no picture"):
        open_picture(broken.picture)


def test_columns_of_other_kinds_are_refused(saved):
    content = dataset([0, 1])
    del content.features["label"]
    with pytest.raises(DataError, match="no column of kind ClassLabel") as caught:
        read_source(saved(content))
    assert "class_encode_column" in hint_of(caught.value)


def test_two_label_columns_without_a_usual_name_are_refused(saved):
    content = dataset([0, 1])
    content.features["fine"] = content.features["coarse"] = content.features.pop("label")
    with pytest.raises(DataError, match="several columns are possible: fine, coarse"):
        read_source(saved(content))


def test_a_folder_that_the_library_cannot_read_is_an_error(saved):
    with pytest.raises(DataError, match=r"cannot be read \(bad arrow\)"):
        read_source(saved(dataset([0]), broken=ValueError("bad arrow")))


def test_without_the_library_the_hint_installs_it(saved, monkeypatch):
    root = saved(dataset([0, 1]))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="`datasets` is not installed") as caught:
        read_source(root)
    assert hint_of(caught.value) == "pip install datasets"


def test_the_library_itself_is_understood(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])}
    )
    pictures = [PillowImage.new("RGB", (4, 4), (i, 0, 0)) for i in range(10)]
    rows = {"image": pictures, "label": [i % 2 for i in range(10)]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    data = read_source(tmp_path / "saved")
    assert (data.folders, len(data.train)) == (("cat", "dog"), 8)
    for sample in data.train:
        assert open_picture(sample.picture).getpixel((0, 0))[0] == sample.picture.index
