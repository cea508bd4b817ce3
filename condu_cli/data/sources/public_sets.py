"""Read public data sets in their own layouts on disk, through torchvision.

Classes and their order are torchvision's. No picture is decoded here: those in files stay paths,
those of CIFAR-100 and MNIST are taken from their arrays lazily.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from condu_cli.data.class_names import names_by_class, read_class_names
from condu_cli.data.labelled import LabelledPictures, Sample
from condu_cli.data.pictures.picture_files import StoredPicture
from condu_cli.data.pictures.walking import list_pictures
from condu_cli.data.sources.downloads import require_scipy
from condu_cli.data.sources.known_tasks import State, public_set, where
from condu_cli.errors import ConduError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from condu_cli.data.sources.known_tasks import KnownSet


@dataclass(frozen=True, eq=False)
class ArrayStore:
    """Pictures in one uint8 array, (N, H, W) grey or (N, H, W, 3) RGB; compared by identity."""

    array: NDArray[Any]

    def picture(self, index: int) -> Image.Image:
        """Return one picture as RGB."""
        return Image.fromarray(self.array[index]).convert("RGB")

    def content(self, index: int) -> bytes:
        """Return one picture's pixels."""
        return bytes(self.array[index].tobytes())


@dataclass(frozen=True)
class _Read:
    """What a reader found: the set's class identifiers, and both sides of its split."""

    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]


def read_known(
    task: str, root: Path, *, download: bool = False, class_names: Path | None = None
) -> LabelledPictures:
    """Read a public data set in a data root, in torchvision's layout.

    Raises:
        KeyError: no public data set of that name.
        DataError: it is missing or incomplete, cannot be downloaded or read, or class names do not
            match.

    """
    public = public_set(task)
    if public is None:
        raise KeyError(task)
    require_scipy(task)
    if where(task, root).state is not State.THERE:
        if not download:
            raise absent(task, root)
        from condu_cli.data.sources.downloads import download_set

        download_set(task, root)
    read = _read(task, root, public)
    if not read.train or not read.test:
        side = "training" if not read.train else "test"
        raise _incomplete(task, root, f"has no {side} pictures")
    return LabelledPictures(
        folders=read.classes,
        class_names=_class_names(task, root, public, read.classes, class_names),
        train=read.train,
        test=read.test,
        split=public.split,
    )


def absent(task: str, root: Path) -> DataError:
    """Build the error for a missing or incomplete data set, which says what to put where."""
    public = public_set(task)
    if public is None:
        raise KeyError(task)
    place = where(task, root)
    if place.state is State.INCOMPLETE:
        lacks = ", ".join(str(path.relative_to(place.path)) for path in place.missing[:3])
        more = f" and {len(place.missing) - 3} more" if len(place.missing) > 3 else ""
        return DataError(
            f"{place.path}: the data set of task '{task}' is incomplete: no {lacks}{more}",
            reason="public-set-incomplete",
            task=task,
            downloadable=public.downloadable,
            needs=public.what_to_put(root),
        )
    return DataError(
        f"no pictures for task '{task}' (looked in {_looked_in(task, root, place.path)})",
        reason="public-set-absent",
        task=task,
        downloadable=public.downloadable,
        needs=public.what_to_put(root),
    )


def _looked_in(task: str, root: Path, folder: Path) -> str:
    plain = root / task
    return str(folder) if plain == folder else f"{plain} and {folder}"


def _incomplete(task: str, root: Path, what: str) -> DataError:
    public = public_set(task)
    needs = "" if public is None else public.what_to_put(root)
    return DataError(
        f"{where(task, root).path}: the data set of task '{task}' is incomplete: it {what}",
        reason="public-set-wrong",
        task=task,
        needs=needs,
    )


def _read(task: str, root: Path, public: KnownSet) -> _Read:
    try:
        with warnings.catch_warnings():
            # numpy warns about the files of CIFAR-100, which were written in 2009.
            warnings.simplefilter("ignore")
            return READERS[task](root)
    except ConduError:
        raise
    except Exception as exc:
        # torchvision raises anything on corrupt or missing files.
        reason = " ".join(str(exc).split()) or type(exc).__name__
        raise DataError(
            f"{where(task, root).path}: cannot be read as the data set of task '{task}' ({reason})",
            reason="public-set-unreadable",
            task=task,
            needs=public.what_to_put(root),
        ) from exc


