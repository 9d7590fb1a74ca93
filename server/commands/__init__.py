"""Commands of the server part: thin, and quick to import."""
