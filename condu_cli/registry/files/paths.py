"""Where a registry is and how its folder is laid out; cheap to import for `condu --help`."""

import os
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENT_VARIABLE = "CONDU_REGISTRY"


@dataclass(frozen=True)
class RegistryPaths:
    """The files and folders of the registry at `root`."""

    root: Path

    @property
    def database(self) -> Path:
        """All metadata: sessions, experts, HEAD, operations."""
        return self.root / "condu.sqlite"

    @property
    def blobs(self) -> Path:
        """Immutable safetensors files named by their sha256."""
        return self.root / "blobs"

    @property
    def backups(self) -> Path:
        """Copies of the database from before each migration."""
        return self.root / "backups"

    @property
    def tmp(self) -> Path:
        """Blobs being written; on the same file system, so that a rename is atomic."""
        return self.root / "tmp"

    @property
    def trained(self) -> Path:
        """Experts that are trained but not committed yet; created when needed."""
        return self.root / "trained"

    @property
    def runs(self) -> Path:
        """Unfinished trainings; created when needed."""
        return self.root / "runs"

    @property
    def own(self) -> tuple[Path, ...]:
        """Everything that a registry may hold at its top level."""
        holder = self.lock.with_name(self.lock.name + ".holder")
        ends = ("-wal", "-shm", "-journal")
        log = [self.database.with_name(self.database.name + end) for end in ends]
        return (
            *(self.database, *log, self.blobs, self.backups, self.tmp),
            *(self.trained, self.runs),
            *(self.lock, holder, self.reserve, self.readme),
        )

    @property
    def lock(self) -> Path:
        """The file that the writer locks."""
        return self.root / "lock"

    @property
    def reserve(self) -> Path:
        """Space that a writer gives up when the disk is full."""
        return self.root / "reserve"

    @property
    def readme(self) -> Path:
        """Explains the folder to anyone who finds it."""
        return self.root / "README.txt"


def resolve_registry_path(option: Path | None) -> Path:
    """Return the registry's folder: the option, else CONDU_REGISTRY, else the data folder."""
    if option is not None:
        return option.expanduser()
    if from_environment := os.environ.get(ENVIRONMENT_VARIABLE):
        return Path(from_environment).expanduser()

    from platformdirs import user_data_dir

    return Path(user_data_dir("condu", appauthor=False)) / "registry"
