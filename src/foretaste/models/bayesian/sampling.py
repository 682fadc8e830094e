"""A Gibbs chain from its first sweep to its kept draws: when it stops, resumes, and has mixed.

Axes: as in gibbs.py, with s kept draws and q probes, training pairs whose predictions are watched.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median, quantiles

import torch
from torch import Generator, Tensor

from foretaste.errors import ModelError
from foretaste.models.bayesian import factor_rows, gibbs
from foretaste.models.bayesian.gibbs import Chain
from foretaste.training.checkpoints import Checkpoints
from foretaste.training.engine import Engine

PROBES = 512  # training pairs whose predictions are watched
FEWEST = 12  # draws without which the halves of a chain cannot be compared
MIXED = 1.2  # split R-hat below which nine predictions in ten must be


@dataclass(frozen=True)
class Schedule:
    """How long a chain runs, and which of its draws are kept.

    Args:
        burn_in: Sweeps before the first draw is kept.
        samples: Draws kept where the chain does not settle sooner.
        keep_every: Sweeps from one kept draw to the next.
        tolerance: Monte Carlo error of posterior means, in standard deviations of the noise, below
            which the chain stops; 0 never stops it.
    """

    burn_in: int
    samples: int
    keep_every: int
    tolerance: float

    @property
    def sweeps(self) -> int:
        """Return the number of sweeps of a chain that does not settle."""
        return self.burn_in + self.samples * self.keep_every

    def kept(self, done: int) -> int:
        """Return how many draws are kept after some sweeps.

        Args:
            done: How many sweeps are done.
        """
        return max(0, done - self.burn_in) // self.keep_every

    def settled(self, trace_sq: Tensor, alpha: float) -> bool:
        """Return whether the posterior means of the probes have settled.

        Args:
            trace_sq: Predictions of the probes by the draws kept so far: (s, q).
            alpha: Noise precision of the last draw.
        """
        if len(trace_sq) < FEWEST:
            return False
        return monte_carlo_error(trace_sq) * alpha**0.5 < self.tolerance


def run(
    chain: Chain, schedule: Schedule, rng: Generator, engine: Engine, identity: str
) -> dict[str, Tensor]:
    """Run all sweeps, from the last checkpoint where there is one.

    Args:
        chain: The chain before its first sweep.
        schedule: How long it runs, and which draws are kept.
        rng: Random numbers of the sweeps.
        engine: Where checkpoints and progress go.
        identity: What a checkpoint must agree on to be resumed.

    Returns:
        The kept draws by name, stacked along a first axis s; "trace" has the predictions of the
        probes (s, q).

    Raises:
        ModelError: The run is interrupted.
    """
    # Evenly spaced among ratings sorted by user: light and heavy users are watched alike.
    probe_q = torch.linspace(0, len(chain.y_n) - 1, PROBES).long().unique()
    # Room for every draw from the start, so that a run that fits into memory at first does to the
    # end.
    kept = {
        name: draw.new_zeros(schedule.samples, *draw.shape)
        for name, draw in kept_draw(chain, probe_q).items()
    }
    done, saved = _resume(chain, kept, rng, engine, identity), time.monotonic()
    settled = schedule.settled(kept["trace"][: schedule.kept(done)], float(chain.alpha))
    what = "latent residual" if len(chain.cut_l) else "RMSE on train"
    with engine.meter("gibbs", schedule.sweeps) as meter:
        meter.advance(done)
        try:
            while done < schedule.sweeps and not settled:
                error = gibbs.sweep(chain, done, rng)
                done += 1
                if schedule.kept(done) > schedule.kept(done - 1):
                    for name, draw in kept_draw(chain, probe_q).items():
                        kept[name][schedule.kept(done) - 1] = draw
                    trace_sq = kept["trace"][: schedule.kept(done)]
                    settled = schedule.settled(trace_sq, float(chain.alpha))
                meter.advance(1, f"{what} {error:.4f}")
                if time.monotonic() - saved > engine.save_every:
                    saved = time.monotonic()
                    # The state of the generator is saved as well: a resumed chain draws the very
                    # numbers that the interrupted one would have drawn.
                    tensors = chain.drawn() | kept | {"rng": rng.get_state()}
                    Checkpoints(engine.folder).save(tensors, {"sweep": done}, "gibbs", identity)
        except KeyboardInterrupt:
            raise ModelError(
                f"interrupted in sweep {done + 1} of {schedule.sweeps}.",
                fix="Run the same command again to go on from the last checkpoint.",
            ) from None
    return {name: draws[: schedule.kept(done)] for name, draws in kept.items()}


def kept_draw(chain: Chain, probe_q: Tensor) -> dict[str, Tensor]:
    """Return what fold-in needs of a draw: the items, the prior of users, and the probes.

    Args:
        chain: The chain after a sweep.
        probe_q: The ratings whose predictions are watched: (q,).
    """
    users, items = chain.users, chain.items
    x_qk, v_qk = users.X_rk[users.row_n[probe_q]], items.X_rk[items.row_n[probe_q]]
    return {
        "item_sik_": items.X_rk, "item_mean_sik_": items.mean_rk, "item_noise_si_": items.noise_r,
        "item_doubt_si_": gibbs.doubt(items, users, chain.alpha), "item_mu_sk_": items.mu_k,
        "item_Lambda_skk_": items.Lambda_kk, "item_beta_sfk_": torch.cat(items.betas_fk),
        "user_mu_sk_": users.mu_k, "user_Lambda_skk_": users.Lambda_kk,
        "user_beta_sfk_": torch.cat(users.betas_fk), "alpha_s_": chain.alpha,
        "offset_s_": chain.offset,
        "tau_sc_": chain.tau_c, "cut_sl_": chain.cut_l,
        "trace": factor_rows.dot(x_qk, v_qk),
    }  # fmt: skip


def _resume(
    chain: Chain, kept: dict[str, Tensor], rng: Generator, engine: Engine, identity: str
) -> int:
    """Put the tensors of the last checkpoint in place, and return how many sweeps are done."""
    found = Checkpoints(engine.folder).load("gibbs", identity)
    if found is None:
        return 0
    tensors, values = found
    rng.set_state(tensors.pop("rng"))
    for name, tensor in (chain.drawn() | kept).items():
        tensor.copy_(tensors[name])
    return values["sweep"]


# -- mixing


def monte_carlo_error(trace_sq: Tensor) -> float:
    """Return the standard error of means over the draws of one chain, from its two halves.

    Args:
        trace_sq: Draws of the quantities: (s, q).

    Returns:
        The root of the mean square over q, in the unit of the quantities.
    """
    half = len(trace_sq) // 2
    # The means of the halves are independent, each with twice the variance of the mean of all:
    # their distance has four times that variance, whence the half.
    apart_q = trace_sq[:half].double().mean(0) - trace_sq[-half:].double().mean(0)
    return float(apart_q.square().mean().sqrt()) / 2


def split_rhat(trace_sq: Tensor) -> Tensor:
    """Return split R-hat of quantities over one chain (Gelman et al. 2013, 11.4): (q,).

    Args:
        trace_sq: Draws of the quantities: (s, q).
    """
    half = len(trace_sq) // 2
    halves_2sq = torch.stack([trace_sq[:half], trace_sq[-half:]]).double()
    within_q = halves_2sq.var(1).mean(0)
    between_q = half * halves_2sq.mean(1).var(0)
    return (((half - 1) / half * within_q + between_q / half) / within_q.clamp(min=1e-12)).sqrt()


def mixing(trace_sq: Tensor, alpha_s: Tensor) -> dict[str, float]:
    """Measure how well a chain has mixed.

    Args:
        trace_sq: Predictions of the probes by the kept draws: (s, q).
        alpha_s: Noise precisions of the kept draws: (s,).

    Returns:
        Split R-hat of the probes at the median and at nine in ten ("median", "nine_in_ten") and of
        the noise precision ("noise"), and the Monte Carlo error of the probes' means in standard
        deviations of the noise ("error"); empty where there are too few draws.
    """
    if len(trace_sq) < FEWEST:
        return {}
    rhat_q = split_rhat(trace_sq).tolist()
    error = monte_carlo_error(trace_sq) * float(alpha_s.mean()) ** 0.5
    return {
        "median": median(rhat_q), "nine_in_ten": quantiles(rhat_q, n=10)[-1],
        "noise": float(split_rhat(alpha_s[:, None])), "error": error,
    }  # fmt: skip


def mixing_notes(found: dict[str, float]) -> list[str]:
    """Return a warning where the predictions of a chain's halves still differ, or [].

    Args:
        found: What `mixing` returned.
    """
    if found.get("nine_in_ten", 0.0) < MIXED:
        return []
    return [
        f"the chain has not mixed: of ten predictions watched, one has a split R-hat above "
        f"{found['nine_in_ten']:.2f} ({MIXED} is the limit). Raise burn_in and samples."
    ]
