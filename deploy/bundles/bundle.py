"""A bundle is what gets deployed: a folder with an engine, its ONNX graph and a manifest with the sha256 of every file."""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Self

from deploy import machine, plugins
from deploy.bundles import consistency
from deploy.bundles.manifest import MANIFEST, Manifest, read_manifest
from deploy.bundles.provenance import PROVENANCE
from deploy.bundles.signature import SIGNATURE
from deploy.bundles.snapshot import Snapshot, take
from deploy.bundles.trust import ANYONE, Trust
from deploy.errors import ArtifactError, RuntimeUnavailable
from deploy.machine import files
from deploy.runtimes import Session
from deploy.runtimes.host_decoding.session import decoded
from deploy.runtimes.onnx_files import header


@dataclass(frozen=True)
class Bundle:
    """A folder with the files that its manifest lists.

    digest: the sha256 of manifest.json as it was read. snapshot: the private copy that was checked, if anything was required of the
    bundle; its files are then opened there, and `root` is only its name. num_rows: boxes that an answer has for each image; 0 if its files
    were not read.
    """

    root: Path
    manifest: Manifest
    digest: str = ""
    num_rows: int = field(default=0, compare=False)
    snapshot: Snapshot | None = field(default=None, compare=False, repr=False)

    @classmethod
    def load(cls, folder: str | PathLike[str], trust: Trust = ANYONE) -> Self:
        """Read a bundle and check every file.

        Args:
            trust: who must have signed it, and what its manifest's sha256 must be.

        Raises:
            Untrusted: it is not what `trust` requires.
            ArtifactError: the manifest or a file is missing, damaged or not the original.
        """
        root = Path(folder)
        if not trust:
            return cls(root, *_checked(root))
        snapshot = take(root, trust)
        with snapshot.named_as_given():
            return cls(root, *_checked(snapshot.folder), snapshot)

    def file(self, name: str) -> Path:
        """Where a file of the bundle is opened."""
        return (self.root if self.snapshot is None else self.snapshot.folder) / name

    def close(self) -> None:
        """Delete the private copy, if there is one; the bundle's files can then no longer be opened."""
        if self.snapshot is not None:
            self.snapshot.remove()

    def parts(self, name: str) -> tuple[str, ...]:
        """A graph and the files of its tensors; anything else is only itself."""
        if not name.endswith(header.ONNX_SUFFIX):
            return (name,)
        return (name, *header.external(self.file(name), files.read_bytes(self.file(name))))

    def copy(self, out: Path) -> None:
        """Copy manifest, the files that it lists, signature and provenance into `out`, a new folder; anything else stays behind."""
        out.mkdir(parents=True)
        for name in (MANIFEST, *self.manifest.files, *(name for name in (PROVENANCE, SIGNATURE) if self.file(name).is_file())):
            files.copy(self.file(name), out / name)

    @property
    def gated(self) -> bool:
        """Whether it was measured, has at least one gate and passed every gate."""
        verdicts = self.manifest.verdicts
        return self.manifest.why is None and bool(verdicts) and all(one.verdict == "pass" for one in verdicts)

    def refuse_ungated(self) -> None:
        """Refuse to deploy a bundle that has not passed its gates.

        Raises:
            ArtifactError: naming the first such gate.
        """
        self._refuse(self.why_ungated())

    def refuse_ungated_here(self) -> None:
        """As `refuse_ungated`, and also refuse if the gates passed on a different kind of machine.

        Raises:
            ArtifactError: naming the reason.
        """
        self._refuse(self.why_ungated_here())

    def why_ungated(self) -> str | None:
        """The first gate that has not passed, or the reason why there is none; None if all have passed."""
        if self.gated:
            return None
        bad = next((one for one in self.manifest.verdicts if one.verdict != "pass"), None)
        if bad is not None:
            return f"gate '{bad.name}' is {bad.verdict}"
        has_gates = any(gate.get("target") in (None, self.manifest.target) for gate in self.manifest.plan.gates)
        return self.manifest.why or ("none of its gates was judged when it was packaged" if has_gates else "no gate was set")

    def why_ungated_here(self) -> str | None:
        """As `why_ungated`; otherwise how this machine differs from the one where the gates passed.

        Compared are the operating system, the processor's model, its instructions, of which bundles of earlier versions say nothing, and
        the GPU: not the number of cores, memory, clock or versions.
        """
        if (reason := self.why_ungated()) is not None:
            return reason
        here, there = machine.identity(), self.manifest.machine
        for key in ("platform", "cpu", *({"cpu_features"} & there.keys()), "gpu"):
            if here.get(key) != there.get(key):
                none = f"no {key.replace('_', ' ')}"
                judged, own = there.get(key) or none, here.get(key) or none
                return f"its gates passed on a machine with {judged}, and this one has {own}; judge it here: {self._again()}"
        return None

    def _again(self) -> str:
        return f"edgedistill build {self.root} --target {self.manifest.target} --data DIR --out DIR"

    def _refuse(self, reason: str | None) -> None:
        if reason is not None:
            raise ArtifactError(f"{self.root}: {reason}; pass --allow-ungated to use it anyway")

    def open(self, *, threads: int | None = None) -> Session:
        """Open the engine.

        Raises:
            RuntimeUnavailable: it cannot run on this machine.
            ArtifactError: there is no engine, or it is damaged or was built on a different machine.
        """
        try:
            runtime = plugins.load("deploy.runtimes", self.manifest.runtime)
        except ValueError as error:
            raise ArtifactError(f"{self.root}: {error}") from error
        missing = runtime.why_not()
        if missing is not None:
            raise RuntimeUnavailable(f"{self.root}: {missing}")
        advice = f"build it here: {self._again()}"
        if self.manifest.engine is None:
            raise ArtifactError(f"{self.root}: holds no engine ({self.manifest.why}); {advice}")
        foreign = runtime.foreign(self.manifest.fingerprint)
        if foreign is not None:
            raise ArtifactError(f"{self.root}: its engine was {foreign}; {advice}")
        with nullcontext() if self.snapshot is None else self.snapshot.named_as_given():
            session: Session = runtime.open(self.file(self.manifest.engine), threads=threads, options=self.manifest.options)
        return decoded(session, self.manifest.contract)


