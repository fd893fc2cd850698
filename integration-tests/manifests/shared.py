"""What the checks share: where things are, how a program is run."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
SCRATCH = Path(tempfile.mkdtemp(prefix="tidegate-manifests-"))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)

# Settings of whoever runs this must not reach the binary, and colours must not reach what is read.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
ENVIRONMENT |= {"NO_COLOR": "1", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""}


def tidegate():
    path = Path(os.environ.get("TIDEGATE_BIN") or ROOT / "target/release/tidegate")
    if not os.access(path, os.X_OK):
        sys.exit(f"there is no binary at {path}: run `cargo build --release`, or set TIDEGATE_BIN")
    return path.resolve()


def run(*command, env=None, **more):
    """What the program said on both streams, and its exit code."""
    done = subprocess.run(
        [str(word) for word in command], env=ENVIRONMENT | (env or {}), stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=300, **more
    )
    return done.returncode, done.stdout, done.stderr


def complaint(*command):
    """A finding if the program does not end with 0 in silence on stderr."""
    code, out, err = run(*command)
    if code == 0 and not err.strip():
        return []
    words = " | ".join(line.strip() for line in (out + err).splitlines() if line.strip())
    return [f"{Path(command[0]).name}: exit {code}: {words}"]
