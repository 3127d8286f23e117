"""The pinned base images: pulled, or built under the same names where no registry answers."""
