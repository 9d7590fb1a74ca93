"""Commands of the release pipeline."""
