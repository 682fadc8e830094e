"""`make bench`: reading, training and recommending, each beside the plain way to do it."""

from __future__ import annotations

import torch

from bench import peers, reading, recommending, strong, training


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for part in (reading, training, recommending, peers, strong):
        print()
        part.main()


if __name__ == "__main__":
    main()
