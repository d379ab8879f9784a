"""What answering will need in memory, before anything is opened: each need by name, as `admit` wants them."""

from __future__ import annotations

import sys

from tam_edge.runtime.budget import MIB, peak_resident_bytes, resident_bytes
from tam_edge.runtime.frames import VideoInfo
from tam_edge.runtime.manifest import Manifest
from tam_edge.runtime.tiles import Way, layout_of
from tam_edge.runtime.vision import chunk_frames

LIBRARY_BYTES = {"onnxruntime": 19 * MIB, "av": 16 * MIB, "llama_cpp": 8 * MIB, "tokenizers": 3 * MIB, "PIL": 2 * MIB}
"""Growth of the resident set by importing what runs the stages, measured on Linux x86-64."""
REFERENCE_PICTURES = 16
"""Pictures an H.264 decoder may refer to; beside them each of its threads works on one."""
PICTURE_BYTES_PER_PIXEL = 1.5  # YUV 4:2:0
BATCH_BYTES_PER_PIXEL = 3  # RGB


class Footprint:
    """Needs of one bundle in this process from now on, with `threads` for the decoder."""

    def __init__(self, manifest: Manifest, threads: int) -> None:
        self._manifest = manifest
        self._pictures = REFERENCE_PICTURES + threads
        self._resident = resident_bytes()
        self._libraries = sum(size for name, size in LIBRARY_BYTES.items() if name not in sys.modules)

    def smallest(self) -> dict[str, int]:
        """Needs in bytes of the least demanding plan, without frames."""
        grids = (rung.grid for rung in self._manifest.routing.ladder)
        # Once the process has peaked above all of them, `process` makes every sum the same: compare the rest.
        return min((self.of(grid) for grid in grids), key=lambda needs: sum(needs.values()) - needs["process"])

    def of(self, grid: int | None, info: VideoInfo | None = None, images: Way | None = None) -> dict[str, int]:
        """Needs in bytes of a plan with this grid, and of decoding this video or of seeing these still images.

        `process` is what this process held before, or as much as makes the sum the peak it has already reached.
        """
        stages = self._manifest.stage_peak_bytes(self._manifest.routing.ladder[0].grid if grid is None else grid)
        language = self._manifest.language.engines[0]
        stages["language"] = max(language.peak_bytes, language.size_bytes)  # every page of the mapped file may count
        growth = {"libraries": self._libraries, **stages}
        if info is not None:
            growth["frames"] = self._frame_bytes(info)
            if images is not None:
                growth["images"] = self._image_bytes(info, images)
        return {"process": max(self._resident, peak_resident_bytes() - sum(growth.values())), **growth}

    def _image_bytes(self, info: VideoInfo, images: Way) -> int:
        """Crops, and visual tokens in float32 twice: as they were projected and as they are put in order."""
        spec = self._manifest.images
        assert spec is not None
        encoder = self._manifest.encoders[spec.encoder]
        crops = len(info.still_sizes_px)
        if images == "tiles":
            rows, columns = layout_of(info.still_sizes_px[0], self._manifest).tiles
            crops = 1 + rows * columns
        tokens = encoder.grid_side**2 * self._manifest.language.embedding_width * 4
        return crops * (3 * encoder.image_px**2 + 2 * tokens)

    def _frame_bytes(self, info: VideoInfo) -> int:
        chunk = chunk_frames(info) * BATCH_BYTES_PER_PIXEL
        return int(info.width_px * info.height_px * (chunk + self._pictures * PICTURE_BYTES_PER_PIXEL))
