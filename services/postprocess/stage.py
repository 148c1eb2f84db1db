"""The postprocess stage: isolate, fit the surface, clean, unwrap, paint, place."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel

from services.postprocess.params import PostprocessParams
from shared.contracts.manifest import StageReport, Warning
from shared.errors import PermanentError
from shared.photo_names import names_in_job
from shared.runtime.workspace import Workspace

if TYPE_CHECKING:  # native libraries load inside `run` alone, in the child process
    from services.postprocess.capture import Camera, Cloud
    from services.postprocess.free_space import FreeSpace
    from services.postprocess.isolation import Subject
    from services.postprocess.membrane import Restored
    from services.postprocess.surface import Mesh

MIN_POINTS = 500
MIN_FACES = 50
LOW_PSNR_DB = 20.0


class PostprocessStage:
    """A dense cloud, cameras and photos in; one clean, textured mesh and its place in the model's frame out."""

    name: ClassVar[str] = "postprocess"
    version: ClassVar[str] = "5"
    Params: ClassVar[type[BaseModel]] = PostprocessParams
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "sfm": ("cameras.json", "images/*", "masks/*"),
        "mvs": ("pointcloud.ply", "roi.json", "depth/*.npz"),
    }

    def run(self, workspace: Workspace, params: PostprocessParams) -> StageReport:
        """Writes mesh.npz, texture.png, similarity.json and pointcloud.ply (README.md has their layouts)."""
        import shared.lean_open3d  # noqa: F401  before the modules that import open3d
        from services.postprocess.capture import read_cameras, read_cloud, write_cloud
        from services.postprocess.contradiction import looked_through
        from services.postprocess.omissions import find_omissions, sample_of

        params = reduced(params, workspace.reduction)
        workspace.progress(0.0, "Reading the dense cloud")
        order = names_in_job(workspace.request(), workspace.earlier_steps())
        cameras = read_cameras(workspace.inputs("sfm"), order)
        cloud = read_cloud(workspace.inputs("mvs") / "pointcloud.ply")
        _require(len(cloud) >= MIN_POINTS and len(cameras) > 0)
        workspace.progress(0.05, "Looking for the object")
        subject = find_subject(cloud, cameras, workspace, params)
        cloud = sample_of(cloud)  # the rest is needed no more
        _require(len(subject.cloud) >= MIN_POINTS)
        write_cloud(workspace.outputs / "pointcloud.ply", subject.cloud)
        workspace.finished(workspace.outputs / "pointcloud.ply")
        built = build_mesh(subject, cameras, params, workspace)
        mesh, refined = refine_mesh(built.mesh, subject, cameras, params, workspace)
        free_space = free_space_of(cameras, workspace)
        lacking = find_omissions(mesh, cloud, subject, cameras, free_space).as_summary()
        contradicted = {"looked_through": round(looked_through(mesh, free_space), 4)}
        summary = refined | lacking | contradicted | dress(mesh, subject, cameras, params, workspace)
        return StageReport(
            summary={
                "points": len(subject.cloud),
                "isolated": subject.isolated,
                "isolation": params.isolation,
                "support_plane": subject.plane is not None,
                "invented_share": round(built.invented_share(), 4),
                "holes_closed": built.holes,
                **summary,
            },
            warnings=_warnings(summary),
            engines={name: version(name) for name in ("open3d", "pymeshlab", "fast_simplification", "xatlas", "numba")},
        )


