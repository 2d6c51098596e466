"""Whom a bundle is accepted from: keys and identities that may have signed it, and the sha256 of its manifest."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from deploy.errors import ConfigError
from deploy.machine import files

_ISSUERS = {"https://github.com/": "https://token.actions.githubusercontent.com", "https://gitlab.com/": "https://gitlab.com"}
"""Who certifies the workflows of a site, which only one issuer does."""
_MOST = 2**16
"""Bytes that the file of a key may have."""


@dataclass(frozen=True)
class Key:
    """A public key, in a PEM file."""

    file: Path

    def __str__(self) -> str:
        return str(self.file)


@dataclass(frozen=True)
class Identity:
    """A person or a workflow, and the OpenID Connect issuer that certified it."""

    name: str
    issuer: str

    def __str__(self) -> str:
        return f"{self.name},{self.issuer}"


Signer = Key | Identity


@dataclass(frozen=True)
class Trust:
    """What is required of a bundle; nothing by default.

    signers: one of them must have signed it. sha256: what its manifest.json must have.
    """

    signers: tuple[Signer, ...] = ()
    sha256: str | None = None

    @classmethod
    def of(cls, trusted: Iterable[str] = (), sha256: str | None = None) -> Self:
        """From the command line: --trusted, repeated, and --sha256.

        Raises:
            ConfigError: one of them has no meaning, or a file is not that of one public key.
        """
        return cls(tuple(map(_signer, trusted)), None if sha256 is None else _sha256(sha256))

    def __bool__(self) -> bool:
        return bool(self.signers) or self.sha256 is not None


ANYONE = Trust()


def _signer(text: str) -> Signer:
    path = Path(text)
    if path.exists() or not ("://" in text or "@" in text):
        _check_key(text, path)
        return Key(path)
    name, found, issuer = text.rpartition(",https://")
    if found:
        return Identity(name, f"https://{issuer}")
    known = next((issuer for site, issuer in _ISSUERS.items() if text.startswith(site)), None)
    if known is None:
        raise ConfigError(f"--trusted {text}: an identity needs its issuer, for example {text},https://accounts.google.com")
    return Identity(text, known)


def _check_key(text: str, path: Path) -> None:
    try:
        content = files.read_bytes(path, most=_MOST)
    except OSError as error:
        hint = "; pass a file with a public key, or an identity such as me@example.com,https://accounts.google.com"
        raise ConfigError(f"--trusted {text}: {error.strerror}{hint}") from error
    if b"PRIVATE KEY-----" in content:
        raise ConfigError(f"--trusted {text}: is a private key, which stays with the signer; pass the public one")
    if (num := content.count(b"-----BEGIN PUBLIC KEY-----")) != 1:
        raise ConfigError(f"--trusted {text}: has {num} public keys in PEM, allowed: 1; for several signers, repeat --trusted")


def _sha256(text: str) -> str:
    digest = text.strip().lower().removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ConfigError(f"--sha256 {text}: allowed: the 64 hexadecimal digits that package, gate and serve print")
    return digest
