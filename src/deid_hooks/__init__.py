"""Nothing leaves unlogged: what DICOM uploaders call before de-identified images leave."""
