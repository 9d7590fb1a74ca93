"""The prediction API: the champion of the model registry over HTTP."""
