"""From images to arrays."""
