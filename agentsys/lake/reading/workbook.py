"""XLSX workbooks: every sheet is laid out like a delimited file."""

from __future__ import annotations

import datetime
import zipfile
from pathlib import Path
from typing import Any

from agentsys.lake.faults import FileCorruptError, FileFormatUnknownError, FileTooLargeError
from agentsys.lake.profiles import LakeLimits
from agentsys.lake.reading.sources import SourceTable, check_cells, tables_of_sheet


def read_workbook(path: Path, limits: LakeLimits) -> list[SourceTable]:
    """Return the tables of all sheets; computed cells give their stored value."""
    import openpyxl

    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(item.file_size for item in archive.infolist())
            is_workbook = "xl/workbook.xml" in archive.namelist()
    except zipfile.BadZipFile as error:
        raise FileCorruptError(f"{path.name} is no readable workbook: {error}") from error
    if not is_workbook:
        raise FileFormatUnknownError(f"{path.name} is a ZIP archive but no XLSX workbook.")
    if unpacked > limits.in_memory_bytes:
        raise FileTooLargeError(f"{path.name} unpacks to {unpacked} bytes, above {limits.in_memory_bytes}.")
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        sheets = [(sheet.title, _rows(sheet)) for sheet in book.worksheets]
        book.close()
    except FileTooLargeError:
        raise
    except Exception as error:  # openpyxl raises whatever its XML and ZIP layers do
        raise FileCorruptError(f"{path.name} is no readable workbook: {type(error).__name__}: {error}") from error
    several = len(sheets) > 1
    return [table for title, rows in sheets for table in tables_of_sheet(rows, title if several else "")]


def _rows(sheet: Any) -> list[list[str]]:
    """Return the cells, without the empty ones at the ends, which a sheet may claim to have by the million."""
    # A sheet's word on its own size is but a hint: openpyxl would fill every row up to it.
    sheet.reset_dimensions()
    rows: list[list[str]] = []
    held = 0
    for cells in sheet.iter_rows(values_only=True):
        row = [_text(cell) for cell in cells]
        while row and not row[-1]:
            row.pop()
        rows.append(row)
        held += len(row)
        check_cells(held)
    while rows and not rows[-1]:
        rows.pop()
    return rows


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, datetime.datetime):
        midnight = cell.time() == datetime.time()
        return cell.date().isoformat() if midnight else cell.isoformat(" ", "seconds")
    return str(cell)
