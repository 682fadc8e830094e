"""The networks against their formulas, and new users fitted from their histories."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

import foretaste as ft
from foretaste.data.histories import Histories, histories_of
from foretaste.models.networks import EmbeddingNet, HistoryNet, Incidence, RatingNet, _Pool, pool
from foretaste.training.engine import Engine
from tests.conftest import synthetic
from tests.processes import small_model

N_USERS, N_ITEMS, N_FACTORS = 4, 5, 3
RATED = [(0, 0), (0, 3), (1, 2), (3, 0), (3, 1), (3, 4), (3, 2)]  # user 2 has rated nothing


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def incidence() -> Incidence:
    user_r, item_r = torch.tensor(RATED).T
    shuffled = torch.randperm(len(RATED), generator=generator())
    return Incidence.of(user_r[shuffled], item_r[shuffled], N_USERS, N_ITEMS)


def network(kind: str) -> RatingNet:
    """A small network in evaluation mode, every number in it random."""
    sizes = (N_USERS, N_ITEMS, N_FACTORS, [7, 6], [0.3])
    if kind == "article":
        net = EmbeddingNet(*sizes, reach=(0.25, 5.25), generator=generator())
    else:
        net = HistoryNet(*sizes, mean=3.5, generator=generator())
        net.incidence = incidence()
    for parameter in net.parameters():
        parameter.data.normal_(generator=generator(parameter.numel()))
    return net.eval()


def layers(net: RatingNet, x_bd: np.ndarray) -> np.ndarray:
    """Linear, ReLU, Linear, ReLU, Linear by hand: (B, 2k) to (B,)."""
    first, second = (
        (layer.weight.detach().numpy(), layer.bias.detach().numpy())
        for layer in net.hidden
        if isinstance(layer, torch.nn.Linear)
    )
    for weight, bias in (first, second):
        x_bd = np.maximum(0, x_bd @ weight.T + bias)
    return x_bd @ net.output.weight.detach().numpy()[0] + net.output.bias.detach().numpy()[0]


def every_pair() -> tuple[Tensor, Tensor]:
    return (
        torch.arange(N_USERS).repeat_interleave(N_ITEMS),
        torch.arange(N_ITEMS).repeat(N_USERS),
    )


# -- the article's


def test_the_article_network_prints_as_the_articles():
    net = ft.EmbeddingNet(6040, 3706, n_factors=150, hidden=[100, 200, 300], dropouts=[0.25, 0.5])
    assert str(net) == (
        "EmbeddingNet(\n"
        "  (user): Embedding(6040, 150)\n"
        "  (item): Embedding(3706, 150)\n"
        "  (drop): Dropout(p=0.05, inplace=False)\n"
        "  (hidden): Sequential(\n"
        "    (0): Linear(in_features=300, out_features=100, bias=True)\n"
        "    (1): ReLU()\n"
        "    (2): Dropout(p=0.25, inplace=False)\n"
        "    (3): Linear(in_features=100, out_features=200, bias=True)\n"
        "    (4): ReLU()\n"
        "    (5): Dropout(p=0.5, inplace=False)\n"
        "    (6): Linear(in_features=200, out_features=300, bias=True)\n"
        "    (7): ReLU()\n"
        "  )\n"
        "  (output): Linear(in_features=300, out_features=1, bias=True)\n"
        ")"
    )
    assert str(ft.EmbeddingNet(6040, 3706)) == str(net)  # those are the defaults


def test_the_article_network_starts_as_the_articles():
    net = EmbeddingNet(500, 400, generator=generator())
    for table in (net.user.weight, net.item.weight):
        assert float(table.detach().abs().max()) == pytest.approx(0.05, rel=1e-3)
        assert float(table.detach().std()) == pytest.approx(0.05 / 3**0.5, rel=0.02)  # uniform
    for layer in [*net.hidden, net.output]:
        if isinstance(layer, torch.nn.Linear):
            bound = (6 / (layer.in_features + layer.out_features)) ** 0.5  # Xavier-uniform
            assert float(layer.weight.detach().abs().max()) == pytest.approx(bound, rel=0.02)
            assert layer.bias.tolist() == pytest.approx([0.01] * layer.out_features)


def test_the_same_generator_gives_the_same_weights_and_leaves_global_randomness_alone():
    before = torch.get_rng_state()
    first, second = (EmbeddingNet(9, 8, generator=generator(3)).state_dict() for _ in range(2))
    third, fourth = (HistoryNet(9, 8, generator=generator(3)).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(third[name], fourth[name]) for name in third)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_article_network_is_its_formula():
    net = network("article")
    user_p, item_p = every_pair()
    joined = np.concatenate(
        [net.user.weight.detach().numpy()[user_p], net.item.weight.detach().numpy()[item_p]], axis=1
    )
    expected = 0.25 + 5.0 / (1 + np.exp(-layers(net, joined)))
    np.testing.assert_allclose(net(user_p, item_p).detach(), expected, rtol=1e-5)


def test_the_article_networks_ratings_reach_half_a_step_beyond_the_scale():
    net = network("article")
    with torch.no_grad():
        for bias, end in ((-1e4, 0.25), (1e4, 5.25)):
            net.output.bias.fill_(bias)
            assert net(*every_pair()).unique().tolist() == [end]


@pytest.mark.parametrize(("step", "reach"), [(1.0, [0.5, 5.5]), (0.5, [0.25, 2.75])])
def test_the_step_of_the_ratings_sets_the_reach(step, reach, ratings):
    frame = ratings.frame().with_columns(pl.col("value") * step)
    model = small_model(architecture="article", epochs=1)
    model = model.fit(ft.from_frame(frame), Engine())
    reached = model.in_ratings(model.network_.get_buffer("reach"))
    torch.testing.assert_close(reached, torch.tensor(reach), atol=1e-5, rtol=0)


def test_a_network_that_learned_nothing_leaves_the_say_to_the_biases():
    draw = np.random.default_rng(0)
    pair = draw.permutation(300 * 60)[:1500]
    value = draw.normal(size=300)[pair // 60] + draw.normal(size=1500)
    frame = pl.DataFrame({"user": pair // 60, "item": pair % 60, "rating": value})
    parts = ft.split(ft.from_frame(frame), "random", test=0.3, seed=0)
    model = small_model(epochs=8, learning_rate=0.05, validation=0.1)
    fitted = ft.fit(model, parts.train, progress=False)
    bias = ft.fit(ft.Bias(), parts.train, progress=False)
    rmse, of_biases = (ft.evaluate(m, parts, ranking=False).metrics["rmse"] for m in (fitted, bias))
    assert isinstance(fitted.model, ft.EmbeddingModel)
    assert fitted.model.share_ < 0.5
    assert rmse.value < of_biases.high
    assert rmse.value < 1.01 * of_biases.value


# -- ours


def test_our_network_is_its_formula():
    net = network("history")
    assert isinstance(net, HistoryNet)
    tables = (net.user, net.item, net.rated, net.raters)
    user_ud, item_id, y_ik, z_uk = (table.weight.detach().double().numpy() for table in tables)
    user_p, item_p = every_pair()
    expected = []
    for u, i in zip(user_p.tolist(), item_p.tolist(), strict=True):
        items, users = [j for v, j in RATED if v == u], [v for v, j in RATED if j == i]
        p_k = user_ud[u, :-1] + sum(y_ik[j] for j in items) / max(1, len(items)) ** 0.5
        q_k = item_id[i, :-1] + sum(z_uk[v] for v in users) / max(1, len(users)) ** 0.5
        mlp = layers(net, np.concatenate([p_k, q_k])[None])[0]
        expected.append(3.5 + user_ud[u, -1] + item_id[i, -1] + p_k @ q_k + mlp)
    np.testing.assert_allclose(net(user_p, item_p).detach(), expected, rtol=1e-4, atol=1e-5)


def test_our_network_starts_with_small_vectors_and_no_bias():
    net = HistoryNet(500, 400, generator=generator())
    for table in (net.user.weight, net.item.weight):
        assert float(table[:, :-1].detach().std()) == pytest.approx(0.05, rel=0.02)
        assert table[:, -1].detach().unique().tolist() == [0.0]
    for table in (net.rated.weight, net.raters.weight):
        assert float(table.detach().std()) == pytest.approx(0.01, rel=0.02)


def test_settling_changes_no_rating():
    net = network("history")
    before = net(*every_pair())
    net.settle()
    torch.testing.assert_close(net(*every_pair()), before)


def test_what_a_history_adds_is_what_training_added():
    net, known = network("history"), incidence()
    own_ud = net.user.weight.detach().clone()
    mean_d = torch.ones(N_FACTORS + 1)
    added_ud = net.prior(known.item_h, known.start_u, mean_d, weight=1e-9)
    net.settle()
    rated = known.start_u.diff() > 0
    torch.testing.assert_close((net.user.weight.detach() - own_ud)[rated], added_ud[rated])
    assert added_ud[2].tolist() == mean_d.tolist()  # nothing rated: the mean user


@torch.no_grad()
def test_a_short_history_starts_near_the_mean_user():
    net, known = network("history"), incidence()
    mean_d = torch.ones(N_FACTORS + 1)
    alone, shrunk = (net.prior(known.item_h, known.start_u, mean_d, w)[0] for w in (1e-9, 4.0))
    n = int(known.start_u[1])
    torch.testing.assert_close(shrunk, (n * alone + 4.0 * mean_d) / (n + 4.0))


@torch.no_grad()
def test_the_penalty_counts_own_vectors_per_rating_and_pooled_ones_per_row():
    net = network("history")
    assert isinstance(net, HistoryNet)
    user_b, item_b = torch.tensor([0, 0, 3]), torch.tensor([1, 2, 2])
    p, q = (table.weight.detach()[:, :-1].square().sum(1) for table in (net.user, net.item))
    y, z = (table.weight.detach().square().sum(1) for table in (net.rated, net.raters))
    expected = 0.1 * float((2 * p[0] + p[3] + q[1] + 2 * q[2]) / 3) + 0.2 * float(
        y.mean() + z.mean()
    )
    assert float(net.penalty(user_b, item_b, 0.1, 0.2)) == pytest.approx(expected)


def test_pooling_is_the_sum_over_the_root_of_the_number():
    table = torch.tensor([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]])
    pooled = pool(table, torch.tensor([0, 1, 2, 2, 0]), torch.tensor([0, 4, 4, 5]))
    assert pooled.tolist() == [[105.5, 211.0], [0.0, 0.0], [1.0, 2.0]]


def test_the_gradient_of_pooling_is_right_both_ways():
    known = incidence()
    items = torch.randn(N_ITEMS, 2, dtype=torch.float64, generator=generator(), requires_grad=True)
    users = torch.randn(N_USERS, 2, dtype=torch.float64, generator=generator(), requires_grad=True)
    assert torch.autograd.gradcheck(known.over_items, (items,))
    assert torch.autograd.gradcheck(known.over_users, (users,))
    torch.testing.assert_close(known.over_items(items), pool(items, known.item_h, known.start_u))
    back = (known.user_h, known.start_i)
    assert torch.autograd.gradcheck(
        lambda table: _Pool.apply(table, known.item_h, known.start_u, *back), (items,)
    )


# -- both


@pytest.mark.parametrize("kind", ["history", "article"])
def test_rating_all_items_at_once_is_rating_every_pair(kind, monkeypatch):
    net = network(kind)
    net.settle()
    user_p, item_p = every_pair()
    user_ud, item_id = net.user.weight, net.item.weight
    pairs = net.rate(user_ud[user_p], item_id[item_p]).view(N_USERS, N_ITEMS)
    torch.testing.assert_close(net.rate_all(user_ud), pairs)
    monkeypatch.setattr("foretaste.models.networks.PAIRS", 2 * N_ITEMS)  # in several parts
    torch.testing.assert_close(net.rate_all(user_ud), pairs)


@pytest.mark.parametrize("kind", ["history", "article"])
@pytest.mark.parametrize(("hidden", "dropouts"), [([], []), ([5], [0.5]), ([5, 4, 3], [0.1])])
def test_any_number_of_layers_works(kind, hidden, dropouts, ratings):
    model = small_model(architecture=kind, hidden=hidden, dropouts=dropouts, epochs=1)
    recommender = ft.fit(model, ratings, progress=False)
    predicted = recommender.predict(["u1"] * 3, ["i1", "i2", "i3"])["rating"]
    score_i = recommender.model.score(histories_of(ratings, ratings.users.rows(["u1"]), ratings))[0]
    at = ratings.items.rows(["i1", "i2", "i3"])
    np.testing.assert_allclose(predicted, score_i[at].clamp(1, 5), rtol=1e-5)


# -- new users


@pytest.fixture(scope="module", params=["history", "article"])
def of_new_users(request):
    """A model, and the histories and hidden ratings of users that it was not trained on."""
    parts = ft.split(synthetic(300, 40, 6000), "users", test=0.3, hidden=0.4)
    model = small_model(
        architecture=request.param, epochs=12, patience=12, batch_size=256, dropouts=[],
        learning_rate=1e-2, layer_rate=3e-3,
    )  # fmt: skip
    return model.fit(parts.train, Engine()), parts


def histories(parts: ft.Split, dataset: ft.Dataset, at_most: int | None = None) -> Histories:
    """Of the held-out users, in the rows of train; the first `at_most` ratings of each."""
    rows = dataset.users.find(parts.test.users.values)
    batch = histories_of(dataset, rows, parts.train)
    if at_most is None:
        return batch
    place_h = torch.arange(len(batch.item_h)) - batch.pointer_b[:-1][batch.user_h]
    kept_h = place_h < at_most
    pointer_b = torch.cat([torch.zeros(1, dtype=torch.int64), kept_h.cumsum(0)])[batch.pointer_b]
    return Histories(
        pointer_b, batch.item_h[kept_h], batch.value_h[kept_h], None, batch.train_row_b
    )


def error(model: ft.EmbeddingModel, known: Histories, of: Histories) -> float:
    """RMSE on the ratings of one batch, knowing another."""
    score_bi = model.score(known)
    return float((score_bi[of.user_h, of.item_h] - of.value_h).square().mean().sqrt())


def test_a_new_users_own_ratings_are_fitted_better_than_by_the_mean_user(of_new_users):
    model, parts = of_new_users
    known = histories(parts, parts.history)
    nothing = histories(parts, parts.history, at_most=0)
    assert error(model, known, of=known) < 0.9 * error(model, nothing, of=known)


def test_the_more_of_a_new_users_history_the_better_the_hidden_ratings(of_new_users):
    model, parts = of_new_users
    hidden = histories(parts, parts.test)
    errors = [error(model, histories(parts, parts.history, n), hidden) for n in (3, 6, 12)]
    assert errors[0] > errors[1] > errors[2]
    nothing = histories(parts, parts.history, at_most=0)
    assert errors[2] < 0.95 * error(model, nothing, hidden)


def test_fold_in_changes_nothing_in_the_model(of_new_users):
    model, parts = of_new_users
    before = {name: tensor.clone() for name, tensor in model.state()[0].items()}
    model.score(histories(parts, parts.history))
    after = model.state()[0]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_someone_without_a_history_is_the_mean_user(of_new_users):
    model, parts = of_new_users
    nobody = histories(parts, parts.history, at_most=0)
    torch.testing.assert_close(
        model.user_vectors(nobody)[0], model.network_.user.weight.detach().mean(dim=0)
    )
