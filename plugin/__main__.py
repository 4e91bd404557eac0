"""The component plugin: this project's components for programs in any Pulumi language."""

import sys
from pathlib import Path

from pulumi.provider.experimental import component_provider_host

# The CLI clones the whole repository and runs this folder of it.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from hosted import COMPONENTS

if __name__ == "__main__":
    component_provider_host(components=COMPONENTS, name="async-inference", version="0.1.0")
