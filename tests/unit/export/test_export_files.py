"""Each deliverable, read back with somebody else's reader."""

import io
import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import open3d as o3d
import pytest
import trimesh
from PIL import Image

from services.export.cameras import cameras_in_model, moved_pose
from services.export.glb import glb_bytes
from services.export.model import Model, Similarity, sample_texture
from services.export.obj import obj_archive
from services.export.ply import Cloud, cloud_bytes, mesh_bytes
from services.export.preview import orbit_views, render_preview
from services.export.texture_file import encode_texture

VALIDATOR = Path(__file__).parents[2] / "support" / "gltf_validator"


@pytest.fixture(scope="module")
def model() -> Model:
    """A ball of radius 0.5 on y = 0 whose texture tells left (red) from right (green), and top (bright) from bottom (dark)."""
    ball = o3d.geometry.TriangleMesh.create_sphere(0.5, 40)
    normals = np.asarray(ball.vertices) / 0.5
    vertices, faces = normals * 0.5 + (0, 0.5, 0), np.asarray(ball.triangles).astype(np.int32)
    middles = vertices[faces].mean(1)
    half = np.where(middles[:, 0] < 0, 0.0, 0.5)
    uv = np.stack([half[:, None] + 0.05 + 0.4 * (vertices[faces][..., 2] + 0.5), 1 - 0.1 - 0.8 * vertices[faces][..., 1]], -1)
    level = np.linspace(250, 60, 64)[:, None]  # v = 0 is the top
    texture = np.zeros((64, 64, 3), np.uint8)
    texture[:, :32, 0], texture[:, 32:, 1] = level, level
    return Model(vertices, normals, faces, uv.astype(np.float32), texture)


@pytest.fixture(scope="module")
def glb(model: Model) -> bytes:
    return glb_bytes(model, encode_texture(model.texture, "png", 90), "image/png", True, "test")


def test_the_glb_is_read_as_it_was_meant(model: Model, glb: bytes) -> None:
    """Positions, outward faces, and a texture that is neither mirrored nor upside down."""
    loaded = trimesh.load(io.BytesIO(glb), file_type="glb", force="mesh")
    np.testing.assert_allclose(loaded.bounds, [model.vertices.min(0), model.vertices.max(0)], atol=1e-6)
    assert loaded.volume > 0.5
    texture = np.asarray(loaded.visual.material.baseColorTexture.convert("RGB")).astype(float)
    uv = np.column_stack([loaded.visual.uv[:, 0], 1 - loaded.visual.uv[:, 1]])  # trimesh turns v over
    colours = sample_texture(texture, uv)
    left, right = loaded.vertices[:, 0] < -0.1, loaded.vertices[:, 0] > 0.1
    assert colours[left, 0].min() > 50
    assert colours[left, 1].max() < 5
    assert colours[right, 1].min() > 50
    top, bottom = loaded.vertices[:, 1] > 0.9, loaded.vertices[:, 1] < 0.1
    assert colours[top].max(1).mean() > colours[bottom].max(1).mean() + 80


def test_the_glb_requires_nothing_beyond_the_core(glb: bytes) -> None:
    """Unlit is used, not required; metallic 0, roughness 1; node transforms identity; the texture is inside."""
    content = json.loads(glb[20 : 20 + int.from_bytes(glb[12:16], "little")])
    surface = content["materials"][0]["pbrMetallicRoughness"]
    assert content["extensionsUsed"] == ["KHR_materials_unlit"]
    assert not content.get("extensionsRequired")
    assert (surface["metallicFactor"], surface["roughnessFactor"]) == (0.0, 1.0)
    assert not {"matrix", "translation", "rotation", "scale"} & {key for key, value in content["nodes"][0].items() if value}
    assert "bufferView" in content["images"][0]


@pytest.mark.skipif(shutil.which("npm") is None, reason="no node here")
def test_the_khronos_validator_finds_no_error(glb: bytes, tmp_path: Path) -> None:
    """The GLB is valid glTF 2.0."""
    if not (VALIDATOR / "node_modules" / "gltf-validator").exists():
        command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"]
        subprocess.run(command, cwd=VALIDATOR, check=True, capture_output=True, timeout=120)
    path = tmp_path / "model.glb"
    path.write_bytes(glb)
    done = subprocess.run(["node", str(VALIDATOR / "validate.js"), str(path)], check=True, capture_output=True, timeout=60)
    issues = json.loads(done.stdout)["issues"]
    assert issues["numErrors"] == 0, issues["messages"]
    assert issues["numWarnings"] == 0, issues["messages"]


def test_relief_tells_a_picture_from_a_body(model: Model) -> None:
    """A flat sheet has none, however it is turned; a body has."""
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    sheet = np.random.default_rng(2).uniform(size=(100, 3)) * [4.0, 3.0, 0.0]
    assert replace(model, vertices=sheet @ turn.T + 5.0).relief() < 1e-6
    assert model.relief() > 0.05


