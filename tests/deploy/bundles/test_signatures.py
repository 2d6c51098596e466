"""Signed bundles: what is accepted, what is refused, and that the files that were verified are those that are opened."""

import base64
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import artifact_samples as samples
import numpy as np
import onnx_samples
import pytest
from PIL import Image
from waiting import PATIENCE, until

pytest.importorskip("model_signing")
pytest.importorskip("OpenSSL")
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing, verifying
from signing_samples import KeyPair, pair, signed

from deploy.bundles import snapshot
from deploy.bundles.bundle import Bundle
from deploy.bundles.manifest import MANIFEST, Manifest
from deploy.bundles.provenance import PROVENANCE, statement
from deploy.bundles.signature import SIGNATURE
from deploy.bundles.trust import Identity, Key, Trust
from deploy.errors import ArtifactError, ConfigError, Untrusted
from deploy.machine import files
from pipeline import cli

SIGNED = (MANIFEST, "engine.onnx", "model.onnx", "labels.txt", "README.md", PROVENANCE, SIGNATURE)
COMMANDS: dict[str, list[str]] = {
    "gate": [],
    "predict": ["PICTURE", "--out", "OUT"],
    "build": ["--out", "OUT"],
    "package": ["--out", "OUT"],
    "push": ["--repo", "me/cells", "--without-weights"],
    "serve": ["--check", "--set", "max_batch_size=1"],
}
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return pair(tmp_path_factory.mktemp("key"), "key")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return samples.bundle(tmp_path_factory.mktemp("signatures"))


@pytest.fixture(scope="module")
def original(bundle: Bundle, key: KeyPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return signed(bundle, tmp_path_factory.mktemp("signed") / "cells", key)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "cells"))


@pytest.fixture(autouse=True)
def _nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No private copy outlives its bundle."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    yield
    snapshot.remove_all()
    assert not list(scratch.glob("edgedistill-*"))


def gate(folder: Path, *options: object) -> int:
    return cli.main(["gate", str(folder), *map(str, options)])


def refused(capsys: Capture, code: int, expected: int = 4) -> str:
    """The one line of a refusal."""
    seen = capsys.readouterr()
    assert (code, seen.out) == (expected, ""), seen
    (line,) = seen.err.splitlines()
    assert line.startswith("edgedistill: ")
    assert len(line) < 700
    return line


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


