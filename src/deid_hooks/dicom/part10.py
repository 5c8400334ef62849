"""Read and write whole DICOM files (PS3.10), and see that nothing was lost on the way."""

from __future__ import annotations

import warnings
from typing import BinaryIO

from pydicom import dcmread
from pydicom.dataset import FileDataset

from deid_hooks.dicom.elements import Layout, read_layout
from deid_hooks.errors import UnusableDataset

_NOT_VALID = "it is not valid DICOM"


def read_dicom(file: BinaryIO) -> tuple[FileDataset, Layout]:
    """Return the dataset of a file, with its pixels, and where everything stands in the file.

    Raises UnusableDataset, which names the element, for a file that can't be read to its end, and
    OSError.
    """
    layout = read_layout(file)
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values
        try:
            dataset = dcmread(file, force=True)
        except OSError as error:
            if error.errno:  # without a number it is pydicom's own
                raise
            raise UnusableDataset(_NOT_VALID) from None
        except Exception:  # noqa: BLE001 - its text may quote values
            raise UnusableDataset(_NOT_VALID) from None
    # As it is, where its transfer syntax says something else or nothing.
    dataset.set_original_encoding(layout.header.implicit, layout.header.little_endian)
    return dataset, layout
