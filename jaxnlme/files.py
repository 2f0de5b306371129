"""Files that jaxnlme writes: a zip archive of one JSON document and plain arrays, with a digest over every byte.

Layout of an archive:

- `<kind>.json` ("fit.json", "checkpoint.json"): the document, a dictionary of sections; "format" and "version" name its
  layout, "jaxnlme" the version of the package that wrote it.
- `arrays.npz`: arrays by name, none of them of objects. An array that belongs to a section is called "section/name".
- further members, as bytes.
- the archive's comment: "jaxnlme sha256 " and 64 hexadecimal digits, the SHA-256 digest of all bytes before them. It is
  checked before anything else is read. It reveals damage; it is no protection against a file made with bad intent, for
  which the rule is another: nothing here unpickles.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import secrets
import stat
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from jaxnlme.errors import MissingFileError, OptionError


@dataclasses.dataclass(frozen=True)
class FileSettings:
    """Archives and messages about them; choices of this package."""

    compression_level: int = 5
    """Level of zlib's compression, from 1 (fast) to 9 (small)."""
    reason_length: int = 200
    """Characters of the message of another library that a message repeats."""
    random_bytes: int = 8
    """Random bytes in the name of a file that is not yet complete; 8 do not meet twice."""


FILES = FileSettings()
COMMENT = b"jaxnlme sha256 "
DIGITS = 64
ARRAYS = "arrays.npz"
# Place of the first member's name in a zip archive.
_NAME = 30
# First bytes of files of jaxnlme 0.1: gzip (a fit) and numpy's zip without a digest (a checkpoint).
_GZIP = b"\x1f\x8b"
# All that taking a document or arrays of wrong content apart can raise.
CONTENT_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
# All that reading an archive with a correct digest and wrong content can raise.
_UNREADABLE = (*CONTENT_ERRORS, EOFError, MemoryError, OSError, SyntaxError, zipfile.BadZipFile, zlib.error)


@dataclasses.dataclass(frozen=True)
class Archive:
    """The content of a file: `document`, JSON; `arrays` by name; `members`, further members as bytes."""

    document: dict[str, Any]
    arrays: dict[str, np.ndarray]
    members: dict[str, bytes] = dataclasses.field(default_factory=dict)


def write_archive(
    path: Path, kind: str, version: int, jaxnlme_version: str, archive: Archive, compress: bool = True
) -> None:
    """Writes an archive; the file is replaced only by a complete one.

    **Arguments:** `kind`, "fit" or "checkpoint"; `version` of the kind's layout; `jaxnlme_version`, that of the
    package; `compress`: False is faster, for files that are written often.
    **Raises:** OptionError where there can be no such file: a folder that is missing or may not be written to; OSError
    for a full disk and the like; ValueError for an array of objects.
    """
    document = {"format": f"jaxnlme {kind}", "version": version, "jaxnlme": jaxnlme_version} | archive.document
    write_file(path, _bytes(kind, document, archive, compress), kind)


def write_file(path: Path, content: bytes, example: str) -> None:
    """Writes a file, which replaces an earlier one only when it is complete.

    **Arguments:** `example`: the name of a file, for messages.
    **Raises:** OptionError where there can be no such file; OSError for a full disk and the like.
    """
    try:
        if path.is_dir():
            raise OptionError(f"{path} is a folder; give the path of a file, such as {path / example}.")
        _replace(Path(os.path.realpath(path)), content)
    except OSError as error:
        if error.filename is None:  # nothing about the path, such as a full disk
            raise
        raise OptionError(f"{path} cannot be written ({error.strerror}); {_remedy(path)}.") from error


