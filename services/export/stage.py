"""The export stage: everything in the model's frame, in the formats that were asked for."""

import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from services.export.params import ExportParams
from shared.contracts.manifest import StageReport
from shared.photo_names import names_in_job
from shared.runtime.workspace import Workspace

if TYPE_CHECKING:  # native libraries load inside `run` alone, in the child process
    from services.export.model import Model, Similarity

REPORT = "report.json"


class ExportStage:
    """A textured mesh, cloud and cameras in; the deliverables out."""

    name: ClassVar[str] = "export"
    version: ClassVar[str] = "5"
    Params: ClassVar[type[BaseModel]] = ExportParams
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "sfm": ("cameras.json",),
        "postprocess": ("mesh.npz", "texture.png", "similarity.json"),
        "postprocess|mvs": ("pointcloud.ply",),
    }

    def run(self, workspace: Workspace, params: ExportParams) -> StageReport:
        """Writes the artifacts that the request names, and report.json always."""
        import shared.lean_open3d  # noqa: F401  before the modules that import open3d
        from services.export.cameras import cameras_in_model
        from services.export.model import Model, Similarity
        from services.export.report import build_report

        request, steps = workspace.request(), workspace.earlier_steps()
        post = workspace.inputs("postprocess")
        meshed = (post / "mesh.npz").exists()
        similarity = Similarity.read(post / "similarity.json") if meshed else Similarity.identity()
        images = json.loads((workspace.inputs("sfm") / "cameras.json").read_bytes())["images"]
        cameras = cameras_in_model(images, names_in_job(request, steps), similarity)
        makers = {"cameras.json": lambda: json.dumps(cameras, indent=1).encode(), **cloud_maker(workspace, similarity)}
        delivered: dict[str, Any] = {}
        if meshed:
            model = Model.read(post, similarity)
            delivered["relief"] = round(model.relief(), 5)
            makers |= model_makers(model, cameras["images"], similarity.isolated, params)
        written = write_wanted(makers, request.outputs, workspace)
        scale = {"source": similarity.source, "unit": "metre" if similarity.source != "none" else None}
        delivered["points"] = cloud_size(workspace.outputs / "pointcloud.ply")
        report = build_report(request, steps, cameras["images"], scale, delivered)
        (workspace.outputs / REPORT).write_text(json.dumps(report, indent=1))
        return StageReport(
            summary={"verdict": report["verdict"], "files": [*written, REPORT]},
            engines={name: version(name) for name in ("pygltflib", "open3d", "opencv-python-headless")},
            job_report=report,
        )


def model_makers(model: "Model", cameras: Mapping[str, Any], isolated: bool, params: ExportParams) -> dict[str, Callable[[], bytes]]:
    """How each artifact of a mesh is made."""
    from services.export.glb import glb_bytes
    from services.export.obj import obj_archive
    from services.export.ply import mesh_bytes
    from services.export.preview import render_preview
    from services.export.texture_file import encode_texture

    texture = encode_texture(model.texture, params.texture_format, params.jpeg_quality)
    media_type, suffix = ("image/jpeg", "jpg") if params.texture_format == "jpeg" else ("image/png", "png")
    return {
        "model.glb": lambda: glb_bytes(model, texture, media_type, params.unlit, f"Meshwork export {ExportStage.version}"),
        "model_obj.zip": lambda: obj_archive(model, texture, f"texture.{suffix}"),
        "mesh.ply": lambda: mesh_bytes(model),
        "preview.png": lambda: render_preview(model, cameras, isolated, params.preview_size),
    }


def cloud_maker(workspace: Workspace, similarity: "Similarity") -> dict[str, Callable[[], bytes]]:
    """The object's own cloud where postprocess cropped it, else all that mvs found."""
    from services.export.ply import Cloud, cloud_bytes

    paths = [workspace.inputs(stage) / "pointcloud.ply" for stage in ("postprocess", "mvs")]
    path = next((path for path in paths if path.exists()), None)
    return {} if path is None else {"pointcloud.ply": lambda: cloud_bytes(Cloud.read(path, similarity))}


def write_wanted(makers: Mapping[str, Callable[[], bytes]], wanted: tuple[str, ...], workspace: Workspace) -> list[str]:
    """Names of the artifacts written."""
    names = [name for name in makers if name in wanted]
    for i, name in enumerate(names):
        workspace.progress(i / (len(names) + 1), f"Writing {name}")
        (workspace.outputs / name).write_bytes(makers[name]())
        workspace.finished(workspace.outputs / name)
    return names


def cloud_size(path: Path) -> int | None:
    """Points that a PLY header states; None without the file."""
    if not path.exists():
        return None
    with path.open("rb") as stream:
        header = stream.read(1024).decode("ascii", errors="replace")
    return int(header.partition("element vertex ")[2].split()[0])
