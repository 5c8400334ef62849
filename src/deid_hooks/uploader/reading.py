"""Reading DICOM files: whole ones only, and never with a value in what is said about them."""

from __future__ import annotations

import warnings
from pathlib import Path

from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset

from deid_hooks import UnusableDataset

CUT_SHORT = "the file is cut short"
_UNDEFINED_LENGTH = 0xFFFFFFFF


def read(path: Path) -> FileDataset:
    """The dataset of a file that :func:`~deid_hooks.uploader.scan.scan` found, with its pixels.

    Raises UnusableDataset for a file that ends before its data do, of which pydicom keeps what is
    there, and for one that can't be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values
        # How pydicom tells of a value of undefined length that has no end.
        warnings.filterwarnings("error", message=r"(?s).* in file ", category=UserWarning)
        try:
            dataset = dcmread(path, force=True)
        except UserWarning:
            raise UnusableDataset(CUT_SHORT) from None
        except OSError as error:
            raise UnusableDataset(cannot_be_read(error)) from None
        except Exception:  # noqa: BLE001 - whatever pydicom meets in a broken file
            raise UnusableDataset("it is not valid DICOM") from None
    if any(_ends_early(element) for element in dataset.values()):
        raise UnusableDataset(CUT_SHORT)
    return dataset


def cannot_be_read(error: OSError) -> str:
    """Why, without the path that the error quotes."""
    if error.errno is None:  # pydicom's own, for a sequence without an end
        return CUT_SHORT
    return f"it can't be read: {str(error.strerror).lower()}"


def _ends_early(element: object) -> bool:
    return (
        isinstance(element, RawDataElement)
        and element.length != _UNDEFINED_LENGTH
        and len(element.value or b"") < element.length
    )