class TestAccepted:
    @pytest.mark.parametrize("command", ["gate", "predict", "package", "serve"])
    def test_a_signed_bundle_by_the_commands(self, folder: Path, key: KeyPair, tmp_path: Path, capsys: Capture, command: str) -> None:
        code = cli.main(words(command, folder, tmp_path, "--trusted", str(key.public)))
        assert code == 0, capsys.readouterr().err
        printed = capsys.readouterr().out
        assert "scratch" not in printed
        assert command == "predict" or files.sha256(folder / MANIFEST) in printed

    @pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: str(curve.name))
    def test_keys_of_other_curves(self, bundle: Bundle, tmp_path: Path, curve: ec.EllipticCurve) -> None:
        other = pair(tmp_path / "keys", "other", curve=curve)
        assert Bundle.load(signed(bundle, tmp_path / "b", other), Trust.of([str(other.public)])).gated

    def test_one_of_several_signers(self, folder: Path, key: KeyPair, tmp_path: Path) -> None:
        other = pair(tmp_path / "keys", "other")
        assert gate(folder, "--trusted", other.public, "--trusted", key.public) == 0

    def test_an_encrypted_key(self, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        locked = pair(tmp_path / "keys", "locked", password=b"open sesame")
        monkeypatch.setenv("EDGEDISTILL_KEY_PASSWORD", "open sesame")
        made = signed(bundle, tmp_path / "b", locked)
        assert gate(made, "--trusted", locked.public) == 0
        monkeypatch.setenv("EDGEDISTILL_KEY_PASSWORD", "wrong")
        capsys.readouterr()
        assert "cannot sign" in refused(capsys, cli.main(["sign", str(made), "--key", str(locked.private)]), 2)

    def test_links_to_the_signed_files_as_hubs_and_kubernetes_make_them(self, folder: Path, key: KeyPair, tmp_path: Path) -> None:
        linked = tmp_path / "linked"
        linked.mkdir()
        for path in folder.iterdir():
            (linked / path.name).symlink_to(path)
        assert gate(linked, "--trusted", key.public) == 0

    def test_files_that_are_not_the_bundle_s(self, folder: Path, key: KeyPair, tmp_path: Path) -> None:
        (folder / "notes.txt").write_text("mine")
        (folder / "..data").mkdir()
        assert cli.main(["package", str(folder), "--out", str(tmp_path / "out"), "--trusted", str(key.public)]) == 0
        assert {path.name for path in (tmp_path / "out" / "bundle").iterdir()} == set(SIGNED)
        assert gate(tmp_path / "out" / "bundle", "--trusted", key.public) == 0

    def test_the_library_s_own_verification_accepts_it(self, folder: Path, key: KeyPair) -> None:
        (folder / "artifact.json").unlink()  # of the store, not of the bundle
        own = hashing.Config().set_ignored_paths(paths=[SIGNATURE])
        config = verifying.Config().use_elliptic_key_verifier(public_key=key.public).set_hashing_config(own)
        config.verify(folder, folder / SIGNATURE)

    def test_what_the_library_signed_by_itself(self, bundle: Bundle, key: KeyPair, tmp_path: Path) -> None:
        bare = tmp_path / "bare"
        bundle.copy(bare)
        signing.Config().use_elliptic_key_signer(private_key=key.private).sign(bare, tmp_path / "sig")
        (tmp_path / "sig").rename(bare / SIGNATURE)
        assert gate(bare, "--trusted", key.public) == 0

    def test_a_bundle_that_is_signed_again_is_signed_once(self, folder: Path, key: KeyPair) -> None:
        before = (folder / PROVENANCE).read_bytes()
        assert cli.main(["sign", str(folder), "--key", str(key.private)]) == 0
        assert (folder / PROVENANCE).read_bytes() == before
        assert gate(folder, "--trusted", key.public) == 0


def words(command: str, folder: Path, tmp_path: Path, *options: str) -> list[str]:
    Image.fromarray(onnx_samples.picture({(0, 1): 0})).save(tmp_path / "picture.png")
    places = {"PICTURE": str(tmp_path / "picture.png"), "OUT": str(tmp_path / "out")}
    return [command, str(folder), *(places.get(word, word) for word in COMMANDS[command]), *options]


class TestRefused:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_an_edited_manifest_by_every_command(self, folder: Path, key: KeyPair, tmp_path: Path, capsys: Capture, command: str) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["contract"]["classes"] = ["cat", "dog", "owl"]
        manifest["accuracy"]["per_class"] = {}
        samples.resign(folder, manifest)
        assert Bundle.load(folder).manifest.contract.classes == ("cat", "dog", "owl")  # without a key, as before
        line = refused(capsys, cli.main(words(command, folder, tmp_path, "--trusted", str(key.public))))
        assert f"{folder / MANIFEST}: is not the file that was signed" in line
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("field", Manifest.model_fields)
    def test_an_edit_of_any_field(self, folder: Path, key: KeyPair, capsys: Capture, field: str) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps({**manifest, field: None}))
        refused(capsys, gate(folder, "--trusted", key.public))

    @pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow)])
    def test_a_flipped_bit_anywhere(self, folder: Path, key: KeyPair, capsys: Capture, count: int) -> None:
        """What the signature does not cover is not used, so that it may change."""
        chosen = random.Random(30)
        names = sorted(path.name for path in folder.iterdir())
        assert set(names) == {*SIGNED, "artifact.json"}
        for _ in range(count):
            path = folder / chosen.choice(names)
            kept = path.read_bytes()
            flip(path, chosen.randrange(8 * len(kept)))
            if path.name in SIGNED:
                refused(capsys, gate(folder, "--trusted", key.public))
            else:
                assert gate(folder, "--trusted", key.public) == 0
                capsys.readouterr()
            path.write_bytes(kept)
        assert gate(folder, "--trusted", key.public) == 0

    @pytest.mark.parametrize("name", SIGNED)
    def test_a_missing_file(self, folder: Path, key: KeyPair, capsys: Capture, name: str) -> None:
        (folder / name).unlink()
        line = refused(capsys, gate(folder, "--trusted", key.public))
        assert ("is not signed (no model.sig)" if name == SIGNATURE else f"{folder / name}: No such file") in line

    def test_an_unsigned_bundle(self, bundle: Bundle, key: KeyPair, capsys: Capture) -> None:
        assert "is not signed (no model.sig), and --trusted requires it" in refused(capsys, gate(bundle.root, "--trusted", key.public))

    def test_a_bundle_signed_with_a_different_key(self, bundle: Bundle, key: KeyPair, tmp_path: Path, capsys: Capture) -> None:
        other = signed(bundle, tmp_path / "b", pair(tmp_path / "keys", "other"))
        capsys.readouterr()
        line = refused(capsys, gate(other, "--trusted", key.public))
        assert "is not signed by whom --trusted names" in line
        assert str(key.public) in line

    def test_a_different_key_that_claims_to_be_it(
        self, bundle: Bundle, key: KeyPair, folder: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        other = signed(bundle, tmp_path / "b", pair(tmp_path / "keys", "other"))
        forged, real = (json.loads((place / SIGNATURE).read_text()) for place in (other, folder))
        forged["verificationMaterial"] = real["verificationMaterial"]
        (other / SIGNATURE).write_text(json.dumps(forged))
        capsys.readouterr()
        assert "InvalidSignature" in refused(capsys, gate(other, "--trusted", key.public))

    def test_the_signature_of_a_different_bundle(self, folder: Path, key: KeyPair, tmp_path: Path, capsys: Capture) -> None:
        other = signed(samples.bundle_for_128_px(tmp_path / "large"), tmp_path / "b", key)
        shutil.copy(other / SIGNATURE, folder / SIGNATURE)
        capsys.readouterr()
        assert "is not the file that was signed" in refused(capsys, gate(folder, "--trusted", key.public))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda sig: sig | {"more": 1}, "is not as the signer wrote it"),
            (lambda sig: sig["verificationMaterial"].pop("publicKey") and sig, "signed by an identity, not with a key"),
            (lambda sig: sig["verificationMaterial"]["publicKey"].pop("hint") and sig, "'hint'"),
            (lambda sig: sig["dsseEnvelope"]["signatures"].append({}) or sig, "too many values"),
            (lambda sig: sig["dsseEnvelope"].update(payload="@@") or sig, "is not the signature of a bundle"),
            (lambda _: [], "is not the signature of a bundle"),
            (lambda _: {"dsseEnvelope": {"payload": base64.b64encode(b"[" * 5000).decode()}}, "nested more than"),
        ],
    )
    def test_a_signature_of_a_different_form(
        self, folder: Path, key: KeyPair, capsys: Capture, change: Callable[[Any], Any], message: str
    ) -> None:
        (folder / SIGNATURE).write_text(json.dumps(change(json.loads((folder / SIGNATURE).read_text()))))
        assert message in refused(capsys, gate(folder, "--trusted", key.public))

    @pytest.mark.parametrize("name", ["../key", "/etc/passwd", "a/b", ".hidden"])
    def test_a_signature_that_names_files_elsewhere(self, folder: Path, key: KeyPair, capsys: Capture, name: str) -> None:
        sig = json.loads((folder / SIGNATURE).read_text())
        payload = json.loads(base64.b64decode(sig["dsseEnvelope"]["payload"]))
        payload["predicate"]["resources"][0]["name"] = name
        sig["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
        (folder / SIGNATURE).write_text(json.dumps(sig))
        assert "is not the signature of a bundle" in refused(capsys, gate(folder, "--trusted", key.public))

    def test_a_signature_of_fewer_files(self, bundle: Bundle, key: KeyPair, tmp_path: Path, capsys: Capture) -> None:
        """The signer's own word: what it left out is not used."""
        for left_out, message in ((MANIFEST, f"does not cover {MANIFEST}"), ("engine.onnx", "engine.onnx: No such file")):
            bare = tmp_path / left_out
            bundle.copy(bare)
            own = hashing.Config().set_ignored_paths(paths=[left_out])
            config = signing.Config().use_elliptic_key_signer(private_key=key.private).set_hashing_config(own)
            config.sign(bare, tmp_path / "sig")
            (tmp_path / "sig").rename(bare / SIGNATURE)
            assert message in refused(capsys, gate(bare, "--trusted", key.public))

    def test_a_fifo_in_place_of_the_signature(self, folder: Path, key: KeyPair, capsys: Capture) -> None:
        (folder / SIGNATURE).unlink()
        os.mkfifo(folder / SIGNATURE)
        assert "a FIFO" in refused(capsys, gate(folder, "--trusted", key.public))

    def test_no_room_for_the_private_copy(self, folder: Path, key: KeyPair, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(folder / "missing"))
        assert "set TMPDIR" in refused(capsys, gate(folder, "--trusted", key.public))


def test_a_reference_must_be_signed_as_well(key: KeyPair, tmp_path: Path, capsys: Capture) -> None:
    gates = ({"metric": "bytes", "max_increase": 0.5},)
    made = samples.bundle(tmp_path / "made", gates)
    new, old = (signed(made, tmp_path / name, key) for name in ("new", "old"))
    capsys.readouterr()
    options = ("--reference", old, "--trusted", key.public)
    assert gate(new, *options) == 0, capsys.readouterr()
    (old / SIGNATURE).unlink()
    capsys.readouterr()
    assert f"{old}: is not signed" in refused(capsys, gate(new, *options))


class TestKeys:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "No such file or directory; pass a file with a public key, or an identity"),
            (b"", "has 0 public keys"),
            (b"-----BEGIN EC PRIVATE KEY-----\n", "is a private key, which stays with the signer"),
            (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "allowed: an elliptic curve's key in PEM"),
        ],
    )
    def test_a_file_that_is_no_public_key(self, folder: Path, tmp_path: Path, capsys: Capture, content: bytes | None, message: str) -> None:
        if content is not None:
            (tmp_path / "key").write_bytes(content)
        assert message in refused(capsys, gate(folder, "--trusted", tmp_path / "key"), 2)

    def test_two_keys_in_a_file(self, folder: Path, key: KeyPair, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "two").write_bytes(2 * key.public.read_bytes())
        assert "has 2 public keys in PEM, allowed: 1" in refused(capsys, gate(folder, "--trusted", tmp_path / "two"), 2)

    @pytest.mark.parametrize("name", ["rsa", "secp256k1"])
    def test_a_key_of_a_kind_that_signs_no_bundles(self, folder: Path, tmp_path: Path, capsys: Capture, name: str) -> None:
        odd = pair(tmp_path / "keys", name, curve=ec.SECP256K1())
        assert "allowed: an elliptic curve's key in PEM" in refused(capsys, gate(folder, "--trusted", odd.public), 2)
        assert "cannot sign" in refused(capsys, cli.main(["sign", str(folder), "--key", str(odd.private)]), 2)

    def test_identities(self) -> None:
        assert Trust.of(["me@example.com,https://accounts.google.com"]).signers == (
            Identity("me@example.com", "https://accounts.google.com"),
        )
        flow = "https://github.com/me/cells/.github/workflows/release.yml@refs/heads/main"
        assert Trust.of([flow]).signers == (Identity(flow, "https://token.actions.githubusercontent.com"),)
        for text in ("me@example.com", "https://example.com/flow"):
            with pytest.raises(ConfigError, match="an identity needs its issuer"):
                Trust.of([text])

    def test_an_identity_is_checked_by_the_library(
        self, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, key: KeyPair
    ) -> None:
        asked: list[dict[str, str]] = []

        def accept(config: Any, **given: str) -> Any:
            asked.append(given)
            return config.use_elliptic_key_verifier(public_key=key.public)

        me = "me@example.com,https://accounts.google.com"
        monkeypatch.setattr(verifying.Config, "use_sigstore_verifier", accept)
        assert gate(folder, "--trusted", me) == 0
        assert asked == [{"identity": "me@example.com", "oidc_issuer": "https://accounts.google.com"}]
        capsys.readouterr()

        def unreachable(*_: Any, **__: Any) -> None:
            raise ConnectionError("no route\nto host")

        monkeypatch.setattr(verifying.Config, "use_sigstore_verifier", unreachable)
        assert "identities cannot be checked here, no route to host" in refused(capsys, gate(folder, "--trusted", me))
        monkeypatch.setattr(signing.Config, "use_sigstore_signer", unreachable)
        line = refused(capsys, cli.main(["sign", str(folder), "--runs", str(folder.parent)]))
        assert "no identity to sign with (no route to host); connect to Sigstore, or pass --key FILE" in line

    def test_the_missing_extra_is_named(self, folder: Path, key: KeyPair, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "model_signing", None)
        line = "edgedistill: this needs model_signing, which is not installed; run: pip install 'edgedistill[signing]'"
        assert refused(capsys, gate(folder, "--trusted", key.public), 2) == line


