"""The file of a saved network: a zip of a manifest, libraries and weights, with a checksum of every part.

The checksums find damage. They don't say who wrote a file, and its machine code runs with the rights of whoever loads
it: load only what you would run.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from haste_compiler.errors import ArtifactError, ArtifactVersionError, DamagedArtifactError
from haste_compiler.files import replacing
from haste_compiler.methods.registry import names

FORMAT = "haste-artifact"
FORMAT_VERSION = 3
"""Counts up when an older version of the package couldn't read what is written."""

WEIGHTS = "weights.safetensors"
"""The part that holds weights and tables."""

_MANIFEST, _CHECKSUM = "manifest.json", "manifest.sha256"


def write_artifact(path: str | PathLike[str], manifest: Mapping[str, Any], parts: Mapping[str, Path]) -> None:
    """Write a manifest and files into one zip, under another name first: there never is half a file called ``path``.

    Args:
        path: of the zip.
        manifest: JSON-able; gets the format, its version, and size and checksum of every part.
        parts: files to be put in, by their names in the zip.

    Raises:
        ArtifactError: the file can't be written.
    """
    path = Path(path)
    described = {name: {"bytes": part.stat().st_size, "sha256": _digest(part)} for name, part in parts.items()}
    whole = {"format": FORMAT, "format_version": FORMAT_VERSION, **manifest, "files": described}
    text = json.dumps(whole, indent=1, allow_nan=False).encode()
    try:
        with replacing(path) as made, made.open("wb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                # Entries made this way bear no date: the same network gives the same file.
                archive.writestr(zipfile.ZipInfo(_MANIFEST), text)
                archive.writestr(zipfile.ZipInfo(_CHECKSUM), hashlib.sha256(text).hexdigest())
                for name, part in parts.items():
                    archive.writestr(zipfile.ZipInfo(name), part.read_bytes())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ArtifactError(f"{path} can't be written: {error.strerror or error}") from None


class Artifact:
    """An open file; a context manager. Every part is checked as it is read.

    Args:
        path: of the file.

    Attributes:
        manifest: what the file says of itself.

    Raises:
        ArtifactError: the file can't be read.
        DamagedArtifactError: it is no artifact, or altered.
        ArtifactVersionError: it has a newer format.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._archive = zipfile.ZipFile(self.path)
        except OSError as error:
            raise ArtifactError(f"{self.path} can't be read: {error.strerror or error}") from None
        except Exception:
            # Not only BadZipFile: what zipfile makes of damaged headers, it raises as it comes.
            begun = self.path.read_bytes()[:2] == b"PK"
            reason = "the file is cut short" if begun else "it is no zip"
            raise DamagedArtifactError(f"{self.path} is no saved network: {reason}") from None
        try:
            self.manifest = self._read_manifest()
        except BaseException:
            self._archive.close()
            raise

    def __enter__(self) -> Artifact:
        return self

    def __exit__(self, *exception: object) -> None:
        self._archive.close()

    def part(self, name: str) -> bytes:
        """One of the files in it.

        Raises:
            DamagedArtifactError: it isn't what was written.
        """
        data = self._read(name)
        expected = self.manifest["files"].get(name, {}).get("sha256")
        if hashlib.sha256(data).hexdigest() != expected:
            raise DamagedArtifactError(f"{self.path} is damaged: {name} isn't what was written")
        return data

    def check(self) -> None:
        """Check every part.

        Raises:
            DamagedArtifactError: one isn't what was written.
        """
        for name in self.manifest["files"]:
            self.part(name)

    def _read_manifest(self) -> dict[str, Any]:
        if _MANIFEST not in self._archive.namelist():
            raise DamagedArtifactError(f"{self.path} is no saved network: a zip without {_MANIFEST}")
        text = self._read(_MANIFEST)
        try:
            manifest = json.loads(text)
            known = manifest["format"] == FORMAT
            version = int(manifest["format_version"])
        except (ValueError, KeyError, TypeError):
            known, version = False, 0
        if not known:
            raise DamagedArtifactError(f"{self.path} is no saved network: {_MANIFEST} says nothing of one")
        if version > FORMAT_VERSION:
            raise ArtifactVersionError(
                f"{self.path} has format {version}, this version of haste-compiler reads up to {FORMAT_VERSION}: "
                "update it, or save the network again"
            )
        if self._read(_CHECKSUM).decode("ascii", "replace") != hashlib.sha256(text).hexdigest():
            raise DamagedArtifactError(f"{self.path} is damaged: {_MANIFEST} isn't what was written")
        assert isinstance(manifest, dict)
        return manifest

    def _read(self, name: str) -> bytes:
        try:
            return self._archive.read(name)
        except KeyError:
            raise DamagedArtifactError(f"{self.path} is damaged: {name} is missing") from None
        except Exception:
            raise DamagedArtifactError(f"{self.path} is damaged: {name} can't be read") from None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stored_configs(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of each method's configuration, by its name; files of format 1 hold those of the first method."""
    configs: dict[str, Any] = manifest["configs"] if "configs" in manifest else {names()[0]: manifest["config"]}
    return configs
