"""Segmentation by any salient-object network in ONNX form: one loader, driven by a declaration instead of a class per model."""

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from services.segmentation.mask import Image, ObjectMask
from services.segmentation.model_cache import ModelCache, sha256_of
from services.segmentation.params import OnnxModel
from services.segmentation.settings import SegmentationSettings
from shared.errors import MeshworkError, PermanentError
from shared.http.addresses import AddressPolicy
from shared.http.fetching import FetchLimits, download_timeout, fetch
from shared.http.guarded import guarded_client

Floats = NDArray[np.float32]


class UnusableModelError(PermanentError):
    """The model that the caller asked for cannot be had or does not keep its declaration."""

    def __init__(self, why: str) -> None:
        super().__init__("MODEL_UNUSABLE", f"The segmentation model cannot be used: {why}.")


def find_model(model: OnnxModel, settings: SegmentationSettings, folder: Path) -> Path:
    """The model's file: from the operator's folder, or in `folder`, fetched under guard and checked. Callers cannot name any other path."""
    if model.name is None:
        return _fetched(model, settings, folder / "model.onnx")
    path = (settings.model_dir / model.name) if settings.model_dir else None
    if path is None or not path.is_file() or path.is_symlink():
        raise UnusableModelError(f"there is no model named {model.name} on this server")
    if model.sha256 and sha256_of(path) != model.sha256:
        raise UnusableModelError("its sha256 differs")
    return path


def _fetched(model: OnnxModel, settings: SegmentationSettings, path: Path) -> Path:
    assert model.sha256 is not None
    cache = ModelCache(Path(settings.work_dir or tempfile.gettempdir()) / "meshwork-models", settings.max_cached_model_bytes)
    if cache.take(model.sha256, path):
        return path
    try:
        digest = asyncio.run(_fetch(str(model.url), path, settings))
    except MeshworkError as error:
        raise UnusableModelError(f"it could not be fetched: {error}") from error
    if digest != model.sha256:
        raise UnusableModelError("its sha256 differs")
    cache.keep(model.sha256, path)
    return path


async def _fetch(url: str, path: Path, settings: SegmentationSettings) -> str:
    policy = AddressPolicy.parse(settings.allowed_private_networks)
    limits = FetchLimits(max_bytes=settings.max_model_bytes, total_s=settings.model_timeout.total_seconds())
    async with guarded_client(policy, download_timeout(limits)) as client:
        return (await fetch(client, url, path, policy, limits)).sha256


@dataclass(frozen=True)
class OnnxSegmenter:
    """A loaded model. `session` is an onnxruntime.InferenceSession."""

    model: OnnxModel
    session: Any

    @classmethod
    def load(cls, model: OnnxModel, path: Path, threads: int) -> "OnnxSegmenter":
        """Opens the model on CUDA where onnxruntime has it, else on the CPU. Raises UnusableModelError."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise UnusableModelError("it is no ONNX model that this server can run") from error
        inputs = session.get_inputs()
        shape = (inputs[0].shape if inputs else None) or []  # a model may have no input, and an input no shape
        fixed = [size for size in _spatial(shape, model.layout) if isinstance(size, int)]
        if len(shape) != 4 or (len(fixed) == 2 and tuple(fixed) != (model.input_height, model.input_width)):
            raise UnusableModelError(f"its input is {shape}, not {model.input_height}×{model.input_width}")
        return cls(model, session)

    @property
    def provider(self) -> str:
        """Where it runs."""
        return str(self.session.get_providers()[0])

    def segment(self, photo: Image) -> ObjectMask:
        """Confidence is how far from undecided the pixels are, on average."""
        size = (self.model.input_width, self.model.input_height)
        resized = np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8)
        name = self.session.get_inputs()[0].name
        try:
            outputs = self.session.run(None, {name: self._prepared(resized)})
            probability = _activated(np.asarray(outputs[self.model.output_index], np.float32), self.model.activation)
            full = cv2.resize(probability, photo.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        except Exception as error:
            raise UnusableModelError("it failed on a photo, or has no such output") from error
        confidence = float(np.abs(probability - 0.5).mean() * 2)
        return ObjectMask(np.where(full >= self.model.threshold, 255, 0).astype(np.uint8), confidence)

    def _prepared(self, photo: Image) -> Floats:
        values = photo[..., ::-1] if self.model.colour == "bgr" else photo
        mean, std = np.asarray(self.model.mean, np.float32), np.asarray(self.model.std, np.float32)
        scaled = (values.astype(np.float32) / 255 - mean) / std
        ordered = scaled.transpose(2, 0, 1) if self.model.layout == "nchw" else scaled
        return np.ascontiguousarray(ordered[None], np.float32)


def _spatial(shape: list[Any], layout: str) -> list[Any]:
    return shape[2:4] if layout == "nchw" else shape[1:3]


def _softmax(values: Floats) -> Floats:
    """The second of two channels, of a 2×h×w array."""
    return np.asarray(1 / (1 + np.exp(np.clip(values[0] - values[1], -60, 60))), np.float32)


_ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "none": lambda values: np.clip(values, 0, 1),
    "sigmoid": lambda values: np.asarray(1 / (1 + np.exp(-np.clip(values, -60, 60))), np.float32),
    "minmax": lambda values: np.asarray((values - values.min()) / max(float(np.ptp(values)), 1e-6), np.float32),
}


def _activated(output: Floats, activation: str) -> Floats:
    """h×w probabilities from the raw output, whatever its leading axes of one."""
    values = np.squeeze(output)
    if activation == "softmax":
        return _softmax(values if values.shape[0] == 2 else np.moveaxis(values, -1, 0))
    if values.ndim != 2:
        raise ValueError(f"the output has shape {output.shape}")
    return _ACTIVATIONS[activation](values)
