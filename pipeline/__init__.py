"""The release pipeline's room: images, manifests, the config repository. Part of neither image.

It stands on `fl` alone and never imports server or client; docs/architecture.md says what lives where.
"""
