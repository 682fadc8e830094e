"""What every model with a network repeats: to keep it once trained, and to rebuild it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from foretaste.models.base import Model


class NeuralModel(Model):
    """A model that keeps a trained network in `network_`, on the CPU and in evaluation mode.

    A bundle holds the tensors of the network and no code: `restore` builds a network from their
    shapes and the hyperparameters. The class does not know how the network is trained.
    """

    network_: Any  # a field of each model, which declares the class of its network

    @abstractmethod
    def build(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """Return a network that the weights can be loaded into; what is in it does not matter.

        Args:
            weights: The state of a network of this model, whose shapes count.
        """

    def keep(self, network: nn.Module) -> None:
        """Keep a trained network, wherever it was trained.

        Args:
            network: The network, which is moved to the CPU and put into evaluation mode.
        """
        self.network_ = network.cpu().eval()

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Self:
        """Put back what `state` returned, the network rebuilt from the shapes of its tensors."""
        super().restore(tensors, values)
        inside = "network_."
        weights = {n.removeprefix(inside): t for n, t in tensors.items() if n.startswith(inside)}
        with torch.random.fork_rng(devices=[]):  # new weights are drawn, and overwritten at once
            network = self.build(weights)
        network.load_state_dict(weights)
        self.keep(network)
        return self
