"""Any open_clip architecture as a base model: by pretrained tag, local checkpoint or hub name."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from condu_cli.backbone.dual_encoder import DualEncoder
from condu_cli.backbone.file_kinds import MISFITS, misfit_of
from condu_cli.backbone.lora.spec import LoraDefaults
from condu_cli.backbone.models.open_clip_specs import (
    TINY_ARCHITECTURE,
    OpenClipSpec,
    openai_preparation,
    prepared_as,
)
from condu_cli.backbone.weight_files import is_checkpoint
from condu_cli.base_identity import HUB_PREFIX, BaseIdentity, without_activation
from condu_cli.errors import BaseModelError
from condu_cli.preprocessing import Preparation, Preprocessing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REASON_LENGTH = 240
"""The most characters of a foreign error to show."""


MLP_LAYERS = ("*.mlp.c_fc", "*.mlp.c_proj", "*.mlp.fc1", "*.mlp.fc2")
"""The MLP layers of open_clip's transformers, and of its towers from timm."""
LORA_RANK = 64
"""As in ConDU's released code: rank 64 on the MLP layers of both towers."""
TINY_LORA_RANK = 4


class OpenClipModel(DualEncoder):
    """A dual encoder around an open_clip model."""

    image_tower = "visual."
    recipe_family = "clip"
    fast_in_bfloat16 = True

    def __init__(self, base_id: str, spec: OpenClipSpec, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.clip = model
        self._tokenizer = tokenizer
        self.preprocessing = _preprocessing(base_id, model.visual, spec.preparation)
        self.assumed_preparation = spec.assumed
        self.lora_defaults = _lora_defaults(spec.architecture)
        self.logit_scale_value = float(model.logit_scale.detach().exp())
        self._is_cuttable = _has_causal_text(model)
        size = self.preprocessing.image_size
        activation = _activation(model)
        self.info = self.seal(
            BaseIdentity(base_id, spec.architecture, spec.pretrained, activation, "", size)
        )

    def pool_images(self, pixels: Tensor) -> Tensor:
        """Return features before the projection, (B, P), of images (B, 3, H, W).

        Only vision transformers have them. Other towers include their projection, and their
        embedding is used for both.
        """
        visual = self.clip.visual
        if not _has_separate_projection(visual):
            return _first(visual(pixels))
        pooled, _ = visual._pool(visual.transformer(visual._embeds(pixels)))
        return _first(pooled)

    def embed_pooled(self, pooled: Tensor) -> Tensor:
        """Apply the tower's projection (P, E) if it is separate; return features (B, E)."""
        visual = self.clip.visual
        projected: Tensor = pooled @ visual.proj if _has_separate_projection(visual) else pooled
        features: Tensor = projected.float()
        return features

    @property
    def linear_end(self) -> str | None:
        """The projection of a vision transformer; other towers include theirs."""
        return f"{self.image_tower}proj" if _has_separate_projection(self.clip.visual) else None

    def linear_end_of(self, weights: Tensor, offset: Tensor, pooled: Tensor) -> Tensor:
        """Return the matrix (P, E) for pooled features that are not unit, and have no constant.

        Their lengths differ by a few per cent after the last normalisation layer; their mean is
        taken. The constant is the linear function that is closest to 1 on `pooled`.
        """
        length = pooled.norm(dim=-1).mean()
        gram = pooled.T @ pooled
        ridge = 1e-4 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        one = torch.linalg.solve(gram + ridge, pooled.sum(dim=0))  # (P,)
        end: Tensor = (weights / length).T + torch.outer(one, offset)
        return end

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return token ids (N, context length)."""
        return {"ids": self._tokenizer(list(texts))}

    def encode_tokens(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Encode token ids to unit text features (N, E)."""
        ids = tokens["ids"]
        clip = self.clip
        whole = not self._is_cuttable or ids.shape[1] == clip.context_length
        features = _first(clip.encode_text(ids)) if whole else _encode_short(clip, ids)
        return functional.normalize(features.float(), dim=-1)

    def token_lengths(self, tokens: Mapping[str, Tensor]) -> Tensor | None:
        """Return lengths up to the end token, which has the highest id (N,); None if not causal."""
        return tokens["ids"].argmax(dim=-1) + 1 if self._is_cuttable else None

    @property
    def library_model(self) -> nn.Module:
        """open_clip's own model."""
        model: nn.Module = self.clip
        return model

    def how_to_load(self, path: str) -> str:
        """Return a call of open_clip with this model's activation and preprocessing.

        A file records neither: open_clip would take the activation from the architecture's name,
        and use OpenAI's statistics for pictures.
        """
        architecture, file = self.info.architecture, json.dumps(path, ensure_ascii=False)
        if architecture.startswith(HUB_PREFIX):
            return (
                f'model = open_clip.create_model("{architecture}", load_weights=False); '
                f"open_clip.load_checkpoint(model, {file})"
            )
        name, options = _named_activation(architecture, quick=self.info.activation == "quick_gelu")
        options |= _other_preparation(self.preprocessing.preparation)
        given = "".join(f", {key}={value!r}" for key, value in options.items())
        return f'open_clip.create_model_and_transforms("{name}", pretrained={file}{given})'

    def model_parameters(self) -> dict[str, nn.Parameter]:
        """Return both towers under open_clip's names, without the logit scale and bias."""
        frozen = {"logit_scale", "logit_bias"}
        return {n: p for n, p in self.clip.named_parameters() if n not in frozen}


def load(base_id: str, spec: OpenClipSpec) -> OpenClipModel:
    """Build the model and load its weights, downloading them if necessary.

    Raises:
        BaseModelError: the weights cannot be loaded or do not fit.

    """
    import open_clip

    if is_checkpoint(spec.pretrained) and not Path(spec.pretrained).is_file():
        raise BaseModelError(
            f"base model '{base_id}': no such file: {spec.pretrained}",
            reason="weights-file-missing",
            path=spec.pretrained,
            base=base_id,
        )
    # open_clip also logs a failed download; our error says more, in one line.
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(
                0
            )  # only an architecture without weights (condu-tiny) draws random numbers
            model = _created(spec)
        tokenizer = open_clip.get_tokenizer(spec.architecture)
    except Exception as exc:
        # Hub clients and checkpoint readers raise a dozen unrelated types.
        raise _unavailable(base_id, spec, exc) from exc
    finally:
        logging.disable(previous)
    return OpenClipModel(base_id, spec, model, tokenizer)


def _created(spec: OpenClipSpec) -> Any:
    """Build open_clip's model; for a name on the hub, open_clip takes no other weights itself."""
    import open_clip

    if spec.architecture.startswith(HUB_PREFIX) and spec.pretrained:
        model = open_clip.create_model(spec.architecture, load_weights=False)
        open_clip.load_checkpoint(model, spec.pretrained)
        return model
    return open_clip.create_model(
        spec.architecture, pretrained=spec.pretrained or None, force_quick_gelu=spec.quick_gelu
    )


def _unavailable(base_id: str, spec: OpenClipSpec, exc: Exception) -> BaseModelError:
    reason = shorten(str(exc) or type(exc).__name__, REASON_LENGTH, placeholder=" …")
    tried = spec.pretrained or spec.architecture
    if Path(spec.pretrained).is_file():
        misfit = misfit_of(Path(spec.pretrained))
        if misfit is not None:
            return BaseModelError(
                f"base model '{base_id}': {tried} {MISFITS[misfit]}",
                reason="checkpoint-is-other-file",
                kind=misfit,
            )
        return BaseModelError(
            f"base model '{base_id}': {tried} does not load as {spec.architecture}: {reason}",
            reason="weights-do-not-fit",
            base=base_id,
            architecture=spec.architecture,
        )
    return BaseModelError(
        f"base model '{base_id}': could not download the weights '{tried}': {reason}",
        reason="weights-not-downloaded",
        base=base_id,
        architecture=_local_architecture(spec),
    )


def _local_architecture(spec: OpenClipSpec) -> str:
    """Return the architecture's name for a local checkpoint of the same model."""
    if spec.architecture.startswith(HUB_PREFIX):
        return "ARCHITECTURE"
    bare = without_activation(spec.architecture)
    return f"{bare}-quickgelu" if spec.quick_gelu else bare


def _preprocessing(base_id: str, visual: Any, preparation: Preparation | None) -> Preprocessing:
    size = visual.image_size
    try:
        prepared = preparation or prepared_as(visual.preprocess_cfg)
    except ValueError as exc:
        raise BaseModelError(
            f"base model '{base_id}': how pictures are prepared: {exc}",
            reason="preparation-unknown",
            base=base_id,
        ) from exc
    return Preprocessing(int(size[0] if isinstance(size, (tuple, list)) else size), prepared)


def _lora_defaults(architecture: str) -> LoraDefaults:
    rank = TINY_LORA_RANK if architecture == TINY_ARCHITECTURE else LORA_RANK
    return LoraDefaults(rank, float(rank), MLP_LAYERS)


def _named_activation(architecture: str, *, quick: bool) -> tuple[str, dict[str, Any]]:
    """Return the name with which open_clip builds that activation, or an option that forces it."""
    import open_clip

    if not quick or (open_clip.get_model_config(architecture) or {}).get("quick_gelu"):
        return architecture, {}
    named = f"{architecture}-quickgelu"
    if open_clip.get_model_config(named) is not None:
        return named, {}
    return architecture, {"force_quick_gelu": True}


def _other_preparation(preparation: Preparation) -> dict[str, Any]:
    """Return the options that differ from open_clip's defaults."""
    ours, usual = asdict(preparation), asdict(openai_preparation())
    return {f"image_{name}": ours[name] for name in ours if ours[name] != usual[name]}


def _activation(model: Any) -> str:
    """Return the activation that the model really has, whatever its name or configuration says."""
    from open_clip.transformer import QuickGELU

    quick = any(isinstance(module, QuickGELU) for module in model.modules())
    return "quick_gelu" if quick else "gelu"


def _has_causal_text(model: Any) -> bool:
    """Return whether a text's features are those at its end token, whatever follows it."""
    import open_clip

    causal = getattr(model, "attn_mask", None) is not None
    return (
        isinstance(model, open_clip.CLIP)
        and causal
        and getattr(model, "text_pool_type", "") == "argmax"
    )


def _encode_short(clip: Any, ids: Tensor) -> Tensor:
    """Do what `clip.encode_text` does for token ids (N, L) with L below the context length: (N, E).

    open_clip always adds the positional embedding and the mask of the full context.
    """
    length = ids.shape[1]
    dtype = clip.transformer.get_cast_dtype()
    x = clip.token_embedding(ids).to(dtype) + clip.positional_embedding[:length].to(dtype)
    x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))  # (N, L, W)
    pooled: Tensor = x[torch.arange(len(x), device=x.device), ids.argmax(dim=-1)]
    if isinstance(clip.text_projection, nn.Linear):
        return clip.text_projection(pooled)  # type: ignore[no-any-return]
    return pooled if clip.text_projection is None else pooled @ clip.text_projection


def _has_separate_projection(visual: Any) -> bool:
    return hasattr(visual, "_embeds") and getattr(visual, "proj", None) is not None


def _first(features: Any) -> Tensor:
    """Take the pooled features: open_clip towers may return (pooled, tokens)."""
    pooled: Tensor = features[0] if isinstance(features, tuple) else features
    return pooled
