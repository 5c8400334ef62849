"""A series whose every identifying value is one that stands nowhere else in the world."""

from __future__ import annotations

from pathlib import Path

from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

TEXTS = {
    "AccessionNumber": "QXACC7731",
    "AdditionalPatientHistory": "Qxhistory fell at Qxharbour",
    "AdmissionID": "QXADM5512",
    "CountryOfResidence": "Qxland",
    "CurrentPatientLocation": "Qxward 9",
    "DeviceSerialNumber": "QXDEV8842",
    "DeviceUID": "1.2.826.0.1.3680043.10.777.9901",
    "InstitutionAddress": "Qxinstreet 3",
    "InstitutionName": "Qxhospital of Qxtown",
    "InstitutionalDepartmentName": "Qxdepartment",
    "IssuerOfPatientID": "QXISSUER",
    "MedicalRecordLocator": "QXMRL4410",
    "MilitaryRank": "Qxcolonel",
    "NameOfPhysiciansReadingStudy": "Qxreader^Rita",
    "OperatorsName": "Qxoperator^Olga",
    "OtherPatientIDs": "QXOTHER3320",
    "OtherPatientNames": "Qxalias^Alma",
    "PatientAddress": "Qxstreet 12",
    "PatientBirthDate": "19310417",
    "PatientBirthName": "Qxbirth^Berta",
    "PatientBirthTime": "041733.731",
    "PatientComments": "Qxcomment asks for Qxnurse",
    "PatientID": "QXPID0042",
    "PatientInsurancePlanCodeSequence": "",
    "PatientMotherBirthName": "Qxmother^Mona",
    "PatientName": "Qxsurname^Qxgiven",
    "PatientReligiousPreference": "Qxcreed",
    "PatientTelephoneNumbers": "+99 7731 0042",
    "PerformingPhysicianName": "Qxperformer^Paul",
    "ReferringPhysicianAddress": "Qxrefstreet 8",
    "ReferringPhysicianName": "Qxreferrer^Rolf",
    "ReferringPhysicianTelephoneNumbers": "+99 7731 0043",
    "RegionOfResidence": "Qxregion",
    "RequestingPhysician": "Qxrequester^Rosa",
    "ResponsibleOrganization": "Qxorganisation",
    "ResponsiblePerson": "Qxguardian^Gert",
    "SeriesDescription": "Qxseries of Qxsurname",
    "StationName": "QXSTATION",
    "StudyDescription": "Qxstudy of Qxsurname",
    "StudyID": "QXSTUDYID",
    "StudyInstanceUID": "1.2.826.0.1.3680043.10.777.9902",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.10.777.9903",
    "FrameOfReferenceUID": "1.2.826.0.1.3680043.10.777.9904",
    "StudyDate": "19990713",
    "SeriesDate": "19990714",
    "AcquisitionDateTime": "19990715101733.731",
}
NESTED = {
    "AccessionNumber": "QXNESTACC",
    "ReferringPhysicianName": "Qxnested^Nina",
    "RequestedProcedureDescription": "Qxprocedure",
    "StudyInstanceUID": "1.2.826.0.1.3680043.10.777.9905",
}
OTHER_ID = {"PatientID": "QXNESTPID", "IssuerOfPatientID": "QXNESTISSUER"}
PRIVATE = ("Qxprivate text", "QXPRIVNEST")
SOP_UID = "1.2.826.0.1.3680043.10.777.99"
VALUES = (
    *filter(None, TEXTS.values()),
    *NESTED.values(),
    *OTHER_ID.values(),
    *PRIVATE,
    SOP_UID,
)
"""Every one of them; the UIDs of the instances begin with the last."""


def needles() -> list[str]:
    """What must not be found: every value, and each part that a name or a sentence has."""
    parts = (part for value in VALUES for part in value.replace("^", " ").split())
    odd = {part for part in parts if "qx" in part.lower() or len(part) > 7}
    return sorted({*VALUES, *odd})


def found_in(text: bytes | str) -> list[str]:
    """The canaries in a text, or in the bytes of a file."""
    content = text.encode("utf-8") if isinstance(text, str) else text
    return [needle for needle in needles() if needle.encode() in content]


def write_series(folder: Path, files: int = 2) -> None:
    """A CT series in a folder, of small images."""
    folder.mkdir(parents=True)
    for number in range(files):
        dataset(f"{SOP_UID}.{number}").save_as(folder / f"{number}.dcm", enforce_file_format=True)


def dataset(uid: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SpecificCharacterSet = "ISO_IR 100"
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = CTImageStorage, uid, "CT"
    made.Rows = made.Columns = 4
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 16, 15
    made.SamplesPerPixel, made.PixelRepresentation = 1, 0
    made.PhotometricInterpretation, made.PixelData = "MONOCHROME2", bytes(range(32))
    for keyword, text in TEXTS.items():
        if text:
            setattr(made, keyword, text)
    made.RequestAttributesSequence = [_item(NESTED)]
    made.OtherPatientIDsSequence = [_item(OTHER_ID)]
    block = made.private_block(0x0009, "DEID HOOKS TEST", create=True)
    block.add_new(0x01, "LO", PRIVATE[0])
    inner = Dataset()
    inner.PatientID = PRIVATE[1]
    block.add_new(0x02, "SQ", [inner])
    return made


def _item(values: dict[str, str]) -> Dataset:
    made = Dataset()
    for keyword, text in values.items():
        setattr(made, keyword, text)
    return made
