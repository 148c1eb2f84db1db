"""The mvs worker: `python -m services.mvs`, or `python -m services.mvs run FOLDER` for one folder by hand."""

from shared.runtime.entrypoint import main

main("services.mvs.stage:MvsStage")