def _replace(path: Path, content: bytes) -> None:
    """Writes a file, in the place and with the permissions of an earlier one, at once."""
    part = path.with_name(f".{secrets.token_hex(FILES.random_bytes)}.part")
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
    try:
        # "x": a new file, as another thread may write to the same path.
        with open(part, "xb", opener=lambda name, flags: os.open(name, flags, 0o666 if mode is None else mode)) as file:
            if mode is not None:
                part.chmod(mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _remedy(path: Path) -> str:
    """The remedy where a file cannot be written."""
    if not path.parent.exists():
        return f"make the folder {path.parent} first"
    return "give another path, or the permission to write there"


def _bytes(kind: str, document: dict[str, Any], archive: Archive, compress: bool) -> bytes:
    """The bytes of the file, its digest at the end; arguments as of `write_archive`, `document` with its header."""
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    arrays, out = io.BytesIO(), io.BytesIO()
    np.savez(arrays, allow_pickle=False, **archive.arrays)  # pyright: ignore[reportArgumentType]
    with zipfile.ZipFile(out, "w", method, compresslevel=FILES.compression_level if compress else None) as file:
        file.comment = COMMENT + b"0" * DIGITS
        file.writestr(f"{kind}.json", json.dumps(document, allow_nan=False, indent=1))
        file.writestr(ARRAYS, arrays.getvalue())
        for name, content in archive.members.items():
            file.writestr(name, content)
    content = out.getvalue()[:-DIGITS]
    return content + hashlib.sha256(content).hexdigest().encode()


def read_archive(path: Path, kind: str, version: int, jaxnlme_version: str) -> Archive:
    """The content of a file that `write_archive` wrote, with "format", "version" and "jaxnlme" taken out.

    **Arguments:** as of `write_archive`.
    **Returns:** the Archive.
    **Raises:** MissingFileError where there is no file; OptionError, in one sentence, for a file that is damaged, cut
    short, of another kind, or of another version.
    """
    if path.is_dir():
        raise OptionError(f"{path} is a folder, and no file that holds a jaxnlme {kind}.")
    if not path.exists():
        raise MissingFileError(f"there is no file {path}.")
    content = path.read_bytes()
    _check_digest(path, kind, content)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            names = file.namelist()
            _check_members(path, kind, names)
            kinds = [name.removesuffix(".json") for name in names if name in ("fit.json", "checkpoint.json")]
            if kinds != [kind]:
                raise OptionError(f"{path} holds a jaxnlme {kinds[0] if kinds else 'file'}, and no {kind}.")
            document = json.loads(file.read(f"{kind}.json"))
            _check_version(path, kind, version, jaxnlme_version, document)
            with np.load(io.BytesIO(file.read(ARRAYS)), allow_pickle=False) as arrays:
                loaded = {name: arrays[name] for name in arrays.files}
            members = {name: file.read(name) for name in names if name not in (f"{kind}.json", ARRAYS)}
    except _UNREADABLE as error:
        if isinstance(error, OptionError):
            raise
        raise unreadable(path, kind, error) from error
    return Archive({k: v for k, v in document.items() if k not in ("format", "version", "jaxnlme")}, loaded, members)


def _check_members(path: Path, kind: str, names: list[str]) -> None:
    """**Raises:** OptionError where one of the `names` of members is there twice: readers differ in which they take."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise _damaged(path, kind, f"damaged: it holds {twice[0]!r} more than once")


def _damaged(path: Path, kind: str, what: str) -> OptionError:
    """The error for a damaged file; `what`: the damage, in words that follow "is"."""
    return OptionError(f"{path} is {what}; take a copy, or make the {kind} again.")


def unreadable(path: Path, kind: str, error: BaseException) -> OptionError:
    """The error for a file with a correct digest whose content is not that of its kind."""
    return OptionError(
        f"{path} is not a jaxnlme {kind} that this version can read ({reason_of(error)}); nothing was loaded."
    )


def reason_of(error: BaseException) -> str:
    """The message of an error of another library in one line."""
    return " ".join(str(error).split())[: FILES.reason_length] or type(error).__name__


def _check_digest(path: Path, kind: str, content: bytes) -> None:
    """Check the digest of a file's `content`. **Raises:** OptionError where it is missing or wrong, with the likely
    cause: version 0.1, damage, or a file of another program."""
    marked = content[-DIGITS - len(COMMENT) : -DIGITS] == COMMENT
    if marked and hashlib.sha256(content[:-DIGITS]).hexdigest().encode() == content[-DIGITS:]:
        return
    if content.startswith(_GZIP):
        raise OptionError(
            f"{path} is not a file of this version: a jaxnlme {kind} of version 0.1 is a pickle, which is no longer "
            f"read; load it with version 0.1, or make the {kind} again."
        )
    # The first member of our archives; its name stands at byte 30 of the file.
    if marked or content[_NAME:].startswith((b"fit.json", b"checkpoint.json")):
        raise _damaged(path, kind, "damaged or cut short: its digest does not agree with its content")
    raise OptionError(f"{path} is not a file that holds a jaxnlme {kind} (its digest is missing: damaged, or foreign).")


def _check_version(path: Path, kind: str, version: int, jaxnlme_version: str, document: Any) -> None:
    """Check the header of a document; arguments as of `read_archive`. **Raises:** ValueError where it names no format
    or version; OptionError for another version."""
    if not isinstance(document, dict) or document.get("format") != f"jaxnlme {kind}":
        raise ValueError("its document does not name the format")
    written = document.get("version")
    if not isinstance(written, int) or isinstance(written, bool):
        raise ValueError("its document does not name the version of the format")
    if written != version:
        age = "a later" if written > version else "an earlier"
        raise OptionError(
            f"{path} was written by jaxnlme {document.get('jaxnlme')} in {age} format "
            f"({written}; this is jaxnlme {jaxnlme_version} with format {version}); read it with that version."
        )
