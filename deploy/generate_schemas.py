"""Writes pipelines/schemas/<stage>.json from services/<stage>: what the gateway checks options against without importing a service.

python -m deploy.generate_schemas
"""

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from shared.contracts.routing import STAGES

FOLDER = Path(__file__).parent.parent / "pipelines" / "schemas"

# Rules between options, which a class states in code and JSON Schema has to be told: at the door they are the caller's mistake,
# in a worker they would be ours. Keys are `stage` or `stage/definition`.
RULES: dict[str, dict[str, Any]] = {
    "segmentation": {
        "if": {"properties": {"mode": {"const": "onnx"}}, "required": ["mode"]},
        "then": {"properties": {"model": {"type": "object"}}, "required": ["model"]},
    },
    "segmentation/OnnxModel": {
        "oneOf": [
            {"properties": {"name": {"type": "string"}, "url": {"type": "null"}}, "required": ["name"]},
            {
                "properties": {"url": {"type": "string"}, "sha256": {"type": "string"}, "name": {"type": "null"}},
                "required": ["url", "sha256"],
            },
        ]
    },
}


def schema_text(stage: str) -> str:
    """The file of one stage: its name, the version of its code, and the JSON Schema of its params."""
    stage_class = _stage_class(stage)
    params: type[BaseModel] = stage_class.Params
    schema = params.model_json_schema()
    schema |= RULES.get(stage, {})
    for name, definition in schema.get("$defs", {}).items():
        definition.update(RULES.get(f"{stage}/{name}", {}))
    content = {"stage": stage, "version": stage_class.version, "params": schema}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _stage_class(stage: str) -> Any:
    module = importlib.import_module(f"services.{stage}.stage")
    classes = [value for _, value in inspect.getmembers(module, inspect.isclass) if value.__module__ == module.__name__]
    (found,) = [value for value in classes if getattr(value, "name", None) == stage and hasattr(value, "Params")]
    return found


def main() -> None:
    """Writes every stage's file."""
    FOLDER.mkdir(exist_ok=True)
    for stage in STAGES:
        (FOLDER / f"{stage}.json").write_text(schema_text(stage), encoding="utf-8")


if __name__ == "__main__":
    main()
