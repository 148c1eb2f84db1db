"""Names and media types of what a job delivers."""

MODEL_GLB = "model.glb"
REPORT = "report.json"

# artifact name -> (format, media type)
ARTIFACTS: dict[str, tuple[str, str]] = {
    MODEL_GLB: ("glb", "model/gltf-binary"),
    "model_obj.zip": ("obj", "application/zip"),
    "mesh.ply": ("ply", "application/octet-stream"),
    "pointcloud.ply": ("ply", "application/octet-stream"),
    "preview.png": ("png", "image/png"),
    "cameras.json": ("json", "application/json"),
    REPORT: ("json", "application/json"),
}
