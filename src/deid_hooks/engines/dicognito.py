"""The engine ``dicognito``: the library of that name, which makes up plausible values.

It keeps private attributes, descriptions and the serial number of the device: see its own
documentation. All dates of a project are shifted by one interval. What is added here,

- PatientID becomes the label of the subject, which tells the issuers of equal PatientIDs apart;
- an empty value stays empty, where the library would make up the same one for everybody.
"""

from __future__ import annotations

from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from deid_hooks import Pseudonyms, SettingsError
from deid_hooks.dicom.dictionary import PATIENT_ID
from deid_hooks.engines import mark_identity_removed, renew_file_meta


def engine(argument: str, pseudonyms: Pseudonyms) -> Dicognito:
    """Return the engine; SettingsError for an argument, or if dicognito isn't there."""
    if argument:
        raise SettingsError("engine dicognito takes no argument")
    return Dicognito(pseudonyms)


class Dicognito:
    """De-identifies a dataset in place. Gives the same result in every process.

    Picklable. Raises whatever the library raises, malformed dates above all; the dataset is half
    changed then and of no use.
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
        self._anonymizer.anonymize(dataset)
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
        return False
