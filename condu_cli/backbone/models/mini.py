"""`mini`, the embedded base model: a real pretrained image-text dual encoder, no network needed.

EfficientNet-lite0 (ImageNet) and all-MiniLM-L6-v2 are joined by a fixed matrix, as in ConSE
(Norouzi et al., 2014, arXiv 1312.5650): an image's embedding is its distribution over the ImageNet
classes times the text embeddings of those classes' names. It is not CLIP, but works the same way:
two towers, one space, zero-shot classification by cosine.
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from condu_cli.backbone.dual_encoder import DualEncoder
from condu_cli.backbone.lora.spec import LoraDefaults
from condu_cli.backbone.models.embedded_weights import (
    IMAGE_WEIGHTS,
    MINI_FILES,
    TEXT_CONFIG,
    TEXT_TOKENIZER,
    TEXT_WEIGHTS,
)
from condu_cli.backbone.models.folded_norms import feature_map
from condu_cli.backbone.user_cache import UserCache
from condu_cli.base_identity import BaseIdentity
from condu_cli.errors import BaseModelError
from condu_cli.preprocessing import Preparation, Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

IMAGENET_TEMPLATE = "a photo of a {}."
LOGIT_SCALE = 15.0
BASE_TEMPERATURE, EXPERT_TEMPERATURE = 1.0, 3.0
"""Temperatures of the softmax over ImageNet classes. Zero-shot works best at 1, but a saturated
softmax passes almost no gradient: experts are trained and used at 3 (see docs/base-models.md)."""
MAX_TOKENS = 128
POOLED, EMBEDDING = 1280, 384
PROJECTION = "image_projection"
"""A linear map from pooled features to the embedding, which condu adds: zero in the base model, so
that a head can be folded into an expert."""
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
"""MiniLM's MLP layers, and the closest equivalent in an EfficientNet: all 1x1 convolutions, which
hold nearly all of its weights, and the classifier. Most have fewer than 200 channels on one side,
where rank 64 would not be low."""


class Mini(DualEncoder):
    """EfficientNet-lite0 and MiniLM in one space of width E = 384; pooled width P = 1280.

    `image_projection` (E, P + 1) maps unit pooled features and a constant 1 to what is added to the
    embedding before it is normalised.
    """

    image_tower = "image"
    recipe_family = "mini"
    early_stages = ("image.conv_stem.", "image.bn1.", *(f"image.blocks.{i}." for i in range(3)))
    added_parameters = frozenset({PROJECTION})
    fast_in_bfloat16 = False

    def __init__(self) -> None:
        super().__init__()
        self.image = _load_image_tower()
        self.image_projection = nn.Parameter(torch.zeros(EMBEDDING, POOLED + 1))
        self.text = _load_text_tower()
        self._tokenizer = _load_tokenizer()
        self.class_embeddings: Tensor
        self.preprocessing = Preprocessing(
            image_size=224,
            preparation=Preparation(mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
            fixed_size=False,
        )
        self.lora_defaults = LORA_DEFAULTS
        self.logit_scale_value = LOGIT_SCALE
        self.temperature = BASE_TEMPERATURE
        self.train(False)
        # Not persistent: it follows from the weights, but its last bits depend on the machine, so
        # it must not be part of the hash by which a registry recognises its base model.
        embeddings = _kept_embeddings(self._imagenet_class_embeddings)
        self.register_buffer("class_embeddings", embeddings, persistent=False)
        architecture = "efficientnet_lite0+minilm_l6"
        self.info = self.seal(BaseIdentity("mini", architecture, "mini", "relu6+gelu", "", 224))

    def _imagenet_class_embeddings(self) -> Tensor:
        """Return text embeddings of the 1,000 ImageNet class names (1000, E), mean removed.

        All names share the mean: without removing it, a flat distribution over classes would point
        at the mean text instead of nowhere.
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
        """Return the globally pooled feature map (B, 1280) of images (B, 3, H, W)."""
        features = self.image.forward_head(feature_map(self.image, pixels), pre_logits=True)
        assert isinstance(features, Tensor)  # noqa: S101 - timm is untyped
        return features

    def embed_pooled(self, pooled: Tensor) -> Tensor:
        """Return softmax over ImageNet logits times class embeddings, (B, 384).

        The added projection's output is added; the base model's is zero.
        """
        logits = self.image.get_classifier()(pooled).float()
        distribution = (logits / self.temperature).softmax(dim=-1)
        added = functional.linear(
            functional.normalize(pooled.float(), dim=-1),
            self.image_projection[:, :-1],
            self.image_projection[:, -1],
        )
        embedded: Tensor = distribution @ self.class_embeddings + added
        return embedded

    @property
    def linear_end(self) -> str:
        """The added projection."""
        return PROJECTION

    def linear_end_of(self, weights: Tensor, offset: Tensor, pooled: Tensor) -> Tensor:
        """Return the map with its offset as the last column (E, P + 1); it is exact."""
        return torch.cat([weights, offset[:, None]], dim=1)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return WordPiece ids and attention masks (N, L), padded to the longest text."""
        encoded = self._tokenizer.encode_batch(list(texts))
        return {
            "input_ids": torch.tensor([item.ids for item in encoded]),
            "attention_mask": torch.tensor([item.attention_mask for item in encoded]),
        }

    def token_lengths(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Count the positions that the attention mask lets through (N,)."""
        return tokens["attention_mask"].sum(dim=1)

    def encode_tokens(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Return the mean of the last hidden states over real tokens, (N, 384), unit length."""
        hidden = self.text(**tokens).last_hidden_state.float()
        mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return functional.normalize((hidden * mask).sum(dim=1) / mask.sum(dim=1), dim=-1)

    def prepare_pixels(self, pixels: Tensor) -> Tensor:
        """Use channels last: depthwise convolutions are several times faster on a CPU."""
        return pixels.to(self.device).contiguous(memory_format=torch.channels_last)

    def expert_copy(self) -> DualEncoder:
        """Copy the model, and use the softmax temperature of experts."""
        expert = super().expert_copy()
        assert isinstance(expert, Mini)  # noqa: S101 - a copy of itself
        expert.temperature = EXPERT_TEMPERATURE
        return expert

    @property
    def library_model(self) -> nn.Module:
        """The model itself: no other library joins these two towers."""
        return self

    def how_to_load(self, path: str) -> str:
        """Return an empty string: no other library joins these two towers."""
        return ""

    def model_parameters(self) -> dict[str, nn.Parameter]:
        """Return both towers, image first; the class embeddings are a buffer and stay fixed."""
        return dict(self.named_parameters())


def _load_image_tower() -> Any:
    """Load EfficientNet-lite0 from its checkpoint, tensors only.

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
    """Load MiniLM's BERT encoder without the pooler, which sentence embeddings do not use."""
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
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")  # noqa: S106 - a token, not a secret
    return tokenizer


def _kept_embeddings(compute: Callable[[], Tensor]) -> Tensor:
    """Return the result of `compute`, (1000, E) float32, from the user's cache if possible.

    Computing it takes longer than answering one picture. It is not shipped with condu: the last
    bits differ between machines, and an expert must be used with the embeddings that it was trained
    with. So the cache key includes everything that those bits depend on.
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
    # A copy, to be aligned like all of torch's memory: kernels may round differently otherwise.
    return torch.from_numpy(arrays["embeddings"]).clone()
