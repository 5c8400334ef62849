"""The de-id log of a site behind HTTP: any backend, many uploaders, tokens in place of keys."""
