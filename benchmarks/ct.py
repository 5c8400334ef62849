"""CT series for the benchmarks: 58 elements, 512 x 512 x 16 bit, and nobody's patients."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def write_series(folder: Path, files: int, series: int, patients: int = 25) -> None:
    """``files`` files in ``series`` series, spread over patients who have several each."""
    chance = random.Random(20060801)
    for number in range(series):
        patient = number % patients
        target = folder / f"series{number:03}"
        target.mkdir(parents=True)
        for instance in range(files // series):
            pixels = chance.randbytes(512 * 512 * 2)
            ct = dataset(patient, number, instance, pixels)
            ct.save_as(target / f"{instance:04}.dcm", enforce_file_format=True)


def dataset(patient: int, number: int, instance: int, pixels: bytes) -> FileDataset:
    """One image of the series with this number."""
    study, series, frame = _uids(number)
    uid = generate_uid(entropy_srcs=[f"{series} {instance}"])
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ct = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ct.SpecificCharacterSet = "ISO_IR 100"
    ct.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ct.InstanceCreationDate, ct.InstanceCreationTime = "20060815", f"1015{instance % 60:02}"
    ct.SOPClassUID, ct.SOPInstanceUID = CTImageStorage, uid
    ct.StudyDate = ct.SeriesDate = ct.AcquisitionDate = ct.ContentDate = "20060815"
    ct.StudyTime, ct.SeriesTime = "101500", "101600"
    ct.AcquisitionTime = ct.ContentTime = f"1017{instance % 60:02}.250000"
    ct.AccessionNumber = f"A{number:06}"
    ct.Modality, ct.Manufacturer, ct.ManufacturerModelName = "CT", "Tomograph Works", "Rings 64"
    ct.InstitutionName, ct.StationName = "St. Elsewhere", "CT02"
    ct.ReferringPhysicianName = "Physician^Refer"
    ct.StudyDescription, ct.SeriesDescription = "Thorax", "Lung 1.0"
    ct.PatientName, ct.PatientID = f"Tester{patient:03}^Theodora", f"PID{patient:05}"
    ct.PatientBirthDate, ct.PatientSex, ct.PatientAge = f"19{50 + patient % 40}0312", "F", "056Y"
    ct.PatientWeight = "71.5"
    ct.BodyPartExamined, ct.SliceThickness, ct.KVP = "CHEST", "1.0", "120"
    ct.DataCollectionDiameter, ct.ProtocolName = "500", "Thorax routine"
    ct.ReconstructionDiameter, ct.GantryDetectorTilt = "360", "0"
    ct.ExposureTime, ct.XRayTubeCurrent, ct.Exposure = "500", "180", "90"
    ct.ConvolutionKernel, ct.PatientPosition = "B60f", "HFS"
    ct.StudyInstanceUID, ct.SeriesInstanceUID, ct.FrameOfReferenceUID = study, series, frame
    ct.StudyID, ct.SeriesNumber, ct.AcquisitionNumber = "1", "2", "1"
    ct.InstanceNumber = str(instance + 1)
    ct.ImagePositionPatient = ["-180.0", "-180.0", f"{-300 + instance:.1f}"]
    ct.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    ct.SliceLocation = f"{-300 + instance:.1f}"
    reference = Dataset()
    reference.ReferencedSOPClassUID = CTImageStorage
    reference.ReferencedSOPInstanceUID = generate_uid(entropy_srcs=[f"{series} localizer"])
    ct.ReferencedImageSequence = Sequence([reference])
    ct.SamplesPerPixel, ct.PhotometricInterpretation = 1, "MONOCHROME2"
    ct.Rows = ct.Columns = 512
    ct.PixelSpacing = ["0.703125", "0.703125"]
    ct.BitsAllocated, ct.BitsStored, ct.HighBit, ct.PixelRepresentation = 16, 12, 11, 1
    ct.WindowCenter, ct.WindowWidth = "-600", "1600"
    ct.RescaleIntercept, ct.RescaleSlope = "-1024", "1"
    ct.PixelData = pixels
    ct["PixelData"].VR = "OW"
    return ct


@cache
def _uids(number: int) -> tuple[str, ...]:
    """Of a study, its only series, and its frame of reference."""
    return tuple(
        generate_uid(entropy_srcs=[f"{kind} {number}"]) for kind in ("study", "series", "f")
    )
