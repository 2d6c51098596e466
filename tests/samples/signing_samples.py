"""Keys, and bundles signed with them."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from deploy.bundles.bundle import Bundle
from pipeline import cli


@dataclass(frozen=True)
class KeyPair:
    """The files of a private and a public key."""

    private: Path
    public: Path


def pair(folder: Path, name: str, *, curve: ec.EllipticCurve | None = None, password: bytes | None = None) -> KeyPair:
    """A new key; of P-256 unless it is said otherwise, RSA's if `name` is that."""
    folder.mkdir(parents=True, exist_ok=True)
    made: Any = rsa.generate_private_key(65537, 2048) if name == "rsa" else ec.generate_private_key(curve or ec.SECP256R1())
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    public.write_bytes(made.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return KeyPair(private, public)


def signed(bundle: Bundle, out: Path, key: KeyPair) -> Path:
    """A copy of a bundle, signed."""
    shutil.copytree(bundle.root, out)
    assert cli.main(["sign", str(out), "--key", str(key.private), "--runs", str(out.parent)]) == 0
    return out
