"""From a DICOM dataset to an entry and back: capture, comparison, difference, restoration."""
