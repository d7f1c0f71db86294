#!/usr/bin/env python3
"""Products of int8 weights by torch's prepacked oneDNN kernels, at the sizes of `keeve bench --ops`.

Two times are taken for each size and number of rows: of the product alone, from int8 activations to
float results, and of it with what comes before, making the activations int8 with one scale for each row
(torch's kernel takes one for all rows, so the results are scaled by row afterwards). Weights have a scale for
each row and are packed beforehand. Rounds go over all products, so that load from elsewhere meets them alike.

    python3 torch_int8.py --threads 2 --rows 1,16,128,512 --rounds 7
"""

import argparse
import json
import statistics
import time

import torch

SIZES = [(10240, 2560), (2560, 10240)]


def quantized_rows(x):
    """Rows as int8 with a scale each: the largest magnitude over 127."""
    scale = x.abs().amax(dim=1, keepdim=True).clamp_(min=1e-30).div_(127)
    return (x / scale).round_().to(torch.int8), scale


class Product:
    """A weight, packed, and activations for it."""

    def __init__(self, n, k, rows):
        self.n, self.k, self.rows = n, k, rows
        weight = torch.randint(-127, 128, (n, k), dtype=torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(weight, [rows, k])
        self.scales = torch.full((n,), 1e-3)
        self.zeros = torch.zeros(n, dtype=torch.int64)
        self.x = torch.randn(rows, k)
        self.codes, _ = quantized_rows(self.x)

    def alone(self, codes=None):
        """The product of int8 activations, as floats."""
        codes = self.codes if codes is None else codes
        return torch.ops.onednn.qlinear_pointwise(
            codes, 1.0, 0, self.packed, self.scales, self.zeros, None,
            1.0, 0, torch.float32, "none", [], "",
        )

    def whole(self):
        """The product of float activations."""
        codes, scale = quantized_rows(self.x)
        return self.alone(codes).mul_(scale)


def seconds(function):
    """How long a call takes: the middle one of those in a fifth of a second."""
    function()
    times, start = [], time.perf_counter()
    while not times or time.perf_counter() - start < 0.2:
        before = time.perf_counter()
        function()
        times.append(time.perf_counter() - before)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", default="1,16,128,512,1024")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    counts = [int(rows) for rows in args.rows.split(",")]
    products = [Product(n, k, rows) for n, k in SIZES for rows in counts]
    rates = {}
    with torch.inference_mode():
        for _ in range(args.rounds):
            for product in products:
                work = 2e-12 * product.n * product.k * product.rows
                for name, run in (("alone", product.alone), ("whole", product.whole)):
                    key = (product.n, product.k, product.rows, name)
                    rates.setdefault(key, []).append(work / seconds(run))
    for (n, k, rows, name), found in rates.items():
        print(json.dumps({
            "torch": torch.__version__, "n": n, "k": k, "rows": rows, "measured": name,
            "tops": {"min": min(found), "median": statistics.median(found), "max": max(found)},
        }))


if __name__ == "__main__":
    main()
