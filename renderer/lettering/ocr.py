"""The process that reads: paths of pictures in, the lines that stand in them out, a line of JSON each.

On the CPU, with one thread and at the lowest priority, for whatever else the machine does is worth more. RapidOCR's
models for English and Chinese are in its package, so nothing is fetched. Run as `python -m renderer.lettering.ocr`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from renderer.lettering.installed import OCR
from renderer.system import children


def main() -> None:
    """Answer until nobody asks any more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(children.PARENT_OPTION, type=int, dest="parent")
    children.belong_to(parser.parse_args().parent)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    with contextlib.suppress(OSError):
        os.nice(19)
    read = _open()
    for asked in sys.stdin.buffer:
        path = Path(json.loads(asked))
        try:
            told: dict[str, Any] = {"lines": read(path)}
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this picture's
            told = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps({**told, "reader": f"{OCR} {importlib.metadata.version(OCR)}"}) + "\n")
        answers.flush()


def _open() -> Any:
    """What reads a picture's file."""
    import cv2  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415
    from rapidocr import RapidOCR  # noqa: PLC0415

    cv2.setNumThreads(1)
    one = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
    ocr = RapidOCR(params={"Global.log_level": "error", **one})

    def read(path: Path) -> list[dict[str, Any]]:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))[:, :, ::-1]  # as OpenCV has its colours
        found: Any = ocr(np.ascontiguousarray(pixels))
        if found.boxes is None or not found.txts:
            return []
        return [
            {"text": text, "confidence": min(1.0, max(0.0, float(score))), "box": _box(corners)}
            for text, score, corners in zip(found.txts, found.scores, found.boxes.tolist(), strict=True)
        ]

    return read


def _box(corners: list[list[float]]) -> dict[str, int]:
    across, down = [round(x) for x, _ in corners], [round(y) for _, y in corners]
    return {"left": min(across), "top": min(down), "right": max(across), "bottom": max(down)}


if __name__ == "__main__":
    main()
