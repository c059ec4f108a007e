"""The file of a saved network: a zip of a manifest, libraries and weights, with a checksum of every part.

The checksums find damage. They don't say who wrote a file, and its machine code runs with the rights of whoever loads
it: load only what you would run.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

from haste_compiler.errors import ArtifactError, ArtifactVersionError, DamagedArtifactError, last_line
from haste_compiler.files import replacing
from haste_compiler.runtime.artifact_formats import upgraded
from haste_compiler.runtime.artifact_manifest import FORMAT, FORMAT_VERSION, check_manifest

_MANIFEST, _CHECKSUM = "manifest.json", "manifest.sha256"

_MOST_MANIFEST_BYTES = 32 << 20
"""Of a manifest, which is read before anything is known of it; ten thousand layers take less."""


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
    if len(text) > _MOST_MANIFEST_BYTES:
        raise ArtifactError(f"{path}: a manifest may have {_MOST_MANIFEST_BYTES} bytes, this one has {len(text)}")
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
    """An open file; a context manager.

    Every part is checked as it is read, and no more is read than it is said to have.

    Args:
        path: of the file.

    Attributes:
        manifest: what the file says of itself.
        described: the same as the newest format has it, checked.

    Raises:
        ArtifactError: the file can't be read.
        DamagedArtifactError: it is no artifact, or altered, or doesn't describe a network.
        ArtifactVersionError: it has a newer format.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self._file = _opened(self.path)
        try:
            self._archive = self._read_directory()
            self.manifest = self._read_manifest()
            self.described = self._describe()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Artifact:
        return self

    def __exit__(self, *exception: object) -> None:
        self._archive.close()
        self._file.close()

    def part(self, name: str) -> bytes:
        """One of the files in it.

        Raises:
            DamagedArtifactError: it isn't what was written.
        """
        stored = self.described["files"][name]
        data = self._read(name, stored["bytes"])
        if hashlib.sha256(data).hexdigest() != stored["sha256"]:
            raise DamagedArtifactError(f"{self.path} is damaged: {name} isn't what was written")
        return data

    def check(self) -> None:
        """Check every part.

        Raises:
            DamagedArtifactError: one isn't what was written.
        """
        for name in self.described["files"]:
            self.part(name)

    def _read_directory(self) -> zipfile.ZipFile:
        try:
            archive = zipfile.ZipFile(self._file)
        except Exception:
            # Not only BadZipFile: what zipfile makes of damaged headers, it raises as it comes.
            self._file.seek(0)
            found = "the file is cut short" if self._file.read(2) == b"PK" else "it is no zip"
            raise DamagedArtifactError(f"{self.path} is no saved network: {found}") from None
        names = archive.namelist()
        if len(set(names)) < len(names):
            raise DamagedArtifactError(f"{self.path} is damaged: a part is there twice")
        return archive

    def _read_manifest(self) -> dict[str, Any]:
        if _MANIFEST not in self._archive.namelist():
            raise DamagedArtifactError(f"{self.path} is no saved network: a zip without {_MANIFEST}")
        text = self._read(_MANIFEST)
        try:
            manifest = json.loads(text)
            known = manifest["format"] == FORMAT
            version = manifest["format_version"]
        except (ValueError, KeyError, TypeError, RecursionError):
            known, version = False, None
        if not known or type(version) is not int or version < 1:
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

    def _describe(self) -> dict[str, Any]:
        try:
            described = upgraded(self.manifest)
            check_manifest(described)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            raise DamagedArtifactError(f"{self.path} doesn't describe a network: {reason(error)}") from None
        return described

    def _read(self, name: str, size: int | None = None) -> bytes:
        """A part whole, of the size that it is said to have; None: of any that a manifest may have."""
        try:
            info = self._archive.getinfo(name)
        except KeyError:
            raise DamagedArtifactError(f"{self.path} is damaged: {name} is missing") from None
        fits = info.file_size <= _MOST_MANIFEST_BYTES if size is None else info.file_size == size
        # What is stored as it is has room in the file: nothing grows as it is read.
        fits = fits and info.file_size <= os.fstat(self._file.fileno()).st_size
        if not fits or info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise DamagedArtifactError(f"{self.path} is damaged: {name} has another size than it is said to have")
        try:
            return self._archive.read(info)
        except Exception:
            raise DamagedArtifactError(f"{self.path} is damaged: {name} can't be read") from None


def _opened(path: Path) -> BinaryIO:
    """A plain file: others may have no end, or keep whoever opens them waiting.

    Raises:
        ArtifactError: it is none, or can't be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ArtifactError(f"{path} can't be read: {error.strerror or error}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArtifactError(f"{path} can't be read: it is no plain file")
    return open(descriptor, "rb")


def reason(error: Exception) -> str:
    """Why something doesn't describe a network, in one line; some errors say no more than a name."""
    said = last_line(error)
    return said if isinstance(error, ValueError) else f"{type(error).__name__}: {said}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