def test_the_obj_archive_holds_the_same_model(model: Model) -> None:
    """OBJ, MTL and texture; v counts from the bottom; two runs give the same bytes."""
    texture = encode_texture(model.texture, "jpeg", 90)
    data = obj_archive(model, texture, "texture.jpg")
    assert data == obj_archive(model, texture, "texture.jpg")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["model.obj", "model.mtl", "texture.jpg"]
        text = archive.read("model.obj").decode()
        assert "map_Kd texture.jpg" in archive.read("model.mtl").decode()
    rows = [line.split() for line in text.splitlines()]
    vertices = np.array([row[1:] for row in rows if row[0] == "v"], float)
    uv = np.array([row[1:] for row in rows if row[0] == "vt"], float)
    corners = np.array([[part.split("/") for part in row[1:]] for row in rows if row[0] == "f"], int) - 1
    np.testing.assert_allclose(vertices[corners[..., 0]], model.vertices[model.faces], atol=1e-6)
    np.testing.assert_allclose(1 - uv[corners[..., 1]][..., 1], model.uv[..., 1], atol=1e-6)


def test_the_mesh_ply_is_closed_and_coloured(model: Model, tmp_path: Path) -> None:
    """Vertices are shared, so that a closed model is watertight; colours come from the texture."""
    (tmp_path / "mesh.ply").write_bytes(mesh_bytes(model))
    mesh = o3d.io.read_triangle_mesh(str(tmp_path / "mesh.ply"))
    assert mesh.is_watertight()
    np.testing.assert_allclose(np.asarray(mesh.vertices), model.vertices, atol=1e-6)
    colours = np.asarray(mesh.vertex_colors)
    assert (colours[model.vertices[:, 0] < -0.1, 0] > 0.2).all()


def test_the_cloud_survives_the_way_out_and_in(tmp_path: Path) -> None:
    """Points, normals and colours of pointcloud.ply, moved into the model's frame."""
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    similarity = Similarity(0.5, turn * np.sign(np.linalg.det(turn)), np.array([1.0, 2, 3]))
    cloud = Cloud(rng.normal(size=(50, 3)), np.tile([0.0, 0, 1], (50, 1)), rng.integers(0, 255, (50, 3)).astype(np.uint8))
    (tmp_path / "c.ply").write_bytes(cloud_bytes(cloud))
    moved = Cloud.read(tmp_path / "c.ply", similarity)
    np.testing.assert_allclose(moved.points, similarity.apply(cloud.points), atol=1e-5)
    np.testing.assert_allclose(moved.normals, np.tile(similarity.R[:, 2], (50, 1)), atol=1e-6)
    np.testing.assert_array_equal(moved.colours, cloud.colours)


def test_cameras_see_the_model_where_they_saw_the_world() -> None:
    """A point projects to the same pixel before and after; R stays a rotation, K upper triangular, the scale is in t."""
    rng = np.random.default_rng(1)
    R, turn = (np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(2))
    R, turn = R * np.sign(np.linalg.det(R)), turn * np.sign(np.linalg.det(turn))
    t, point = np.array([0.1, 0.2, 9.0]), np.array([[0.3, 0.5, -0.2]])
    similarity = Similarity(0.13, turn, np.array([0.4, -1, 2]))
    R_model, t_model = moved_pose(R, t, similarity)
    before, after = R @ point[0] + t, R_model @ similarity.apply(point)[0] + t_model
    np.testing.assert_allclose(after, 0.13 * before, atol=1e-12)
    np.testing.assert_allclose(R_model @ R_model.T, np.eye(3), atol=1e-12)
    entry = {
        "R": R.tolist(),
        "t": t.tolist(),
        "K": [[9, 0, 4], [0, 9, 3], [0, 0, 1]],
        "width": 8,
        "height": 6,
        "file": "x",
        "distorted": {},
    }
    written = cameras_in_model({"b": entry, "a": entry}, ["b", "a"], similarity)["images"]
    assert list(written) == ["b", "a"]
    assert set(written["a"]) == {"R", "t", "K", "width", "height", "distorted"}


def test_the_preview_shows_the_model_upright(model: Model) -> None:
    """A square PNG on a light ground: bright top above dark bottom, red left of green from the front."""
    data = render_preview(model, {}, True, 800)
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float)
    assert pixels.shape == (800, 800, 3)
    assert (pixels[:5, :5] > 240).all()
    tile = pixels[:400, :400]
    drawn = tile.min(2) < 200
    rows = np.nonzero(drawn.any(1))[0]
    brightness = [tile[y][drawn[y]].max(1).mean() for y in (rows[len(rows) // 6], rows[-len(rows) // 6])]
    assert brightness[0] > brightness[1] + 40
    middle = tile[rows.mean().astype(int)]
    columns = np.nonzero(drawn[rows.mean().astype(int)])[0]
    assert middle[columns[10], 0] > middle[columns[10], 1]
    assert middle[columns[-10], 1] > middle[columns[-10], 0]


def test_every_view_of_the_preview_holds_the_whole_model(model: Model) -> None:
    """No vertex falls outside a tile."""
    for view in orbit_views(model):
        local = model.vertices @ view.R.T + view.t
        assert (np.abs(local[:, :2] / local[:, 2:]) * view.focal < 0.5).all()


def test_the_texture_can_be_kept_lossless() -> None:
    """png returns the same pixels, jpeg nearly."""
    pixels = np.random.default_rng(2).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    decoded = cv2.imdecode(np.frombuffer(encode_texture(pixels, "png", 90), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(decoded, pixels)
    assert encode_texture(pixels, "jpeg", 90)[:2] == b"\xff\xd8"


def test_open3d_is_loaded_without_what_draws_plots() -> None:
    """Dash and plotly take half of its loading time; everything that stages use of it is there."""
    script = "import sys, shared.lean_open3d, open3d; print('dash' in sys.modules, hasattr(open3d.t.geometry, 'RaycastingScene'))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split() == ["False", "True"]
