"""A Gibbs chain from its first sweep to the draws that are kept: stops, resumes, says if it mixed.

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

PROBES = 512
FEWEST = 12  # draws before the halves of a chain say anything of each other
MIXED = 1.2  # split R-hat that nine predictions in ten must reach


@dataclass(frozen=True)
class Schedule:
    """After burn_in sweeps every keep_every-th draw is kept, until there are `samples`, or sooner.

    tolerance: Monte Carlo error of a posterior mean, in standard deviations of the noise, at which
    the chain stops; 0 never stops it.
    """

    burn_in: int
    samples: int
    keep_every: int
    tolerance: float

    @property
    def sweeps(self) -> int:
        """All sweeps of a chain that does not settle."""
        return self.burn_in + self.samples * self.keep_every

    def kept(self, done: int) -> int:
        """Draws kept after `done` sweeps."""
        return max(0, done - self.burn_in) // self.keep_every

    def settled(self, trace_sq: Tensor, alpha: float) -> bool:
        """Whether the posterior means of the probes have settled."""
        if len(trace_sq) < FEWEST:
            return False
        return monte_carlo_error(trace_sq) * alpha**0.5 < self.tolerance


def run(
    chain: Chain, schedule: Schedule, rng: Generator, engine: Engine, identity: str
) -> dict[str, Tensor]:
    """All sweeps, from the last checkpoint where there is one; returns the kept draws, stacked.

    Among them "trace": the predictions of the probes, (s, q).
    """
    probe_q = torch.linspace(0, len(chain.y_n) - 1, PROBES).long().unique()
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
                    tensors = chain.drawn() | kept | {"rng": rng.get_state()}
                    Checkpoints(engine.folder).save(tensors, {"sweep": done}, "gibbs", identity)
        except KeyboardInterrupt:
            raise ModelError(
                f"interrupted in sweep {done + 1} of {schedule.sweeps}.",
                fix="Run the same command again to go on from the last checkpoint.",
            ) from None
    return {name: draws[: schedule.kept(done)] for name, draws in kept.items()}


def kept_draw(chain: Chain, probe_q: Tensor) -> dict[str, Tensor]:
    """What fold-in needs of a draw: items as they are, users through their prior; and probes."""
    users, items = chain.users, chain.items
    x_qk, v_qk = users.X_rk[users.row_n[probe_q]], items.X_rk[items.row_n[probe_q]]
    return {
        "item_sik_": items.X_rk, "item_mean_sik_": items.mean_rk, "item_noise_si_": items.noise_r,
        "item_doubt_si_": gibbs.doubt(items, users, chain.alpha), "item_mu_sk_": items.mu_k,
        "item_Lambda_skk_": items.Lambda_kk, "item_beta_sfk_": torch.cat(items.betas_fk),
        "user_mu_sk_": users.mu_k, "user_Lambda_skk_": users.Lambda_kk,
        "user_beta_sfk_": torch.cat(users.betas_fk), "alpha_s_": chain.alpha,
        "tau_sc_": chain.tau_c, "cut_sl_": chain.cut_l,
        "trace": factor_rows.dot(x_qk, v_qk),
    }  # fmt: skip


def _resume(
    chain: Chain, kept: dict[str, Tensor], rng: Generator, engine: Engine, identity: str
) -> int:
    """Puts the last checkpoint's tensors in place; returns how many sweeps are done."""
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
    """Standard error of means over the draws of one chain, from its halves: root mean over q."""
    half = len(trace_sq) // 2
    apart_q = trace_sq[:half].double().mean(0) - trace_sq[-half:].double().mean(0)
    return float(apart_q.square().mean().sqrt()) / 2


def split_rhat(trace_sq: Tensor) -> Tensor:
    """Split R-hat of q quantities over s draws of one chain (Gelman et al. 2013, 11.4): (q,)."""
    half = len(trace_sq) // 2
    halves_2sq = torch.stack([trace_sq[:half], trace_sq[-half:]]).double()
    within_q = halves_2sq.var(1).mean(0)
    between_q = half * halves_2sq.mean(1).var(0)
    return (((half - 1) / half * within_q + between_q / half) / within_q.clamp(min=1e-12)).sqrt()


def mixing(trace_sq: Tensor, alpha_s: Tensor) -> dict[str, float]:
    """Split R-hat of the probes in the median and at nine in ten, and of the noise precision.

    And the Monte Carlo error of their means in standard deviations of the noise.  Empty where
    there are too few draws to tell.
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
    """A warning where the predictions of a chain's halves still differ."""
    if found.get("nine_in_ten", 0.0) < MIXED:
        return []
    return [
        f"the chain has not mixed: of ten predictions watched, one has a split R-hat above "
        f"{found['nine_in_ten']:.2f} ({MIXED} is the limit). Raise burn_in and samples."
    ]
