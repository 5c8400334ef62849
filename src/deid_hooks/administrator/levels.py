"""Which attributes are the patient's, and which the study's (PS3.3, sections C.7.1 and C.7.2)."""

from __future__ import annotations

from deid_hooks.dictionary import tag_of

_PATIENT_GROUP = "0010"
_SUBJECT_GROUP = "0012"
_STUDY = frozenset(
    f"{tag_of(keyword):08X}"
    for keyword in (
        "AccessionNumber",
        "AdmissionID",
        "AdmittingDiagnosesCodeSequence",
        "AdmittingDiagnosesDescription",
        "ConsultingPhysicianIdentificationSequence",
        "ConsultingPhysicianName",
        "IssuerOfAccessionNumberSequence",
        "IssuerOfAdmissionIDSequence",
        "IssuerOfServiceEpisodeIDSequence",
        "NameOfPhysiciansReadingStudy",
        "PhysiciansOfRecord",
        "PhysiciansOfRecordIdentificationSequence",
        "PhysiciansReadingStudyIdentificationSequence",
        "ProcedureCodeSequence",
        "ReasonForPerformedProcedureCodeSequence",
        "ReasonForVisit",
        "ReasonForVisitCodeSequence",
        "ReferringPhysicianAddress",
        "ReferringPhysicianIdentificationSequence",
        "ReferringPhysicianName",
        "ReferringPhysicianTelephoneNumbers",
        "RequestingService",
        "RequestingServiceCodeSequence",
        "ServiceEpisodeDescription",
        "ServiceEpisodeID",
        "StudyDate",
        "StudyDescription",
        "StudyID",
        "StudyTime",
    )
)
_DEIDENTIFICATION = ("00120062", "00120063", "00120064")


def belongs_to_patient(path: str) -> bool:
    """Whether the path of an original leads to an attribute of the patient or trial subject."""
    return path[:4] in (_PATIENT_GROUP, _SUBJECT_GROUP) and path[:8] not in _DEIDENTIFICATION


def belongs_to_study(path: str) -> bool:
    """Whether the path of an original leads to an attribute of the study."""
    return path[:8] in _STUDY
