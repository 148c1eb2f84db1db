"""A worker process of a fake stage, for tests that kill it: `python -m tests.support.fake_worker fake_stage:FakeSfm`."""

import sys

from shared.runtime.entrypoint import main

if __name__ == "__main__":
    main(f"tests.support.{sys.argv.pop(1)}")
