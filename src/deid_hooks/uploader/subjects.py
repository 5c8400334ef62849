"""Which label a patient gets: the site's own list, then what the log knows, then a new one."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from deid_hooks import DeidHooks, SettingsError, gives_away, identity_of

Identity = tuple[str, str]
"""A PatientID and its IssuerOfPatientID."""

_NEEDED = ("PatientID", "label")
_KNOWN = (*_NEEDED, "IssuerOfPatientID", "project")
_LONGEST = 64  # characters of a PatientID: PS3.5, table 6.2-1, LO


def labels_of(
    hooks: DeidHooks, project: str, listed: Mapping[Identity, str], patients: Iterable[Identity]
) -> dict[Identity, str]:
    """The labels that these patients have in a project already; who is missing gets a new one.

    Raises SettingsError where the list and the log disagree: the same person would become two.
    Raises LogUnavailable.
    """
    labels = dict(listed)
    for patient_id, issuer in patients:
        known = hooks.subject(project, patient_id, issuer) if patient_id else None
        if known and labels.setdefault((patient_id, issuer), known) != known:
            raise SettingsError(
                "The list of subjects gives a patient another label than the log knows in this"
                f" project: {known}. Correct the list; one person must not become two."
            )
    return labels


def read_subjects(path: Path, project: str) -> dict[Identity, str]:
    """The labels of a CSV file with the columns PatientID, label, and if wanted IssuerOfPatientID.

    With a column ``project`` only the rows of this project count. Several identities of one person
    may share a label. Raises SettingsError, which names the line and no value.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)  # or a lost quote would swallow what follows
            _check_columns(path, rows.fieldnames or ())
            labels: dict[Identity, str] = {}
            for row in rows:
                # A comma too many, as in an unquoted label, moves what stands behind it.
                if None in row or None in row.values():
                    raise SettingsError(
                        f"{path}, line {rows.line_num}: it has not as many values as the first line"
                        " has columns."
                    )
                if row.get("project", project) == project:
                    _add(labels, row, f"{path}, line {rows.line_num}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not CSV in UTF-8"
        raise SettingsError(f"The list of subjects {path} can't be read: {why}.") from None
    return labels


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    missing = [name for name in _NEEDED if name not in columns]
    unknown = [name for name in columns if name not in _KNOWN]
    if missing or unknown or len(set(columns)) < len(columns):
        raise SettingsError(
            f"The list of subjects {path} needs a first line with the columns PatientID, label, and"
            " if wanted IssuerOfPatientID and project, and no others."
        )


def _add(labels: dict[Identity, str], row: Mapping[str, str | None], where: str) -> None:
    identity = identity_of(row["PatientID"] or "", row.get("IssuerOfPatientID") or "")
    label = (row["label"] or "").strip()
    if not identity[0] or not label:
        raise SettingsError(f"{where}: PatientID and label must not be empty.")
    if len(label) > _LONGEST or "\\" in label or not label.isprintable():
        raise SettingsError(
            f"{where}: a label has at most {_LONGEST} characters, none of them a backslash."
        )
    if gives_away(label, identity[0]):
        raise SettingsError(f"{where}: the label contains the PatientID, which must not leave.")
    if labels.setdefault(identity, label) != label:
        raise SettingsError(f"{where}: this patient has another label further up.")
