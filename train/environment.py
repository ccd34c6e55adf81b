"""The environment of a run: library versions, devices, and git revision."""

import contextlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIBRARIES = tuple(
    "jax jaxlib libtpu jax-cuda12-plugin jax-cuda13-plugin flax optax orbax-checkpoint tensorstore grain tokenizers numpy".split()
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries, by name."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def environment(fingerprint: Mapping[str, str], origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of `environment.json`. `origin` is the start of the run (`train.cli.origin`)."""
    import jax

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        revision, dirty = git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except FileNotFoundError:  # git is not installed
        revision, dirty = None, False
    return {
        **origin,
        "versions": versions(),
        "devices": [f"{device.platform} {device.device_kind}" for device in jax.devices()],
        "git": {"revision": revision, "modified": dirty},
        "data": dict(fingerprint),
    }
