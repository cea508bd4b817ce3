"""`mini`, the embedded base model: a real pretrained image-text dual encoder, no network needed.

EfficientNet-lite0 (ImageNet) and all-MiniLM-L6-v2 are joined by a fixed matrix, as in ConSE
(Norouzi et al., 2014, arXiv 1312.5650): an image's embedding is its distribution over the
ImageNet classes times the text embeddings of those classes' names. It is not CLIP, but it has
the same shape: two towers, one space, zero-shot classification by cosine.
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from condu_cli.backbone.dual_encoder import DualEncoder, Preprocessing
from condu_cli.backbone.lora.spec import LoraDefaults
from condu_cli.backbone.models.embedded_weights import (
    IMAGE_WEIGHTS,
    MINI_FILES,
    TEXT_CONFIG,
    TEXT_TOKENIZER,
    TEXT_WEIGHTS,
)
from condu_cli.backbone.user_cache import UserCache
from condu_cli.base_identity import BaseIdentity
from condu_cli.errors import BaseModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

IMAGENET_TEMPLATE = "a photo of a {}."
LOGIT_SCALE = 15.0
BASE_TEMPERATURE, EXPERT_TEMPERATURE = 1.0, 3.0
"""Of the softmax over ImageNet classes. Zero-shot is best at 1, but a saturated softmax passes
hardly any gradient: experts are trained and read at 3 (docs/base-models.md has the figures)."""
MAX_TOKENS = 128
LORA_DEFAULTS = LoraDefaults(
    rank=16,
    alpha=16.0,
    targets=(
        "text.encoder.layer.?.intermediate.dense",
        "text.encoder.layer.?.output.dense",
        "image.blocks.*.conv_pw",
        "image.blocks.*.conv_pwl",
        "image.conv_head",
        "image.classifier",
    ),
)
"""MiniLM's MLP layers, and what is closest to them in an EfficientNet: all 1x1 convolutions, which
hold nearly all of its weights, and the classifier. Most of them have fewer than 200 channels on
one side, where rank 64 would no longer be low."""


class Mini(DualEncoder):
    """EfficientNet-lite0 and MiniLM in one space of width E = 384; pooled width P = 1280."""

    image_tower = "image."
    recipe_family = "mini"
    fast_in_bfloat16 = False

    def __init__(self) -> None:
        super().__init__()
        self.image = _load_image_tower()
        self.text = _load_text_tower()
        self._tokenizer = _load_tokenizer()
        self.class_embeddings: Tensor
        self.preprocessing = Preprocessing(
            image_size=224,
            mean=(127 / 255,) * 3,
            std=(128 / 255,) * 3,
            fixed_size=False,
        )
        self.lora_defaults = LORA_DEFAULTS
        self.logit_scale_value = LOGIT_SCALE
        self.temperature = BASE_TEMPERATURE
        self.train(False)
        # Not persistent: it follows from the weights, and its last bits from the machine, so that
        # it must not enter the hash by which a registry knows its base model.
        embeddings = _kept_embeddings(self._imagenet_class_embeddings)
        self.register_buffer("class_embeddings", embeddings, persistent=False)
        architecture = "efficientnet_lite0+minilm_l6"
        self.info = self.seal(BaseIdentity("mini", architecture, "mini", "relu6+gelu", "", 224))

    def _imagenet_class_embeddings(self) -> Tensor:
        """Text embeddings of the 1,000 ImageNet class names (1000, E), mean removed.

        Without the mean, which all the names share, a flat distribution over classes would
        point at the mean text instead of at nothing.
        """
        from timm.data import ImageNetInfo

        names = [name.split(",")[0] for name in ImageNetInfo("imagenet-1k").label_descriptions()]
        with torch.inference_mode():
            parts = [
                self.encode_texts([IMAGENET_TEMPLATE.format(name) for name in names[i : i + 100]])
                for i in range(0, len(names), 100)
            ]
        embeddings = torch.cat(parts).clone()
        return embeddings - embeddings.mean(dim=0)

    def pool_images(self, pixels: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the globally pooled feature map (B, 1280)."""
        features = self.image.forward_head(self.image.forward_features(pixels), pre_logits=True)
        assert isinstance(features, Tensor)  # noqa: S101 - timm is untyped
        return features

    def project_images(self, pooled: Tensor) -> Tensor:
        """Softmax over the ImageNet logits times the class embeddings (B, 384), unit length."""
        logits = self.image.get_classifier()(pooled).float()
        distribution = (logits / self.temperature).softmax(dim=-1)
        return functional.normalize(distribution @ self.class_embeddings, dim=-1)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """WordPiece ids and attention masks (N, L), padded to the longest text."""
        encoded = self._tokenizer.encode_batch(list(texts))
        return {
            "input_ids": torch.tensor([item.ids for item in encoded]),
            "attention_mask": torch.tensor([item.attention_mask for item in encoded]),
        }

    def token_lengths(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """What the attention mask lets through (N,)."""
        return tokens["attention_mask"].sum(dim=1)

    def encode_tokens(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Mean of the last hidden states over real tokens, unit length (N, 384)."""
        hidden = self.text(**tokens).last_hidden_state.float()
        mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return functional.normalize((hidden * mask).sum(dim=1) / mask.sum(dim=1), dim=-1)

    def prepare_pixels(self, pixels: Tensor) -> Tensor:
        """Channels last: depthwise convolutions run several times faster on a CPU that way."""
        return pixels.to(self.device).contiguous(memory_format=torch.channels_last)

    def expert_copy(self) -> DualEncoder:
        """Copy, and read the softmax at the temperature that experts are trained at."""
        expert = super().expert_copy()
        assert isinstance(expert, Mini)  # noqa: S101 - a copy of oneself
        expert.temperature = EXPERT_TEMPERATURE
        return expert

    @property
    def library_model(self) -> nn.Module:
        """The model itself: no other library knows how the two towers are joined."""
        return self

    def how_to_load(self, path: str) -> str:
        """Nothing: no other library joins these two towers."""
        return ""

    def model_parameters(self) -> dict[str, nn.Parameter]:
        """Both towers, image first; the class embeddings are a buffer and stay fixed."""
        return dict(self.named_parameters())


def _load_image_tower() -> Any:
    """EfficientNet-lite0 from its checkpoint, tensors only.

    The package's file uses another implementation's names for the same tensors in the same
    order, so names are matched by position and each shape is checked.
    """
    import timm

    stored = torch.load(IMAGE_WEIGHTS.locate(), map_location="cpu", weights_only=True)
    tower = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    own = tower.state_dict()
    same = [t.shape for t in stored.values()] == [t.shape for t in own.values()]
    if not same:
        raise BaseModelError(
            "base model 'mini': the installed timm builds another EfficientNet-lite0",
            reason="timm-unsuitable",
        )
    tower.load_state_dict(dict(zip(own, stored.values(), strict=True)))
    return tower.to(memory_format=torch.channels_last)


def _load_text_tower() -> Any:
    """MiniLM's BERT encoder without the pooler that sentence embeddings do not use."""
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    config = BertConfig(**json.loads(TEXT_CONFIG.locate().read_text()))
    tower = BertModel(config, add_pooling_layer=False)
    stored = load_file(TEXT_WEIGHTS.locate())
    wanted = tower.state_dict().keys()
    tower.load_state_dict({name: value for name, value in stored.items() if name in wanted})
    return tower


def _load_tokenizer() -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TEXT_TOKENIZER.locate()))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")  # noqa: S106 - a token, no secret
    return tokenizer


def _kept_embeddings(compute: Callable[[], Tensor]) -> Tensor:
    """What `compute` gives (1000, E) float32, from this user's cache where it was left before.

    They take longer to compute than one picture's answer. They are not part of what condu ships:
    their last bits differ between machines, and an expert must be asked with those that it was
    trained with. So the cache knows them by all that those bits depend on.
    """
    depends_on = [
        *(file.sha256 for file in MINI_FILES),
        IMAGENET_TEMPLATE,
        *(f"{name} {version(name)}" for name in ("torch", "timm", "transformers", "tokenizers")),
        f"{platform.node()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        f"{torch.get_num_threads()} threads, {torch.get_float32_matmul_precision()}",
    ]
    cache = UserCache("class-embeddings")
    arrays = cache.load(depends_on)
    if arrays is None:
        arrays = {"embeddings": compute().numpy()}
        cache.save(depends_on, arrays)
    # A copy: torch's own memory is aligned, and kernels may round differently where it is not.
    return torch.from_numpy(arrays["embeddings"]).clone()
