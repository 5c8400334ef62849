"""The reference uploader: it does the whole job with nothing but the public interface."""
