"""The component plugin: this project's components for programs in any Pulumi language."""

import sys
from pathlib import Path

from pulumi.provider import main

# The CLI clones the whole repository and runs this folder of it.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from hosted import Plugin

if __name__ == "__main__":
    main(Plugin("0.1.0"), sys.argv[1:])
