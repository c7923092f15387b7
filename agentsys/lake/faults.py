"""Reasons why a lake, or one file of it, cannot be used.

A fault of one file never stops the lake: the file is listed in ``Lake.skipped`` with the fault's code.
"""

from __future__ import annotations

from agentsys.errors import LakeError


class LakeNotFoundError(LakeError):
    """The lake's path is missing or no folder."""

    code = "AGS-0501"
    remedy = "Give the path of an existing folder that holds the data files."


class LakeEmptyError(LakeError):
    """The folder holds no file from which a table could be read."""

    code = "AGS-0502"
    remedy = "Put CSV, TSV, XLSX, JSON, Parquet or HTML files there; the skipped files and their reasons are named."


class CacheUnusableError(LakeError):
    """The cache folder cannot be written: no permission, or the disk is full."""

    code = "AGS-0503"
    remedy = "Free disk space or pass another cache folder; nothing of the lake itself was changed."


class FileFaultError(LakeError):
    """Base of the faults of one file."""

    code = "AGS-0504"


class FileUnreadableError(FileFaultError):
    """The operating system refuses to read the file."""

    code = "AGS-0505"
    remedy = "Check the file's permissions."


class FileTooLargeError(FileFaultError):
    """The file is larger than the limit for its format."""

    code = "AGS-0506"
    remedy = "Raise the limit in LakeLimits, or convert the file to CSV or Parquet, which are read in a stream."


class FileFormatUnknownError(FileFaultError):
    """The content is binary and of no format that is read."""

    code = "AGS-0507"
    remedy = "Convert it to CSV, TSV, XLSX, JSON, Parquet or HTML, plain or compressed by gzip, bzip2, xz or zstd."


class FileEmptyError(FileFaultError):
    """The file holds nothing."""

    code = "AGS-0508"
    remedy = "Remove the file or fill it."


class FileCorruptError(FileFaultError):
    """The file claims a format that its content breaks."""

    code = "AGS-0509"
    remedy = "Fetch or export the file again."


class FileEncodingUnknownError(FileFaultError):
    """The text is in no encoding that could be recognised."""

    code = "AGS-0510"
    remedy = "Save the file as UTF-8."


class FileWithoutTableError(FileFaultError):
    """The file can be read, but it holds no table."""

    code = "AGS-0511"
    remedy = "Nothing to do if the file is prose; else check that it has rows of at least one column."


class FileOutsideLakeError(FileFaultError):
    """A link points out of the lake's folder; it is not followed."""

    code = "AGS-0512"
    remedy = "Copy the linked file into the lake."
