"""The segmentation worker; `run FOLDER` runs the stage by hand."""

from shared.runtime.entrypoint import main

if __name__ == "__main__":
    main("services.segmentation.stage:SegmentationStage")
