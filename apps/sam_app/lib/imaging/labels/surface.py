"""An object's surface as STL, for 3D printing and for programs that show meshes."""

import numpy as np
from scipy import ndimage

from lib.imaging.image import UnsupportedImageError

_SMOOTHING = 0.7
"""Standard deviation in voxels: enough to take off the steps, little enough to keep the size."""
_MOST_TRIANGLES = 4_000_000

_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def surface_stl(mask: np.ndarray, affine: np.ndarray) -> bytes:
    """Return the surface of a mask as binary STL, in mm, closed and with normals to the outside.

    Args:
        mask: ``(K, rows, columns)`` bool.
        affine: ``(4, 4)``, voxel ``(i, j, k, 1)`` to RAS+ mm.

    Raises:
        UnsupportedImageError: If there is nothing, or more than a file can reasonably hold.
    """
    from skimage.measure import marching_cubes  # here, as it takes long to import

    if not mask.any():
        raise UnsupportedImageError("the object is empty: it has no surface")
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    pad = 3
    part = np.pad(mask[box], pad).astype(np.float32)
    smooth = ndimage.gaussian_filter(part, _SMOOTHING)
    level = 0.5 if smooth.max() > 0.5 else float(smooth.max()) / 2  # what is thinner than the smoothing stays
    corners, faces, _, _ = marching_cubes(smooth, level)
    if len(faces) > _MOST_TRIANGLES:
        raise UnsupportedImageError(f"the surface has {len(faces)} triangles, more than {_MOST_TRIANGLES}")
    ijk = corners[:, ::-1] + [box[axis].start - pad for axis in (2, 1, 0)]
    mm = ijk @ affine[:3, :3].T + affine[:3, 3]
    triangles = mm[faces]
    if np.linalg.det(affine[:3, :3]) < 0:  # a mirrored grid turns the surface inside out
        triangles = triangles[:, ::-1]
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    made = np.zeros(len(faces), _TRIANGLE)
    made["normal"], made["corners"] = normals, triangles
    return b"sam-app, mm, RAS".ljust(80, b"\0") + np.uint32(len(faces)).tobytes() + made.tobytes()
