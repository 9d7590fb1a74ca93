"""The release pipeline: images, manifests and the config repository. In neither image."""
