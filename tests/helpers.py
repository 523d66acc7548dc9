"""What several tests share."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
SHARED = Path(os.environ.get("BLIND_SR_SHARED", ROOT.parent / "shared"))
"""Third-party data for measuring; tests that need it skip where it is absent."""
