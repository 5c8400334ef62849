"""The engine ``dicognito``: the library of that name, which makes up plausible values.

It keeps private attributes, descriptions and the serial number of the device: see its own
documentation. All dates of a project are shifted by one interval. What is added here,

- PatientID becomes the label of the subject, which tells the issuers of equal PatientIDs apart;
- an empty value stays empty, where the library would make up the same one for everybody;
- a date or time that is none, as ``***``, is emptied, where the library would raise.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import zip_longest
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from deid_hooks import DeidHooksError, Pseudonyms, SettingsError, UnusableDataset
from deid_hooks.dicom.dictionary import PATIENT_ID
from deid_hooks.engines import find_failed_element, mark_identity_removed, renew_file_meta

_MOMENTS = {
    "DA": re.compile(r"\d{4}(\.?\d\d(\.?\d\d)?)?"),
    "TM": re.compile(r"\d\d(:?\d\d(:?\d\d(\.\d{1,9})?)?)?"),
    "DT": re.compile(r"\d{4}(\d\d){0,5}(\.\d{1,9})?([+-]\d{4})?"),
}
"""PS3.5, section 6.2, with the separators of ACR-NEMA, and fractions that are too long."""
_FURTHEST = timedelta(days=-2 * 366)
"""The library shifts to the past by at most two years."""


def engine(argument: str, pseudonyms: Pseudonyms) -> Dicognito:
    """Return the engine; SettingsError for an argument, or if dicognito isn't there."""
    if argument:
        raise SettingsError("engine dicognito takes no argument")
    return Dicognito(pseudonyms)


class Dicognito:
    """De-identifies a dataset in place. Gives the same result in every process.

    Picklable. Raises UnusableDataset for whatever the library raises; the dataset is half changed
    then and of no use.
    """

    def __init__(self, pseudonyms: Pseudonyms) -> None:
        try:
            from dicognito.anonymizer import Anonymizer
        except ImportError:
            raise SettingsError(
                "engine dicognito needs dicognito: pip install 'deid-hooks[dicognito]'"
            ) from None
        self._pseudonyms = pseudonyms
        self._anonymizer = Anonymizer(seed=pseudonyms.seed("dicognito"))
        # It asks for a class of its own, which would have to be imported at the top.
        self._anonymizer.add_element_handler(self._handled)  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._pseudonyms,)

    def __call__(self, dataset: Dataset) -> None:
        dataset.ensure_file_meta()
        try:
            self._anonymizer.anonymize(dataset)
        except DeidHooksError:
            raise
        except Exception as error:  # noqa: BLE001 - its text may quote the value
            where = find_failed_element(error) or "it"
            what = f"the engine dicognito failed at {where}: {type(error).__name__}"
            raise UnusableDataset(what) from None
        mark_identity_removed(dataset)
        renew_file_meta(dataset)

    def _handled(self, dataset: Dataset, element: DataElement) -> bool:
        """Return whether the library has nothing left to do for this attribute."""
        if not element.value:
            return True
        if element.tag == PATIENT_ID:
            # The issuer is the next attribute, so it is still the original here.
            issuer = str(dataset.get("IssuerOfPatientID") or "")
            element.value = self._pseudonyms.label(str(element.value), issuer)
            return True
        if element.VR == "DT" and not self._can_be_shifted(element):
            element.value = ""
        elif element.VR == "DA":
            self._empty_what_is_no_date(dataset, element)
        return not element.value

    def _empty_what_is_no_date(self, dataset: Dataset, date: DataElement) -> None:
        """Empty a date that is none, and a time that is none or goes with no date."""
        keyword = date.keyword.replace("Date", "Time")
        time = dataset[keyword] if keyword != date.keyword and keyword in dataset else None
        if not self._can_be_shifted(date):
            date.value = ""
        elif time is None or not time.value or self._can_be_shifted(date, time):
            return
        if time is not None:
            time.value = ""

    def _can_be_shifted(self, *elements: DataElement) -> bool:
        """Return whether a date, or a date and its time, are such, also for the library.

        It would keep whatever stands behind a date that it can read.
        """
        values = [_list_texts(element.value) for element in elements]
        pairs = list(zip_longest(*values, fillvalue=""))
        return all(
            _MOMENTS[e.VR].fullmatch(v)
            for e, vs in zip(elements, values, strict=True)
            for v in vs
            if v
        ) and all(_is_moment("".join(pair)) for pair in pairs)


def _list_texts(value: Any) -> list[str]:
    values = list(value) if isinstance(value, MultiValue) else [value]
    return [str(each or "").rstrip(" \0") for each in values]


@lru_cache(maxsize=1024)
def _is_moment(text: str) -> bool:
    """Return whether the library can read a date, with its time if it has one, and shift it."""
    text = text.replace(".", "").replace(":", "")
    try:
        datetime.strptime(text[:10], "%Y%m%d%H"[: len(text) - 2]) + _FURTHEST
    except (ValueError, OverflowError):
        return False
    return True
