"""model.glb: glTF 2.0 in one binary file. +Y up, node transforms identity, texture embedded, nothing required beyond the core."""

import numpy as np
from numpy.typing import NDArray
from pygltflib import (
    ARRAY_BUFFER,
    CLAMP_TO_EDGE,
    ELEMENT_ARRAY_BUFFER,
    FLOAT,
    GLTF2,
    LINEAR,
    LINEAR_MIPMAP_LINEAR,
    SCALAR,
    UNSIGNED_INT,
    VEC2,
    VEC3,
    Accessor,
    Asset,
    Attributes,
    Buffer,
    BufferView,
    Image,
    Material,
    Mesh,
    Node,
    PbrMetallicRoughness,
    Primitive,
    Sampler,
    Scene,
    Texture,
    TextureInfo,
)

from services.export.model import Model

UNLIT = "KHR_materials_unlit"


def glb_bytes(model: Model, texture: bytes, media_type: str, unlit: bool, generator: str) -> bytes:
    """The whole file; `texture` is an encoded image of `media_type`."""
    mesh = model.split()
    gltf = GLTF2(asset=Asset(version="2.0", generator=generator), scene=0, scenes=[Scene(nodes=[0])])
    parts = _Parts(gltf)
    attributes = Attributes(
        POSITION=parts.accessor(mesh.positions, VEC3, FLOAT, ARRAY_BUFFER, bounds=True),
        NORMAL=parts.accessor(mesh.normals, VEC3, FLOAT, ARRAY_BUFFER),
        TEXCOORD_0=parts.accessor(mesh.uv, VEC2, FLOAT, ARRAY_BUFFER),
    )
    indices = parts.accessor(mesh.indices.ravel(), SCALAR, UNSIGNED_INT, ELEMENT_ARRAY_BUFFER)
    gltf.nodes = [Node(mesh=0, name="model")]
    gltf.meshes = [Mesh(name="model", primitives=[Primitive(attributes=attributes, indices=indices, material=0)])]
    gltf.images = [Image(bufferView=parts.view(texture), mimeType=media_type, name="texture")]
    gltf.samplers = [Sampler(magFilter=LINEAR, minFilter=LINEAR_MIPMAP_LINEAR, wrapS=CLAMP_TO_EDGE, wrapT=CLAMP_TO_EDGE)]
    gltf.textures = [Texture(sampler=0, source=0)]
    gltf.materials = [_material(unlit)]
    gltf.extensionsUsed = [UNLIT] if unlit else []
    gltf.buffers = [Buffer(byteLength=len(parts.data))]
    gltf.set_binary_blob(bytes(parts.data))
    return b"".join(gltf.save_to_bytes())


def _material(unlit: bool) -> Material:
    surface = PbrMetallicRoughness(baseColorTexture=TextureInfo(index=0), metallicFactor=0.0, roughnessFactor=1.0)
    return Material(name="photos", pbrMetallicRoughness=surface, extensions={UNLIT: {}} if unlit else {}, alphaCutoff=None)


class _Parts:
    """Collects the binary chunk; every part begins at a multiple of four bytes."""

    def __init__(self, gltf: GLTF2) -> None:
        self._gltf = gltf
        self.data = bytearray()

    def view(self, data: bytes, target: int | None = None) -> int:
        """Index of a new buffer view over these bytes."""
        self._gltf.bufferViews.append(BufferView(buffer=0, byteOffset=len(self.data), byteLength=len(data), target=target))
        self.data += data + b"\0" * (-len(data) % 4)
        return len(self._gltf.bufferViews) - 1

    def accessor(self, values: NDArray[np.generic], kind: str, component: int, target: int, bounds: bool = False) -> int:
        """Index of a new accessor over a view of its own."""
        accessor = Accessor(bufferView=self.view(values.tobytes(), target), componentType=component, count=len(values), type=kind)
        if bounds:
            accessor.min, accessor.max = values.min(0).tolist(), values.max(0).tolist()
        self._gltf.accessors.append(accessor)
        return len(self._gltf.accessors) - 1