def write(folder: Path, manifest: Manifest, names: Iterable[str]) -> Bundle:
    """Write manifest.json with the sha256 of `names`, files which are already in the folder."""
    whole = manifest.model_copy(update={"files": {name: sha256(folder / name) for name in sorted(names)}})
    (folder / MANIFEST).write_text(whole.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return Bundle(folder, whole, sha256(folder / MANIFEST))


def _checked(folder: Path) -> tuple[Manifest, str, int]:
    """The manifest of a folder, its sha256 and the rows of its answers, after every file was compared with it, and it with itself."""
    manifest, digest = read_manifest(folder)
    for name, expected in manifest.files.items():
        if sha256(folder / name) != expected:
            raise ArtifactError(f"{folder / name}: its sha256 differs from the manifest's; copy the bundle again")
    unlisted = {manifest.onnx, *([manifest.engine] if manifest.engine else [])} - set(manifest.files)
    if unlisted:
        raise ArtifactError(f"{folder / MANIFEST}: names {min(unlisted)} without its sha256; package again")
    graphs = sorted(name for name in manifest.files if name.endswith(header.ONNX_SUFFIX))
    headers = {name: _check_graph(folder, name, manifest) for name in graphs}
    problem = next(consistency.problems(manifest, consistency.engine_size(folder, manifest)), None)
    if problem is not None:
        raise ArtifactError(f"{folder / MANIFEST}: contradicts itself: {problem}; package again")
    return manifest, digest, consistency.num_rows(manifest, headers.get(manifest.onnx))


def _check_graph(folder: Path, name: str, manifest: Manifest) -> header.Header:
    """The graph's header; refused if tensors are in files that the manifest does not list, or if it does not fit the manifest."""
    file = folder / name
    content = files.read_bytes(file)
    unlisted = next((one for one in header.external(file, content) if one not in manifest.files), None)
    if unlisted is not None:
        raise ArtifactError(f"{file}: a tensor is in {unlisted}, which {MANIFEST} does not list; export it with all tensors inside")
    found, engine = header.header_of(file, content), name != manifest.onnx
    problem = next(consistency.graph_problems(manifest, found, engine=engine), None)
    if problem is not None and name in (manifest.onnx, manifest.engine):
        raise ArtifactError(f"{file}: does not fit {MANIFEST}: {problem}; package again")
    return found


def sha256(path: Path) -> str:
    """A file's hash.

    Raises:
        ArtifactError: it cannot be read.
    """
    try:
        return files.sha256(path)
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}") from error
