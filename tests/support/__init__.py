"""What the tests of several folders share."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The work tree."""
CLIENTS = ROOT / ".local" / "clients"
"""Where tools/install.py puts AWS clients that conflict with this project's own packages."""
