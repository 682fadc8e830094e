"""`make bench`: reading, training, recommending, evaluating, each beside the plain way; metrics."""

from __future__ import annotations

import torch

from bench import agreement, evaluating, peers, reading, recommending, training


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for part in (reading, training, recommending, peers, evaluating, agreement):
        print()
        part.main()


if __name__ == "__main__":
    main()