def reduced(params: PostprocessParams, reduction: int) -> PostprocessParams:
    """Coarser after a try that ran out of memory."""
    if reduction == 0:
        return params
    smaller = {
        "poisson_depth": max(6, params.poisson_depth - 1),
        "texture_size": max(256, params.texture_size // 4),  # a limit that is seldom reached
        "point_limit": max(10_000, params.point_limit // 2),
    }
    return params.model_copy(update=smaller)


def find_subject(cloud: "Cloud", cameras: "list[Camera]", workspace: Workspace, params: PostprocessParams) -> "Subject":
    """The object alone where the cameras orbit one, the whole scene elsewhere."""
    from dataclasses import replace

    from services.postprocess.focus import find_focus
    from services.postprocess.isolation import isolate, keep_scene
    from services.postprocess.surface import thin

    focus, free_space = find_focus(cameras), free_space_of(cameras, workspace)
    orbited = params.isolation == "object" or (params.isolation == "auto" and _orbited(workspace, focus.orbited))
    subject = isolate(cloud, focus, free_space, params.seed, params.close_underside) if orbited else keep_scene(cloud, cameras, free_space)
    return replace(subject, cloud=thin(subject.cloud, params.point_limit, params.seed))


def free_space_of(cameras: "list[Camera]", workspace: Workspace) -> "FreeSpace":
    """What the depth maps of mvs know to be empty."""
    from services.postprocess.free_space import FreeSpace

    return FreeSpace(cameras, workspace.inputs("mvs") / "depth")


def _orbited(workspace: Workspace, seems_so: bool) -> bool:
    """What mvs found, or else what the cameras' axes say."""
    path = workspace.inputs("mvs") / "roi.json"
    found = json.loads(path.read_bytes()).get("orbit") if path.exists() else None
    return found if isinstance(found, bool) else seems_so


def build_mesh(subject: "Subject", cameras: "list[Camera]", params: PostprocessParams, workspace: Workspace) -> "Restored":
    """The cleaned surface within the triangle budget, and which of it no point supports."""
    import numpy as np

    from services.postprocess.cleaning import clean
    from services.postprocess.free_space import OpenAir
    from services.postprocess.membrane import Restored, stretch_unsupported
    from services.postprocess.seen_ground import find_seen_ground
    from services.postprocess.surface import EMPTY_MARGIN, reconstruct

    workspace.progress(0.10, "Fitting the surface")
    free_space = free_space_of(cameras, workspace)
    margin = EMPTY_MARGIN * float(np.linalg.norm(np.ptp(subject.cloud.points, axis=0)))
    mesh = reconstruct(subject, params.poisson_depth, params.density_trim, free_space)
    _require(len(mesh.faces) >= MIN_FACES)
    workspace.progress(0.40, "Cleaning the mesh")
    closed = subject.isolated and params.close_underside
    mesh = clean(mesh, params.triangles, closed, lambda patch: not free_space.mostly_free(patch, margin))
    _require(len(mesh.faces) >= MIN_FACES)
    if not closed:
        return Restored(mesh, np.zeros(len(mesh.vertices), bool), 0)
    workspace.progress(0.43, "Closing what no photo saw")
    air = OpenAir(free_space, find_seen_ground(cameras, subject.plane, subject.cloud.points), margin)
    return stretch_unsupported(mesh, subject, air.holds)


def refine_mesh(
    mesh: "Mesh", subject: "Subject", cameras: "list[Camera]", params: PostprocessParams, workspace: Workspace
) -> "tuple[Mesh, dict[str, object]]":
    """The mesh moved to where the photos agree, and the step's numbers; as it is where photos say nothing."""
    from services.postprocess.refinement import refine
    from services.postprocess.surface import flatten_underside

    workspace.progress(0.45, "Refining the surface against the photos")
    found = refine(
        mesh,
        cameras,
        params.refinement_rounds,
        lambda f: workspace.progress(0.45 + 0.05 * f, "Refining the surface against the photos"),
    )
    return (mesh, {}) if found is None else (flatten_underside(found.mesh, subject), found.as_summary())


def dress(mesh: "Mesh", subject: "Subject", cameras: "list[Camera]", params: PostprocessParams, workspace: Workspace) -> dict[str, object]:
    """Atlas, texture and placement; returns the stage's numbers."""
    import cv2
    import numpy as np

    from services.postprocess.atlas import open_edges, unwrap, vertex_normals
    from services.postprocess.cleaning import is_watertight
    from services.postprocess.holdout import held_out_psnr
    from services.postprocess.placement import place
    from services.postprocess.texturing import fitting_size, paint

    normals = vertex_normals(mesh)
    workspace.progress(0.50, "Unfolding the mesh into a texture atlas")
    size = fitting_size(mesh, cameras, params.texture_size)
    uv = unwrap(mesh, size)
    workspace.progress(0.70, "Painting the texture from the photos")
    texture = paint(
        mesh,
        normals,
        uv,
        size,
        cameras,
        params.texture_views,
        params.seed,
        lambda f: workspace.progress(0.7 + 0.2 * f, "Painting"),
    )
    similarity = place(mesh.vertices, cameras, subject.plane)
    np.savez(workspace.outputs / "mesh.npz", vertices=mesh.vertices, faces=mesh.faces, uv=uv, normals=normals)
    cv2.imwrite(str(workspace.outputs / "texture.png"), texture.pixels[..., ::-1])
    (workspace.outputs / "similarity.json").write_text(json.dumps({**similarity.as_json(), "isolated": subject.isolated}))
    for name in ("mesh.npz", "texture.png"):
        workspace.finished(workspace.outputs / name)  # they go up beside the comparison
    workspace.progress(0.92, "Comparing the model with photos kept out")
    psnr = held_out_psnr(mesh, normals, cameras, params.hold_out_every, params.texture_views, params.seed)
    return {
        "vertices": len(mesh.vertices),
        "triangles": len(mesh.faces),
        "watertight": is_watertight(mesh),
        "open_edges": open_edges(mesh),
        "texture_size": size,
        "texture_seen": round(texture.seen, 4),
        "texels_per_unit": round(texture.density / similarity.scale, 2),
        "exposure_spread": round(float(np.exp(np.log(texture.gains).std())), 4),
        "held_out_psnr_db": None if psnr is None else round(psnr, 2),
    }


def _require(enough: bool) -> None:
    if not enough:
        raise PermanentError("NO_SURFACE")


def _warnings(summary: dict[str, object]) -> tuple[Warning, ...]:
    psnr = summary["held_out_psnr_db"]
    if isinstance(psnr, float) and psnr < LOW_PSNR_DB:
        message = f"The model predicts photos that were kept out only roughly ({psnr} dB)."
        return (Warning(code="LOW_FIDELITY", message=message, hint="Take sharper photos with more overlap, in constant light."),)
    return ()
