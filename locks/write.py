"""Writes down what edgedistill brings along: a lock for each extra, with versions and hashes, and an SBOM. Needs an index.

constraints.txt is the lock of all extras together; that of one extra, such as serve.txt, has the same versions; base.txt is without any.

python locks/write.py              keeps the versions that there are, except those that pyproject.toml no longer allows
python locks/write.py --upgrade    takes the newest ones
"""

import argparse
import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONSTRAINTS, SBOM = ROOT / "locks" / "constraints.txt", ROOT / "locks" / "edgedistill.cdx.json"
OURS = ("dev", "release")
"""Extras for work on edgedistill, which no user installs: they are in the constraints, not in the SBOM."""
_COMPILE = ("uv", "pip", "compile", "pyproject.toml", "--universal", "--python-version", "3.11", "--no-annotate", "--quiet")


def main() -> None:
    """Write all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    newest = ["--upgrade"] if parser.parse_args().upgrade else []
    locked = (*_COMPILE, "--generate-hashes", "--custom-compile-command", "make locks")
    _run(*locked, "--all-extras", *newest, "--output-file", str(CONSTRAINTS))
    for name in ("base", *extras(), *OURS):
        chosen = [] if name == "base" else ["--extra", name]
        _run(*locked, *chosen, "--constraint", str(CONSTRAINTS), "--output-file", str(lock(name)))
    every = [word for extra in extras() for word in ("--extra", extra)]
    packages = _run(*_COMPILE, *every, "--no-header", "--constraint", str(CONSTRAINTS))
    made = ("cyclonedx-py", "requirements", "-", "--pyproject", "pyproject.toml", "--output-reproducible", "--output-format", "JSON")
    sbom = json.loads(_run(*made, given=packages))
    for one in (*sbom["components"], *sbom["metadata"]["tools"]["components"]):
        one.pop("description", None)  # of a package, its line in `packages`
        one.pop("externalReferences", None)  # of a package, where an index would have it
    SBOM.write_text(json.dumps(sbom, indent=1) + "\n", encoding="utf-8")


def lock(extra: str) -> Path:
    """The file of an extra."""
    return CONSTRAINTS.with_name(f"{extra}.txt")


def extras() -> list[str]:
    """The extras that users install."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return [name for name in declared if name not in OURS]


def _run(program: str, *arguments: str, given: str | None = None) -> str:
    """What a program of this environment prints."""
    path = Path(sys.executable).with_name(program)
    done = subprocess.run([str(path), *arguments], cwd=ROOT, input=given, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode != 0:
        raise SystemExit(f"{program} {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    main()
