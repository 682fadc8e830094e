"""`make bench`: reading, training, recommending, evaluating, each beside the plain way; metrics.

Then every model through every door, on MovieLens 100K and 1M.

Last, and longest: 200 sweeps of myFM on MovieLens 1M, about three minutes of one core.
"""

from __future__ import annotations

import torch

from bench import agreement, doors, evaluating, peers, ratings, reading, recommending, training


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for part in (reading, training, recommending, peers, evaluating, agreement, doors, ratings):
        print()
        part.main()


if __name__ == "__main__":
    main()
