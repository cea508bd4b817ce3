"""Small versions of the public data sets in their own formats: a few pictures of a few classes.

`WRITERS[task](root)` writes one like its unpacked archives. CIFAR-100 and Flowers 102 are checked
against md5 sums of the real files by torchvision; `trust_files` gives it those of the made ones.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import pickle
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from condu_cli.data import seeded_splits
from condu_cli.data.sources.known_tasks import known_tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    import pytest

EUROSAT = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture",
    "PermanentCrop", "Residential", "River", "SeaLake",
)  # fmt: skip
CALTECH = ("Faces", "Faces_easy", "Leopards", "Motorbikes", "accordion", "airplanes", "anchor")


def _jpeg() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(stream, "JPEG")
    return stream.getvalue()


JPEG = _jpeg()


def pictures(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(JPEG)


def lines(file: Path, *text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in text), encoding="utf-8")


def aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    lines(data / "variants.txt", "DHC-8-100", "707-320", "F/A-18")
    lines(data / "images_variant_train.txt", "0001 707-320", "0002 F/A-18", "0003 DHC-8-100")
    lines(data / "images_variant_test.txt", "0005 F/A-18")
    pictures(data / "images", (f"{number:04d}.jpg" for number in range(1, 6)))


def caltech101(root: Path, per_class: int = 2) -> None:
    base = root / "caltech101" / "101_ObjectCategories"
    names = [*CALTECH, *(f"thing_{number:03d}" for number in range(101 - len(CALTECH)))]
    for name in (*names, "BACKGROUND_Google"):
        pictures(base / name, (f"image_{number:04d}.jpg" for number in range(1, per_class + 1)))


def cifar100(root: Path) -> None:
    base = root / "cifar-100-python"
    base.mkdir(parents=True)
    images = np.arange(3 * 3072, dtype=np.int64).reshape(3, 3072) % 251
    names = ["apple", "aquarium_fish", "baby"]
    files = {
        "train": {"data": images.astype(np.uint8), "fine_labels": [1, 0, 2]},
        "test": {"data": images[:1].astype(np.uint8), "fine_labels": [2]},
        "meta": {"fine_label_names": names},
    }
    for name, content in files.items():
        (base / name).write_bytes(pickle.dumps(content))


def dtd(root: Path) -> None:
    base = root / "dtd" / "dtd"
    train, test = ("zigzagged/z_1.jpg", "banded/b_1.jpg"), ("banded/b_2.jpg", "zigzagged/z_3.jpg")
    lines(base / "labels" / "train1.txt", *train)
    lines(base / "labels" / "val1.txt", "banded/b_4.jpg")
    lines(base / "labels" / "test1.txt", *test)
    pictures(base / "images", (*train, *test, "banded/b_4.jpg"))


def eurosat(root: Path) -> None:
    for name in EUROSAT:
        pictures(root / "eurosat" / "2750" / name, (f"{name}_{i}.jpg" for i in (1, 2)))


def flowers(root: Path) -> None:
    from scipy.io import savemat

    base = root / "flowers-102"
    pictures(base / "jpg", (f"image_{number:05d}.jpg" for number in range(1, 7)))
    savemat(base / "imagelabels.mat", {"labels": np.array([[77, 77, 1, 102, 2, 2]], np.uint8)})
    splits = {"trnid": [[1, 3]], "valid": [[2, 4]], "tstid": [[5, 6]]}
    savemat(base / "setid.mat", {name: np.array(ids, np.uint16) for name, ids in splits.items()})


def food101(root: Path) -> None:
    base = root / "food-101"
    splits = {
        "train": {"waffles": ["waffles/11"], "apple_pie": ["apple_pie/12", "apple_pie/13"]},
        "test": {"apple_pie": ["apple_pie/14"], "waffles": ["waffles/15"]},
    }
    (base / "meta").mkdir(parents=True)
    for split, content in splits.items():
        (base / "meta" / f"{split}.json").write_text(json.dumps(content))
        for names in content.values():
            pictures(base / "images", (f"{name}.jpg" for name in names))


def mnist(root: Path) -> None:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, labels in (("train", [5, 0, 4]), ("t10k", [7])):
        images = np.full((len(labels), 28, 28), 200, np.uint8)
        header = struct.pack(">IIII", 0x00000803, *images.shape)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">II", 0x00000801, len(labels))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(header + bytes(labels))


def oxford_pets(root: Path) -> None:
    base = root / "oxford-iiit-pet"
    train = ("Abyssinian_1 1 1 1", "american_bulldog_2 2 2 1")
    test = ("Abyssinian_3 1 1 1", "american_bulldog_4 2 2 1")
    lines(base / "annotations" / "trainval.txt", *train)
    lines(base / "annotations" / "test.txt", *test)
    pictures(base / "images", (f"{line.split()[0]}.jpg" for line in (*train, *test)))


def stanford_cars(root: Path) -> None:
    from scipy.io import savemat

    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012"], dtype=object)
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": names})
    kind = [("class", "O"), ("fname", "O")]
    splits = {
        "train": (base / "devkit" / "cars_train_annos.mat", [(2, "00001.jpg"), (1, "00002.jpg")]),
        "test": (base / "cars_test_annos_withlabels.mat", [(1, "00001.jpg"), (1, "00002.jpg")]),
    }
    for split, (file, rows) in splits.items():
        savemat(file, {"annotations": np.array(rows, dtype=kind)})
        pictures(base / f"cars_{split}", (name for _, name in rows))


def sun397(root: Path) -> None:
    base = root / "SUN397"
    lines(base / "ClassName.txt", "/a/abbey", "/a/apartment_building/outdoor")
    pictures(base, (f"a/abbey/sun_{name}.jpg" for name in "dbca"))
    pictures(base, ("a/apartment_building/outdoor/sun_e.jpg",))


def tiny_imagenet(root: Path) -> None:
    base = root / "tiny-imagenet-200"
    lines(base / "wnids.txt", "n02124075", "n01443537", "n03126707")
    lines(
        base / "words.txt",
        "n01443537\tgoldfish, Carassius auratus",
        "n02124075\tEgyptian cat",
        "n02012849\tcrane",
        "n03126707\tcrane",
    )
    for wnid in ("n02124075", "n01443537", "n03126707"):
        pictures(base / "train" / wnid / "images", (f"{wnid}_{i}.JPEG" for i in (0, 1)))
        lines(base / "train" / wnid / f"{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t10\t63\t58")
    pictures(base / "val" / "images", ("val_0.JPEG", "val_1.JPEG"))
    lines(
        base / "val" / "val_annotations.txt",
        "val_0.JPEG\tn03126707\t0\t32\t44\t62",
        "val_1.JPEG\tn01443537\t52\t55\t57\t59",
    )
    pictures(base / "test" / "images", ("test_0.JPEG",))


WRITERS: dict[str, Callable[[Path], None]] = {
    "aircraft": aircraft,
    "caltech101": caltech101,
    "cifar100": cifar100,
    "dtd": dtd,
    "eurosat": eurosat,
    "flowers": flowers,
    "food101": food101,
    "mnist": mnist,
    "oxford_pets": oxford_pets,
    "stanford_cars": stanford_cars,
    "sun397": sun397,
    "tiny_imagenet": tiny_imagenet,
}


def trust_files(task: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make torchvision accept the generated files."""
    from torchvision.datasets import CIFAR100, Flowers102

    base = root / known_tasks()[task].public.folder
    if task == "cifar100":
        monkeypatch.setattr(CIFAR100, "train_list", [["train", _md5(base / "train")]])
        monkeypatch.setattr(CIFAR100, "test_list", [["test", _md5(base / "test")]])
        meta = {**CIFAR100.meta, "md5": _md5(base / "meta")}
        monkeypatch.setattr(CIFAR100, "meta", meta)
    elif task == "flowers":
        known = {
            kind: (name, _md5(base / name) if name.endswith(".mat") else md5)
            for kind, (name, md5) in Flowers102._file_dict.items()
        }
        monkeypatch.setattr(Flowers102, "_file_dict", known)


def split_record(is_train: Sequence[bool]) -> dict[str, Any]:
    """The content of an index file, as far as it is read."""
    bits = np.packbits(np.array(is_train, dtype=np.bool_), bitorder="little").tobytes()
    sha256, encoded = hashlib.sha256(bits).hexdigest(), base64.b64encode(bits).decode("ascii")
    return {"count": len(is_train), "sha256": sha256, "bits": encoded}


def index_of(
    task: str, is_train: Iterable[bool], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Give a seeded task an index file for the generated pictures."""
    file = folder / f"{task}-index.json"
    file.write_text(json.dumps(split_record(list(is_train))))
    monkeypatch.setattr(seeded_splits, "split_file", lambda _: file)


def _md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
