"""Models with a network: it is kept on the CPU, and rebuilt from tensors alone."""

from __future__ import annotations

import pytest
import torch

import foretaste as ft
from foretaste.models.neural import NeuralModel
from foretaste.training.engine import Engine
from tests.processes import small_model

MODELS = {
    "history": lambda: small_model(epochs=1),
    "article": lambda: small_model(architecture="article", epochs=1),
    "two-tower": lambda: ft.TwoTower(n_factors=4, hidden=4, epochs=1),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_network_is_rebuilt_from_tensors_and_leaves_global_randomness_alone(kind, ratings):
    model = MODELS[kind]().fit(ratings, Engine(seed=1))
    assert isinstance(model, NeuralModel)
    tensors, values = model.state()
    before = torch.get_rng_state()
    restored = model.unfitted().restore(tensors, values)
    assert torch.equal(torch.get_rng_state(), before)
    assert not restored.network_.training
    kept, rebuilt = model.network_.state_dict(), restored.network_.state_dict()
    assert kept.keys() == rebuilt.keys()
    assert all(torch.equal(kept[name], rebuilt[name]) for name in kept)
    assert all(tensor.device.type == "cpu" for tensor in kept.values())