def _class_names(
    task: str, root: Path, public: KnownSet, classes: tuple[str, ...], file: Path | None
) -> tuple[str, ...]:
    """Return names in words: those given, else those published with CLIP, else the set's own."""
    if file is not None:
        return _given_names(file, classes)
    if public.class_names is None:
        return tuple(name.replace("_", " ") for name in _own_words(task, root, classes))
    if len(public.class_names) != len(classes):
        what = f"has {len(classes)} classes, not {len(public.class_names)}"
        raise _incomplete(task, root, what)
    return public.class_names


def _given_names(file: Path, classes: tuple[str, ...]) -> tuple[str, ...]:
    names = read_class_names(file)
    if isinstance(names, dict):
        what = "the data set's own name of every class"
        names = list(names_by_class(file, names, classes, what))
    if len(names) != len(classes) or len(set(names)) != len(names):
        raise DataError(
            f"{file}: {len(set(names))} different class names for {len(classes)} classes",
            reason="class-names-not-distinct",
            path=file,
            classes=len(classes),
        )
    return tuple(names)


def _own_words(task: str, root: Path, classes: tuple[str, ...]) -> Sequence[str]:
    if task == "tiny_imagenet":
        return _tiny_imagenet_words(root / "tiny-imagenet-200" / "words.txt", classes)
    return classes


# Published splits


def _aircraft(root: Path) -> _Read:
    from torchvision.datasets import FGVCAircraft

    return _published(*(FGVCAircraft(root, split=s) for s in ("train", "test")))


def _cifar100(root: Path) -> _Read:
    # Its files are pickles. torchvision unpickles them only after checking the md5 of the published
    # ones. Nothing else in condu is ever unpickled: never read these files without that check.
    from torchvision.datasets import CIFAR100

    train, test = CIFAR100(root, train=True), CIFAR100(root, train=False)
    return _Read(
        tuple(train.classes),
        _stored("cifar100/train", train.data, train.targets),
        _stored("cifar100/test", test.data, test.targets),
    )


def _dtd(root: Path) -> _Read:
    from torchvision.datasets import DTD

    return _published(*(DTD(root, split=s, partition=1) for s in ("train", "test")))


def _flowers(root: Path) -> _Read:
    from torchvision.datasets import Flowers102

    train, test = (Flowers102(root, split=s) for s in ("train", "test"))
    # The set numbers its classes from 1 and does not name them.
    numbers = tuple(str(number) for number in range(1, 103))
    return _Read(numbers, _file_samples(train), _file_samples(test))


def _food101(root: Path) -> _Read:
    from torchvision.datasets import Food101

    return _published(*(Food101(root, split=s) for s in ("train", "test")))


def _mnist(root: Path) -> _Read:
    from torchvision.datasets import MNIST

    train, test = MNIST(root, train=True), MNIST(root, train=False)
    return _Read(
        tuple(train.classes),
        _stored("mnist/train", train.data.numpy(), train.targets.tolist()),
        _stored("mnist/test", test.data.numpy(), test.targets.tolist()),
    )


def _oxford_pets(root: Path) -> _Read:
    from torchvision.datasets import OxfordIIITPet

    return _published(*(OxfordIIITPet(root, split=s) for s in ("trainval", "test")))


def _stanford_cars(root: Path) -> _Read:
    from torchvision.datasets import StanfordCars

    return _published(*(StanfordCars(root, split=s) for s in ("train", "test")))


def _tiny_imagenet(root: Path) -> _Read:
    """Classes are sorted WordNet ids; `val` is the test split, since `test` has no labels."""
    base = root / "tiny-imagenet-200"
    classes = tuple(sorted((base / "wnids.txt").read_text("utf-8").split()))
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    train = [(p, wnid) for wnid in classes for p in list_pictures(base / "train" / wnid / "images")]
    empty = sorted(set(classes) - {wnid for _, wnid in train})
    if empty:
        what = f"has no training pictures of {len(empty)} classes: {', '.join(empty[:3])}"
        raise _incomplete("tiny_imagenet", root, what)
    lines = (base / "val" / "val_annotations.txt").read_text("utf-8").splitlines()
    test = [line.split("\t")[:2] for line in lines if line.strip()]
    return _Read(
        classes,
        tuple(Sample(path, label_of[wnid]) for path, wnid in train),
        tuple(Sample(base / "val" / "images" / name, label_of[wnid]) for name, wnid in test),
    )