class TestPin:
    def test_the_manifest_s_sha256(self, folder: Path, capsys: Capture) -> None:
        digest = files.sha256(folder / MANIFEST)
        for form in (digest, digest.upper(), f"sha256:{digest}"):
            assert gate(folder, "--sha256", form) == 0
        capsys.readouterr()
        assert f"its sha256 is {digest}, --sha256 allows {'0' * 64}" in refused(capsys, gate(folder, "--sha256", "0" * 64))
        assert "allowed: the 64 hexadecimal digits" in refused(capsys, gate(folder, "--sha256", "abc"), 2)

    def test_it_needs_no_signature_and_no_library(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "model_signing", None)
        digest = files.sha256(bundle.root / MANIFEST)
        assert Bundle.load(bundle.root, Trust.of(sha256=digest)).digest == digest

    def test_an_older_bundle_of_the_same_signer(self, folder: Path, key: KeyPair, capsys: Capture) -> None:
        options = ("--trusted", key.public, "--sha256", files.sha256(folder / MANIFEST))
        assert gate(folder, *options) == 0
        manifest = json.loads((folder / MANIFEST).read_text())
        samples.resign(folder, {**manifest, "description": "older"})
        assert cli.main(["sign", str(folder), "--key", str(key.private)]) == 0
        assert gate(folder, "--trusted", key.public) == 0
        capsys.readouterr()
        assert "--sha256 allows" in refused(capsys, gate(folder, *options))

    def test_neither_is_for_a_configuration(self, tmp_path: Path, key: KeyPair, capsys: Capture) -> None:
        (tmp_path / "pipeline.yaml").write_text("")
        for option in (("--trusted", key.public), ("--sha256", "0" * 64)):
            assert "are for a bundle" in refused(capsys, gate(tmp_path / "pipeline.yaml", *option), 2)


