"""Masks where they can be trusted, none elsewhere."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from services.segmentation.params import OnnxModel, SegmentationParams
from shared.errors import PermanentError
from tests.unit.segmentation.photos_in_memory import intersection_over_union, run

SIZE = (240, 320)  # height, width


def photo_of_a_disc(seed: int, backdrop: tuple[int, int, int] = (210, 205, 200)) -> tuple[np.ndarray, np.ndarray]:
    """A textured disc before a noisy backdrop, and its true mask."""
    random = np.random.default_rng(seed)
    truth = np.zeros(SIZE, np.uint8)
    cv2.circle(truth, (150 + 5 * seed, 120), 60, 255, cv2.FILLED)
    photo = np.clip(np.array(backdrop) + random.normal(0, 4, (*SIZE, 3)), 0, 255)
    texture = cv2.resize(random.integers(0, 160, (12, 16, 3)).astype(np.float64), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    return np.where(truth[..., None] > 0, np.clip(texture, 0, 150), photo).astype(np.uint8), truth


def brightness_model(path: Path, dynamic: bool = False) -> Path:
    """A network whose output is darkness: one channel, logits that are positive where the photo is dark."""
    size = ["h", "w"] if dynamic else [64, 64]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["image"], ["grey"], axes=[1], keepdims=1),
            helper.make_node("Sub", ["middle", "grey"], ["darkness"]),
            helper.make_node("Mul", ["darkness", "gain"], ["logits"]),
        ],
        "darkness",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, *size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, *size])],
        [helper.make_tensor("middle", TensorProto.FLOAT, [], [0.68]), helper.make_tensor("gain", TensorProto.FLOAT, [], [40.0])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def model(**fields: object) -> SegmentationParams:
    declared = OnnxModel(input_width=64, input_height=64, mean=(0, 0, 0), std=(1, 1, 1), activation="sigmoid", **fields)
    return SegmentationParams(mode="onnx", model=declared)


def test_no_masks_unless_asked_for(tmp_path: Path) -> None:
    """The default leaves photos whole, without a warning."""
    report, masks = run(tmp_path, [photo_of_a_disc(0)[0]], SegmentationParams())
    assert masks == {"mode": "turntable", "still_camera": False, "same_view": False, "masks": {}}
    assert report.warnings == ()


def test_a_plain_backdrop_is_told_from_the_object(tmp_path: Path) -> None:
    """Masks have the photo's size and two values, and cover the object."""
    photos, truths = zip(*(photo_of_a_disc(seed) for seed in range(3)), strict=True)
    _, masks = run(tmp_path, list(photos), SegmentationParams(mode="auto"))
    assert len(masks["masks"]) == 3
    for entry, truth in zip(masks["masks"].values(), truths, strict=True):
        mask = cv2.imread(str(tmp_path / "outputs" / entry["file"]), cv2.IMREAD_UNCHANGED)
        assert mask.shape == SIZE and set(np.unique(mask)) == {0, 255}
        assert intersection_over_union(mask, truth) > 0.97
        assert entry["confidence"] > 0.8