def _tiny_imagenet_words(file: Path, classes: Sequence[str]) -> list[str]:
    """Return the first synonym of each WordNet id, or all if two classes share the first."""
    lines = (line.split("\t", 1) for line in file.read_text("utf-8").splitlines() if "\t" in line)
    words = {wnid: text.strip() for wnid, text in lines}
    missing = [wnid for wnid in classes if wnid not in words]
    if missing:
        raise DataError(
            f"{file}: no words for {', '.join(missing[:3])}", reason="public-set-damaged", path=file
        )
    first = [words[wnid].split(",")[0] for wnid in classes]
    return [
        word if first.count(word) == 1 else words[wnid]
        for wnid, word in zip(classes, first, strict=True)
    ]


def _published(train: Any, test: Any) -> _Read:
    """Read both sides of a published split, given as two torchvision data sets."""
    if list(train.classes) != list(test.classes):
        extra = sorted(set(train.classes) ^ set(test.classes))
        raise ValueError(f"training and test classes differ: {', '.join(extra[:3])}")
    return _Read(tuple(train.classes), _file_samples(train), _file_samples(test))


def _file_samples(dataset: Any) -> tuple[Sample, ...]:
    """Return the files and labels of a torchvision data set.

    They are private attributes: the public interface would decode the pictures.
    """
    if hasattr(dataset, "_samples"):  # StanfordCars
        pairs: Iterable[tuple[Any, Any]] = dataset._samples
    elif hasattr(dataset, "_images"):  # OxfordIIITPet
        pairs = zip(dataset._images, dataset._labels, strict=True)
    else:
        pairs = zip(dataset._image_files, dataset._labels, strict=True)
    return tuple(Sample(Path(path), int(label)) for path, label in pairs)


def _stored(name: str, array: NDArray[Any], labels: Sequence[int]) -> tuple[Sample, ...]:
    store = ArrayStore(array)
    return tuple(
        Sample(StoredPicture(f"{name}/{index:06d}", store, index), int(label))
        for index, label in enumerate(labels)
    )


# Seeded splits


def _caltech101(root: Path) -> _Read:
    from torchvision.datasets import Caltech101

    found = Caltech101(root)
    pictures = Path(found.root) / "101_ObjectCategories"
    # Named as in Caltech101.__getitem__.
    samples = [
        Sample(pictures / found.categories[label] / f"image_{number:04d}.jpg", label)
        for number, label in zip(found.index, found.y, strict=True)
    ]
    return _seeded("caltech101", root, tuple(found.categories), samples)


def _eurosat(root: Path) -> _Read:
    from torchvision.datasets import EuroSAT

    found = EuroSAT(root)
    samples = [Sample(Path(path), label) for path, label in found.samples]
    return _seeded("eurosat", root, tuple(found.classes), samples)


def _sun397(root: Path) -> _Read:
    from torchvision.datasets import SUN397

    found = SUN397(root)
    # torchvision keeps them in the file system's arbitrary order; sorting gives the same order on
    # every machine.
    base = root / "SUN397"
    samples = sorted(_file_samples(found), key=lambda sample: _below(base, sample.picture))
    return _seeded("sun397", root, tuple(found.classes), samples)


def _below(base: Path, picture: object) -> str:
    return Path(str(picture)).relative_to(base).as_posix()


def _seeded(task: str, root: Path, classes: tuple[str, ...], samples: Sequence[Sample]) -> _Read:
    from condu_cli.data.seeded_splits import read_split_file, split_file

    is_train = read_split_file(split_file(task))
    if len(samples) != len(is_train):
        # With any other number, the bits would belong to other pictures.
        what = f"has {len(samples):,} pictures, not the {len(is_train):,} of its index file"
        raise _incomplete(task, root, what)
    sides = list(zip(samples, is_train.tolist(), strict=True))
    return _Read(
        classes,
        tuple(sample for sample, chosen in sides if chosen),
        tuple(sample for sample, chosen in sides if not chosen),
    )


READERS: dict[str, Callable[[Path], _Read]] = {
    "aircraft": _aircraft,
    "caltech101": _caltech101,
    "cifar100": _cifar100,
    "dtd": _dtd,
    "eurosat": _eurosat,
    "flowers": _flowers,
    "food101": _food101,
    "mnist": _mnist,
    "oxford_pets": _oxford_pets,
    "stanford_cars": _stanford_cars,
    "sun397": _sun397,
    "tiny_imagenet": _tiny_imagenet,
}