class TestFromCheckToUse:
    """Whoever can write the folder changes it after it was verified."""

    def test_the_files_that_were_verified_are_opened(self, folder: Path, key: KeyPair, tmp_path: Path) -> None:
        link = tmp_path / "current"
        link.symlink_to(folder)
        kept = {name: (folder / name).read_bytes() for name in SIGNED}
        loaded = Bundle.load(link, Trust.of([str(key.public)]))
        evil = tmp_path / "evil"
        shutil.copytree(samples.bundle_for_128_px(tmp_path / "large").root, evil)
        link.unlink()
        link.symlink_to(evil)
        for name in kept:
            (folder / name).write_bytes(b"evil")
        with loaded.open() as session:
            assert session.infer(np.zeros((1, 3, 64, 64), np.float32)).boxes.shape[0] == 1
        loaded.copy(tmp_path / "copied")
        assert {name: (tmp_path / "copied" / name).read_bytes() for name in SIGNED} == kept
        assert loaded.root == link

    @pytest.mark.parametrize("moment", [MANIFEST, "engine.onnx", "model.onnx", PROVENANCE])
    def test_a_link_that_is_moved_while_the_files_are_read(
        self, folder: Path, key: KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
    ) -> None:
        """Any mixture of two bundles, both signed, is refused."""
        link = tmp_path / "current"
        link.symlink_to(folder)
        other = signed(samples.bundle_for_128_px(tmp_path / "large"), tmp_path / "other", key)
        copy = files.copy

        def swap(source: Path, out: Path) -> Path:
            if source.name == moment:
                link.unlink()
                link.symlink_to(other)
            return copy(source, out)

        monkeypatch.setattr("deploy.machine.files.copy", swap)
        with pytest.raises(Untrusted, match="is not the file that was signed"):
            Bundle.load(link, Trust.of([str(key.public)]))

    def test_a_reference_that_is_kept_is_the_one_that_was_verified(
        self, folder: Path, key: KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        command = import_module("pipeline.commands.gate")
        judge = command.gate_bundle

        def edit(given: Bundle, options: Any) -> Any:
            found = judge(given, options)
            samples.resign(folder, {**json.loads((folder / MANIFEST).read_text()), "description": "evil"})
            return found

        monkeypatch.setattr(command, "gate_bundle", edit)
        assert gate(folder, "--trusted", key.public, "--save-reference", tmp_path / "kept") == 0
        assert gate(tmp_path / "kept" / "here", "--trusted", key.public) == 0

    def test_errors_name_the_folder_that_was_given(self, folder: Path, tmp_path: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / "engine.onnx").write_bytes(b"evil")
        with pytest.raises(ArtifactError) as caught:
            Bundle.load(folder, Trust(sha256=files.sha256(folder / MANIFEST)))
        assert str(caught.value).startswith(f"{folder / 'engine.onnx'}: its sha256 differs")
        samples.resign(folder, manifest, measured=False)
        with pytest.raises(ArtifactError, match=f"^{folder / 'engine.onnx'}"):
            Bundle.load(folder, Trust(sha256=files.sha256(folder / MANIFEST)))

    def test_sigterm_removes_the_private_copy(self, folder: Path, key: KeyPair, tmp_path: Path) -> None:
        scratch = tmp_path / "tmp"
        scratch.mkdir()
        rest = "import time, deploy.predict as p; p.predict_images = lambda *_, **__: time.sleep(60)"
        command = [sys.executable, "-c", f"{rest}\nfrom pipeline.cli import main; main()"]
        command += words("predict", folder, tmp_path, "--trusted", str(key.public))
        environment = {"PYTHONPATH": str(Path(cli.__file__).parents[1]), "TMPDIR": str(scratch)}
        running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        until(lambda: list(scratch.glob("edgedistill-*/cells/model.sig")), "the private copy")
        time.sleep(0.5)
        running.send_signal(signal.SIGTERM)
        assert running.wait(PATIENCE) == -signal.SIGTERM
        running.communicate()
        assert not list(scratch.glob("edgedistill-*"))


class TestProvenance:
    def test_it_is_an_in_toto_statement_about_every_file(self, folder: Path) -> None:
        found = json.loads((folder / PROVENANCE).read_text())
        manifest = Bundle.load(folder).manifest
        assert (found["_type"], found["predicateType"]) == ("https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1")
        assert {one["name"]: one["digest"]["sha256"] for one in found["subject"]} == {
            MANIFEST: files.sha256(folder / MANIFEST),
            **manifest.files,
        }

    def test_it_says_which_data_code_configuration_machine_and_figures(self, bundle: Bundle) -> None:
        config = {"config": {"train": {"epochs": 7}}, "identity": {"annotations": "e" * 64}, "plugins": {"stages/losses/l.py": "f" * 64}}
        manifest = bundle.manifest.model_copy(update={"data": ("d" * 64, 6)})
        found = statement(manifest, "0" * 64, {"distill-1": {**config, "inputs": {"dataset": "prepare-1"}}})
        build, run = found["predicate"]["buildDefinition"], found["predicate"]["runDetails"]
        named = {one["name"]: one for one in build["resolvedDependencies"]}
        assert named["images that accuracy was measured on"]["digest"] == {"sha256": "d" * 64}
        assert named["distill-1"]["annotations"]["identity"] == {"annotations": "e" * 64}
        assert named["stages/losses/l.py"]["digest"] == {"sha256": "f" * 64}
        assert named["numpy"]["uri"].startswith("pkg:pypi/numpy@")
        assert named["student"]["annotations"] == {"stage": "student"}
        assert build["externalParameters"]["stages"] == {"distill-1": {"config": config["config"], "inputs": {"dataset": "prepare-1"}}}
        assert build["externalParameters"]["plan"]["targets"][0]["name"] == "here"
        assert build["internalParameters"]["machine"] == manifest.machine
        figures = run["byproducts"][0]["annotations"]
        assert (figures["accuracy"]["map"], figures["verdicts"][0]["verdict"]) == (0.5, "pass")

    def test_a_commit_with_changes_is_named_without_them(self, bundle: Bundle) -> None:
        made = bundle.manifest.provenance.model_copy(update={"git_commit": f"{'a' * 40}-dirty"})
        found = statement(bundle.manifest.model_copy(update={"provenance": made}), "0" * 64, {})
        wanted = {"name": "working directory", "digest": {"gitCommit": "a" * 40}, "annotations": {"changed": True}}
        assert wanted in found["predicate"]["buildDefinition"]["resolvedDependencies"]

    def test_what_the_store_does_not_know_is_said(self, folder: Path, key: KeyPair, tmp_path: Path, capsys: Capture) -> None:
        assert cli.main(["sign", str(folder), "--key", str(key.private), "--runs", str(tmp_path)]) == 0
        assert "so the provenance has only the configuration in the manifest" in capsys.readouterr().err


def test_trust_is_nothing_by_default() -> None:
    assert not Trust()
    assert Trust((Key(Path("key")),))
    assert Trust(sha256="0" * 64)
