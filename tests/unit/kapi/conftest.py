"""Property tests here may be slow once (schemas are loaded by the first example)."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("kapi", deadline=None)
settings.load_profile("kapi")
