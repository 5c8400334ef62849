"""Flywheel's de-identification profiles: ``engine`` for uploaders, ``log`` for programs on them."""
