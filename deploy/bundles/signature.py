"""model.sig: a bundle's signature in the OpenSSF's format for models, which its own program `model_signing` also checks.

It is a Sigstore bundle: an in-toto statement with the sha256 of every file, in a DSSE envelope.
"""

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from deploy.bundles.manifest import FileName, Sha256
from deploy.bundles.trust import Key, Signer
from deploy.errors import ArtifactError, ConfigError, Untrusted, in_one_line
from deploy.machine import files
from deploy.machine.documents import parse_json

SIGNATURE = "model.sig"
_MOST = 2**22
"""Bytes that a signature may have."""
_CURVES = "an elliptic curve's key in PEM, of P-256, P-384 or P-521"


def read(path: Path) -> tuple[bytes, dict[str, str]]:
    """A signature's bytes, and the files that it claims to cover with their sha256: nothing of that is verified yet.

    Raises:
        Untrusted: there is none, or it is not one.
    """
    try:
        content = files.read_bytes(path, most=_MOST)
    except FileNotFoundError as error:
        raise Untrusted(f"{path.parent}: is not signed (no {path.name}), and --trusted requires it; edgedistill sign signs it") from error
    except OSError as error:
        raise Untrusted(f"{path}: {error.strerror}; sign the bundle again") from error
    try:
        return content, _named(_payload(parse_json(content))["predicate"]["resources"])
    except (ValueError, LookupError, TypeError) as error:
        raise Untrusted(f"{path}: is not the signature of a bundle ({in_one_line(error)}); sign it with edgedistill sign") from error


def verify(folder: Path, signature: Path, signers: Iterable[Signer]) -> None:
    """Check that one of the signers signed exactly the files of a folder.

    Raises:
        Untrusted: none did.
        ConfigError: the key cannot verify signatures.
    """
    reasons = [f"{signer}: {reason}" for signer in signers if (reason := _why_not(folder, signature, signer)) is not None]
    if len(reasons) == len(tuple(signers)):
        raise Untrusted(f"{folder}: is not signed by whom --trusted names ({'; '.join(reasons)})")


def sign(folder: Path, signature: Path, key: Path | None, password: str | None = None) -> None:
    """Sign the files of a folder.

    Args:
        signature: the file to write, outside the folder.
        key: a private key in PEM; None: as the person or the workflow that this runs for, which needs a network.
        password: of the key, if it is encrypted.

    Raises:
        ConfigError: the key cannot be used.
        ArtifactError: the identity cannot be established.
    """
    from model_signing import signing

    config = signing.Config()
    if key is not None:
        try:
            given: Any = None if password is None else password.encode()  # the library passes it on to one that takes bytes only
            config.use_elliptic_key_signer(private_key=key, password=given).sign(folder, signature)
        except OSError as error:
            raise ConfigError(f"--key {key}: {error.strerror}") from error
        except Exception as error:
            raise ConfigError(f"--key {key}: cannot sign ({in_one_line(error)}); allowed: {_CURVES}") from error
        return
    try:
        config.use_sigstore_signer(use_ambient_credentials=True).sign(folder, signature)
    except Exception as error:
        raise ArtifactError(f"no identity to sign with ({in_one_line(error)}); connect to Sigstore, or pass --key FILE") from error


def _why_not(folder: Path, signature: Path, signer: Signer) -> str | None:
    """Why a folder does not count as signed by this signer; None if it does."""
    from model_signing import verifying

    config = verifying.Config()
    try:
        if isinstance(signer, Key):
            config.use_elliptic_key_verifier(public_key=signer.file)
        else:
            config.use_sigstore_verifier(identity=signer.name, oidc_issuer=signer.issuer)
    except Exception as error:
        if isinstance(signer, Key):
            raise ConfigError(f"--trusted {signer}: {in_one_line(error)}; allowed: {_CURVES}") from error
        return f"identities cannot be checked here, {in_one_line(error)}"
    try:
        if isinstance(signer, Key) and (reason := _why_not_of_a_key(parse_json(files.read_bytes(signature)))) is not None:
            return reason
        config.verify(folder, signature)
    except Exception as error:  # noqa: BLE001 - whatever the library raises, the signature is not verified
        return in_one_line(error)
    return None


def _named(resources: Any) -> dict[str, str]:
    """The sha256 of the files that a statement lists."""
    named = TypeAdapter(dict[FileName, Sha256]).validate_python({one["name"]: one["digest"] for one in resources})
    if len(named) != len(resources) or any(one["algorithm"] != "sha256" for one in resources):
        raise ValueError("a file is named twice, or hashed with something else than sha256")
    return named


def _payload(envelope: Any) -> Any:
    """The statement in a signature."""
    return parse_json(base64.b64decode(envelope["dsseEnvelope"]["payload"], validate=True))


def _why_not_of_a_key(given: Any) -> str | None:
    """Why a signature is not one as a key makes it: only its payload is signed, so nothing else in it may differ."""
    if "publicKey" not in given["verificationMaterial"]:
        return "it is signed by an identity, not with a key"
    payload, (signed,) = given["dsseEnvelope"]["payload"], given["dsseEnvelope"]["signatures"]
    envelope = {"payload": _same(payload), "payloadType": "application/vnd.in-toto+json", "signatures": [{"sig": _same(signed["sig"])}]}
    hint = given["verificationMaterial"]["publicKey"]["hint"]
    media = "application/vnd.dev.sigstore.bundle.v0.3+json"
    expected = {"mediaType": media, "verificationMaterial": {"publicKey": {"hint": hint}}, "dsseEnvelope": envelope}
    return None if _filled(given) == expected else f"{SIGNATURE} is not as the signer wrote it"


def _same(text: str) -> str:
    """Base64 in its only canonical form."""
    return base64.b64encode(base64.b64decode(text, validate=True)).decode()


def _filled(value: Any) -> Any:
    """A document without empty values, which releases of the library write or leave out."""
    if isinstance(value, dict):
        return {key: inner for key, one in value.items() if (inner := _filled(one)) not in (None, "", [], {})}
    return [_filled(one) for one in value] if isinstance(value, list) else value
