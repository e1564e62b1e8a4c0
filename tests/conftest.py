"""Tests use the committed data only, and write to temporary folders only."""

import os
import tempfile

import hypothesis
import pytest
import torch

# Set before any kernel starts, so that notebooks executed by papermill inherit it.
os.environ["TNLIB_RESULTS"] = tempfile.mkdtemp(prefix="tnlib-results-")
os.environ.pop("TNLIB_MIRROR", None)

hypothesis.settings.register_profile(
    "workbook", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("workbook")


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty cache, no mirror, no npm client, and a network that refuses; returns the cache folder."""
    import requests

    def refuse(*args, **kwargs):
        raise requests.ConnectionError("network is unreachable")

    monkeypatch.setenv("TNLIB_DATA", str(tmp_path / "cache"))
    monkeypatch.delenv("TNLIB_MIRROR", raising=False)
    monkeypatch.setattr(requests, "get", refuse)
    monkeypatch.setattr("shutil.which", lambda name, *a, **k: None)
    return tmp_path / "cache"
