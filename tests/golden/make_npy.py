"""Writes tests/golden/files: small .npy and .safetensors files as numpy and the safetensors package write them.

The tests read these files and, where our writer promises the same bytes, compare with them; they need no Python.
To make the files again: pip install numpy "safetensors>=0.8"; python make_npy.py
"""

from pathlib import Path

import numpy as np
from safetensors import TensorSpec, serialize_file

FOLDER = Path(__file__).parent / "files"

# What does not survive a careless reader: signed zero, infinities, NaN, the largest and the smallest number.
FLOATS = [0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan]


def floats(dtype):
    info = np.finfo(dtype)
    return np.array(FLOATS + [info.max, info.smallest_subnormal, 1 / 3, -2 / 3, 100.0], dtype).reshape(3, 4)


def integers(dtype):
    info = np.iinfo(dtype)
    return np.array([info.min, info.max, 0, 1, 2, 3], dtype).reshape(1, 2, 3)


def write_npy():
    for dtype in ("float16", "float32", "float64"):
        np.save(FOLDER / f"{dtype}.npy", floats(dtype))
    for dtype in ("uint8", "int32", "int64"):
        np.save(FOLDER / f"{dtype}.npy", integers(dtype))
    np.save(FOLDER / "scalar.npy", np.float32(2.5))
    np.save(FOLDER / "vector.npy", np.arange(3, dtype=np.float32))
    np.save(FOLDER / "empty.npy", np.zeros((2, 0, 3), np.float32))
    for version in ((2, 0), (3, 0)):
        with open(FOLDER / f"version{version[0]}.npy", "wb") as file:
            np.lib.format.write_array(file, np.arange(6, dtype=np.int32).reshape(2, 3), version)
    np.save(FOLDER / "fortran.npy", np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)))
    np.save(FOLDER / "big_endian.npy", np.arange(6, dtype=">f4"))
    np.save(FOLDER / "bool.npy", np.array([True, False]))
    np.save(FOLDER / "structured.npy", np.zeros(2, [("a", "<f4"), ("b", "<i4")]))


def save_tensors(name, tensors, metadata):
    """tensors: name -> (dtype name, array); numpy has no bfloat16, so that the name is given apart."""
    specs = {
        key: TensorSpec(dtype=dtype, shape=array.shape, data_ptr=array.ctypes.data, data_len=array.nbytes)
        for key, (dtype, array) in tensors.items()
    }
    serialize_file(specs, FOLDER / name, metadata)


def write_safetensors():
    numbers = np.array([1.0, -2.0, 0.5, 3.0, -0.25, 100.0], "<f4")
    bf16 = (numbers.view("<u4") >> 16).astype("<u2")
    save_tensors(
        "all_dtypes.safetensors",
        {
            "f64": ("float64", numbers.astype("<f8").reshape(2, 3)),
            "f32": ("float32", numbers.reshape(3, 2)),
            "f16": ("float16", numbers.astype("<f2")),
            "bf16": ("bfloat16", bf16.reshape(1, 6)),
            "i64": ("int64", np.array([-(2**63), 2**63 - 1], "<i8")),
            "i32": ("int32", np.array(-7, "<i4")),
            "i16": ("int16", np.array([-300], "<i2")),
            "i8": ("int8", np.array([-1, 0, 127], "i1")),
            "u8": ("uint8", np.array([[200]], "u1")),
            "bool": ("bool", np.array([True, False])),
            "empty": ("float32", np.zeros((0, 5), "<f4")),
        },
        {"format": "pt", "note": "a\nb"},
    )
    save_tensors(
        "one_dtype.safetensors",
        {
            "b.weight": ("float32", np.arange(4, dtype="<f4").reshape(2, 2)),
            "a.bias": ("float32", np.array(9, "<f4")),
            "c": ("float32", np.zeros((0, 5), "<f4")),
            'größe "q" \\': ("float32", np.array([7], "<f4")),
        },
        {"format": "pt"},
    )


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    write_npy()
    write_safetensors()