def test_a_mask_that_cannot_be_trusted_is_not_used(tmp_path: Path) -> None:
    """Texture up to the border is no backdrop: the photo is used whole, and the report says so."""
    clutter = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    photo = cv2.resize(clutter, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    report, masks = run(tmp_path, [photo], SegmentationParams(mode="auto"))
    assert masks["masks"] == {}
    assert [warning.code for warning in report.warnings] == ["MASK_UNUSED"]
    assert "shot 0.jpg" in report.warnings[0].message


def test_masks_that_only_a_few_photos_have_are_luck(tmp_path: Path) -> None:
    """With no plain backdrop in most photos the whole set is used without masks, and no file is left behind."""
    random = np.random.default_rng(0)
    clutter = [cv2.resize(random.integers(0, 256, (12, 16, 3)).astype(np.uint8), SIZE[::-1]) for _ in range(3)]
    report, masks = run(tmp_path, [photo_of_a_disc(0)[0], *clutter], SegmentationParams(mode="auto"))
    assert masks["masks"] == {}
    assert list((tmp_path / "outputs").rglob("*.png")) == []
    assert report.summary["unused"] == 4


def test_the_same_photo_gives_the_same_mask(tmp_path: Path) -> None:
    """Clusters and GrabCut are seeded."""
    photo, _ = photo_of_a_disc(1)
    files = []
    for name in ("a", "b"):
        run(tmp_path / name, [photo], SegmentationParams(mode="auto"))
        files.append((tmp_path / name / "outputs" / "masks" / "0000.png").read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_declared_network_makes_the_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dynamic: bool) -> None:
    """A model in the operator's folder, by name: scaled in, activated, scaled out, thresholded."""
    folder = tmp_path / "models"
    folder.mkdir()
    brightness_model(folder / "dark.onnx", dynamic)
    monkeypatch.setenv("MESHWORK_MODEL_DIR", str(folder))
    photo, truth = photo_of_a_disc(0)
    report, masks = run(tmp_path / "job", [photo], model(name="dark.onnx"))
    mask = cv2.imread(str(tmp_path / "job" / "outputs" / masks["masks"]["shot 0.jpg"]["file"]), cv2.IMREAD_UNCHANGED)
    assert intersection_over_union(mask, truth) > 0.9
    assert report.summary["provider"] == "CPUExecutionProvider"


def test_only_the_operators_folder_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is not there, a link out of the folder, another sha256, a file that is no model: each is refused with a code."""
    folder = tmp_path / "models"
    folder.mkdir()
    brightness_model(tmp_path / "outside.onnx")
    (folder / "link.onnx").symlink_to(tmp_path / "outside.onnx")
    brightness_model(folder / "dark.onnx")
    (folder / "text.onnx").write_text("no model")
    monkeypatch.setenv("MESHWORK_MODEL_DIR", str(folder))
    other = hashlib.sha256(b"another").hexdigest()
    for index, fields in enumerate(
        [{"name": "none.onnx"}, {"name": "link.onnx"}, {"name": "dark.onnx", "sha256": other}, {"name": "text.onnx"}]
    ):
        with pytest.raises(PermanentError) as refused:
            run(tmp_path / str(index), [photo_of_a_disc(0)[0]], model(**fields))
        assert refused.value.code == "MODEL_UNUSABLE"


FLOAT = TensorProto.FLOAT
PHOTO = helper.make_tensor_value_info("image", FLOAT, [1, 3, 64, 64])
PICTURE = helper.make_tensor("picture", FLOAT, [1, 1, 2, 2], [0.0, 1.0, 0.0, 1.0])
NOTHING = helper.make_tensor("picture", FLOAT, [1, 1, 0, 4], [])
NUMBER = helper.make_tensor("picture", FLOAT, [], [1.0])


@pytest.mark.parametrize("activation", ["none", "sigmoid", "softmax", "minmax"])
@pytest.mark.parametrize(
    "inputs, picture",
    [
        ([], PICTURE),
        ([helper.make_tensor_value_info("image", FLOAT, None)], PICTURE),
        ([helper.make_tensor_value_info("image", FLOAT, [])], PICTURE),
        ([PHOTO, helper.make_tensor_value_info("more", FLOAT, [1])], PICTURE),
        ([helper.make_tensor_value_info("image", TensorProto.STRING, [1, 3, 64, 64])], PICTURE),
        ([PHOTO], NOTHING),
        ([PHOTO], NUMBER),
    ],
    ids=["no input", "no shape", "a number", "two inputs", "texts", "an empty output", "a number out"],
)
def test_an_odd_network_is_refused_with_a_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: list[onnx.ValueInfoProto], picture: onnx.TensorProto, activation: str
) -> None:
    """Whatever it takes and gives that onnxruntime lets it: it is the caller's to change, and no fault of ours to try again."""
    nodes = [helper.make_node("Constant", [], ["picture"], value=picture)]
    outputs = [helper.make_tensor_value_info("picture", FLOAT, None)]
    graph = helper.make_graph(nodes, "odd", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "odd.onnx")
    monkeypatch.setenv("MESHWORK_MODEL_DIR", str(tmp_path))
    declared = OnnxModel(name="odd.onnx", input_width=64, input_height=64, activation=activation)
    with pytest.raises(PermanentError) as refused:
        run(tmp_path / "job", [photo_of_a_disc(0)[0]], SegmentationParams(mode="onnx", model=declared))
    assert refused.value.code == "MODEL_UNUSABLE"


def test_a_network_of_another_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The declaration is checked against the model before a photo is touched."""
    brightness_model(tmp_path / "dark.onnx")
    monkeypatch.setenv("MESHWORK_MODEL_DIR", str(tmp_path))
    params = SegmentationParams(mode="onnx", model=OnnxModel(name="dark.onnx", input_width=320, input_height=320))
    with pytest.raises(PermanentError, match="input is"):
        run(tmp_path / "job", [photo_of_a_disc(0)[0]], params)
