"""Judges a model of template sequences on its held-out recordings.

    python -m sdt_jax.evaluation.sequences --workdir=<run of template_sequence> \
      [--pose_vae=DIR] [--seconds=60] [--num_samples=4] [--seed=0]

Prints tables and writes `sequences.json` and `sequences.png` into the workdir. The
model is compared with

constant        stays at the previous template
random rows     any row of the bank, whatever came before
nearest sound   rows of clips that sound like the coming block
bigram          rows of clusters (k-means) that follow that of the previous template

Each of them is also a density: constant, a Gaussian around the previous template; the
others, Gaussians around the rows of the bank that the method would choose. Their widths
are fitted to the training recordings, with the recording of each clip left out, so that
all are as good as they can be. "live" does not know the sound of the coming block.

Conventions: templates are whitened; n transitions, m templates, C candidates (rows of
the bank from training recordings), D dimensions. A block is 64 frames.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from scipy.cluster import vq

from sdt_jax import audio, cli, workdir
from sdt_jax.data.pipeline import Split
from sdt_jax.errors import UserError
from sdt_jax.evaluation import frechet, metrics, plots, scoring
from sdt_jax.evaluation.metrics import Estimate
from sdt_jax.methods.template_sequence import TemplateSequence
from sdt_jax.methods.train_state import TrainState
from sdt_jax.models.template_sequence import Context, Mixture, gaussians
from sdt_jax.synthesis.generate import GestureModel
from sdt_jax.templates.auto import AutoDirector
from sdt_jax.templates.director import BLOCK, Director
from sdt_jax.training import runs, setup
from sdt_jax.training.runs import Run

_MOST_ROWS = 2048  # training transitions that the widths are fitted to
_FIT_STEPS = 150
_CLUSTERS = 32
_STAYS = 0.1  # quantile of the distances of random rows below which a template stays

Density = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Rows (n,) of the bank, and templates (m, D) -> log densities (n, m) of the templates
as those of the clips in these rows."""
Choose = Callable[[Context, jax.Array], jax.Array]
"""As `TemplateSequence.choose`."""


class Policy(NamedTuple):
  """A way to continue a sequence of templates; without a density, only generation."""

  choose: Choose
  density: Density | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
  """The bank of a model of template sequences.

  Attributes:
    method, state: the model.
    templates: (N, D) whitened.
    bank: the entries of `TrainState.bank`.
    candidates: (C,) rows from training recordings.
    transitions: rows of the held-out clips with a clip before them.
    fitted: rows of training clips with a clip before them.
  """

  method: TemplateSequence
  state: TrainState
  templates: np.ndarray
  bank: dict[str, np.ndarray]
  candidates: np.ndarray
  transitions: np.ndarray
  fitted: np.ndarray

  @classmethod
  def of(cls, method: TemplateSequence, state: TrainState) -> "Data":
    bank = {name: np.asarray(rows) for name, rows in state.bank.items()}
    training = np.asarray(method.is_candidate(state))
    candidates = method.candidates(len(training))
    follows = bank["previous"][:, 0] >= 0
    [fitted] = np.nonzero(training & follows)
    return cls(
      method=method,
      state=state,
      templates=np.asarray(method.whiten(state, state.bank["mean"])),
      bank=bank,
      candidates=candidates[training[candidates]],
      transitions=np.flatnonzero(bank["held_out"] & follows),
      fitted=fitted[:: -(-len(fitted) // _MOST_ROWS)],
    )

  @property
  def sounds(self) -> np.ndarray:
    """(N, T * F)."""
    return self.bank["sound"].reshape(len(self.templates), -1)


# --- Policies


def policies(data: Data) -> dict[str, Policy]:
  """The model and what it is compared with."""
  kernels = {
    "random rows": _equal_weights(data),
    "nearest sound": _sound_weights(data),
    "bigram": _bigram_weights(data),
  }
  return {
    "auto": _auto(data, live=False),
    "auto, live": _auto(data, live=True),
    "constant": _constant(data),
    **{name: _rows(data, weigh) for name, weigh in kernels.items()},
  }


def _auto(data: Data, live: bool) -> Policy:
  method, state = data.method, data.state
  centres = method.centres(state)
  log_density = jax.vmap(Mixture.log_density, (None, 0, None))
  log_densities = jax.jit(jax.vmap(log_density, (0, None, None)))
  mixtures = jax.jit(lambda rows: method.mixtures(state, rows, live))

  def density(rows: np.ndarray, templates: np.ndarray) -> np.ndarray:
    parts = np.array_split(rows, -(-len(rows) // 64))
    return np.concatenate(
      [log_densities(mixtures(part), templates, centres) for part in parts]
    )

  def choose(context: Context, key: jax.Array) -> jax.Array:
    heard = context.has_sound & jnp.array([True, not live])
    return method.choose(state, context._replace(has_sound=heard), key)

  return Policy(jax.jit(choose), density)


def _constant(data: Data) -> Policy:
  latest = data.bank["previous"][:, 0]
  steps = data.templates[data.fitted] - data.templates[latest[data.fitted]]
  log_sd = jnp.asarray(0.5 * np.log(np.square(steps).mean(0)))

  def density(rows: np.ndarray, templates: np.ndarray) -> np.ndarray:
    by_row = jax.vmap(gaussians, (0, None, None))
    previous = jnp.asarray(data.templates[latest[rows]])
    return np.asarray(by_row(previous, jnp.asarray(templates), log_sd))

  bank = data.state.bank["mean"][data.candidates]

  def choose(context: Context, key: jax.Array) -> jax.Array:
    first = bank[jax.random.categorical(key, jnp.zeros(len(bank)))]
    return jnp.where(context.has_previous[0], context.previous[0], first)

  return Policy(jax.jit(choose), density)


class _Given(NamedTuple):
  """What the weights of rows depend on: (n, D) whitened, (n, T * F)."""

  previous: jax.Array
  coming: jax.Array


Weigh = Callable[[jax.Array, _Given], jax.Array]
"""A parameter () and what is given -> logits (n, C) of the candidates."""


def _rows(data: Data, weigh: Weigh) -> Policy:
  """Gaussians around the candidates, with weights; chooses a candidate."""
  params = _fit(data, weigh)
  centres = jnp.asarray(data.templates[data.candidates])
  bank = data.state.bank["mean"][data.candidates]

  def choose(context: Context, key: jax.Array) -> jax.Array:
    previous = data.method.whiten(data.state, context.previous[:1])
    logits = weigh(
      params["sharpness"], _Given(previous, context.sounds[1:].reshape(1, -1))
    )
    logits = jnp.where(context.has_previous[0], logits[0], 0)
    return bank[jax.random.categorical(key, logits)]

  def density(rows: np.ndarray, templates: np.ndarray) -> np.ndarray:
    near = jax.vmap(gaussians, (0, None, None))(
      jnp.asarray(templates), centres, params["log_sd"]
    )
    log_weights = jax.nn.log_softmax(weigh(params["sharpness"], _given(data, rows)))
    parts = [jax.nn.logsumexp(near + w, axis=-1) for w in log_weights]
    return np.stack(parts)

  return Policy(jax.jit(choose), density)


def _given(data: Data, rows: np.ndarray) -> _Given:
  previous = data.templates[data.bank["previous"][rows, 0]]
  return _Given(jnp.asarray(previous), jnp.asarray(data.sounds[rows]))


def _fit(data: Data, weigh: Weigh) -> dict[str, jax.Array]:
  """Widths (D,) and sharpness () that are best without the own recording."""
  recording = data.bank["recording"]
  allowed = recording[data.candidates] != recording[data.fitted][:, None]
  targets = jnp.asarray(data.templates[data.fitted])
  centres = jnp.asarray(data.templates[data.candidates])
  given = _given(data, data.fitted)

  def loss_fn(params: dict[str, jax.Array], allowed, targets, centres, given):
    logits = jnp.where(allowed, weigh(params["sharpness"], given), -1e9)
    near = jax.vmap(gaussians, (0, None, None))(targets, centres, params["log_sd"])
    return -jnp.mean(jax.nn.logsumexp(jax.nn.log_softmax(logits) + near, axis=-1))

  size = data.method.size
  params = {"log_sd": jnp.full(size, -0.5), "sharpness": jnp.zeros(())}
  optimizer = optax.adam(0.03)

  @jax.jit
  def step(params, state, *arrays):
    updates, state = optimizer.update(jax.grad(loss_fn)(params, *arrays), state)
    return optax.apply_updates(params, updates), state

  state = optimizer.init(params)
  for _ in range(_FIT_STEPS):
    params, state = step(params, state, allowed, targets, centres, given)
  return params


def _equal_weights(data: Data) -> Weigh:
  shape = data.candidates.shape
  return lambda sharpness, given: jnp.zeros((len(given.previous), *shape)) * sharpness


def _sound_weights(data: Data) -> Weigh:
  """Falls with the distance of the sounds."""
  sounds = jnp.asarray(data.sounds[data.candidates])

  def weigh(sharpness: jax.Array, given: _Given) -> jax.Array:
    product = given.coming @ sounds.T
    squares = [jnp.square(s).sum(-1) for s in (given.coming, sounds)]
    distance = squares[0][:, None] + squares[1] - 2 * product
    return -jnp.exp(sharpness) * distance / sounds.shape[1]

  return weigh


def _bigram_weights(data: Data) -> Weigh:
  """Counts of transitions between clusters, with one added to each."""
  count = min(_CLUSTERS, len(data.candidates))
  rows = data.templates[data.candidates]
  first = np.random.default_rng(0).choice(rows, count, replace=False)
  codebook, _ = vq.kmeans2(rows, first, minit="matrix")
  of_all, _ = vq.vq(data.templates, codebook)
  labels, centres = of_all[data.candidates], jnp.asarray(codebook)
  counts = np.ones((count, count))
  latest = data.bank["previous"][data.fitted, 0]
  np.add.at(counts, (of_all[latest], of_all[data.fitted]), 1)
  sizes = np.maximum(np.bincount(labels, minlength=count), 1)
  shares = counts / counts.sum(1, keepdims=True) / sizes
  logits = jnp.asarray(np.log(shares)[:, labels], jnp.float32)

  def weigh(sharpness: jax.Array, given: _Given) -> jax.Array:
    distance = jnp.square(given.previous[:, None] - centres).sum(-1)
    return jnp.exp(sharpness) * logits[jnp.argmin(distance, axis=1)]

  return weigh


# --- Densities


def score_densities(
  data: Data, chosen: dict[str, Policy], seed: int
) -> tuple[dict[str, dict[str, Estimate]], dict[str, np.ndarray]]:
  """How likely the true templates of the held-out transitions are.

  Returns:
    Policy -> "nll", nats per dimension; "nll over auto", the difference;
    "information", by how many nats per template the context raises the likelihood of
    the true one over the average context; and "rank", the share of other held-out
    templates whose likelihood it raises more. All with intervals over recordings. And
    policy -> ranks (n,).
  """
  rows = data.transitions
  [others] = np.nonzero(data.bank["held_out"])
  position = np.searchsorted(others, rows)
  scores: dict[str, dict[str, np.ndarray]] = {}
  for name, policy in chosen.items():
    assert policy.density is not None
    densities = policy.density(rows, data.templates[others])
    each = np.arange(len(rows))
    average = jax.nn.logsumexp(densities, axis=0) - np.log(len(rows))
    gain = densities - np.asarray(average)
    above = gain - gain[each, position][:, None]
    more_likely = np.where(above, above > 0, 0.5).sum(1) - 0.5  # without itself
    scores[name] = {
      "nll": -densities[each, position] / data.method.size,
      "information": gain[each, position],
      "rank": more_likely / (len(others) - 1),
    }
  for name in scores:
    scores[name]["nll over auto"] = scores[name]["nll"] - scores["auto"]["nll"]
  groups = data.bank["recording"][rows]
  estimates = {
    name: {key: _estimate(values, groups, seed) for key, values in by_key.items()}
    for name, by_key in scores.items()
  }
  return estimates, {name: by_key["rank"] for name, by_key in scores.items()}


def _estimate(values: np.ndarray, groups: np.ndarray, seed: int) -> Estimate:
  """Mean of values (n,), with an interval over groups (n,)."""
  _, group = np.unique(groups, return_inverse=True)
  sums, counts = np.bincount(group, values), np.bincount(group)
  draws = metrics.bootstrap_draws(len(sums), seed)
  resampled = (draws @ sums) / (draws @ counts)
  low, high = np.quantile(resampled, [0.025, 0.975])
  return Estimate(float(values.mean()), float(low), float(high), len(sums))


# --- Generation


class Stretches(NamedTuple):
  """S sounds of W blocks, from held-out recordings.

  Attributes:
    rows: (S, W) of the clips, each of which ends where the next one starts.
    sounds: each (samples,).
    truth_px: (S * W, 64, dims, joints) final poses.
  """

  rows: np.ndarray
  sounds: list[np.ndarray]
  truth_px: np.ndarray


def stretches(data: Data, split: Split, seconds: float) -> Stretches:
  """The held-out recordings in pieces of at most this length."""
  chains = _chains(data)
  longest = max(map(len, chains))
  blocks = int(min(longest, seconds * audio.FPS // BLOCK)) if seconds > 0 else 0
  if blocks < 2:
    raise UserError(
      f"--seconds={seconds:g}: give at least {2 * BLOCK / audio.FPS:.1f}, for two clips"
    )
  rows = np.array(
    [
      chain[first : first + blocks]
      for chain in chains
      for first in range(0, len(chain) - blocks + 1, blocks)
    ]
  )
  sounds = [np.concatenate(list(split.read(chain)["audio"])) for chain in rows]
  return Stretches(rows, sounds, split.poses_px(rows.reshape(-1)))


def _chains(data: Data) -> list[list[int]]:
  """Rows of held-out clips that follow one another; no frame is in two chains."""
  [held_out] = np.nonzero(data.bank["held_out"])
  previous = data.bank["previous"][:, 0]
  following = {int(previous[row]): int(row) for row in held_out}
  chains, used = [], set()
  for row in held_out:
    if previous[row] >= 0 or int(data.bank["recording"][row]) in used:
      continue
    used.add(int(data.bank["recording"][row]))
    chain = [int(row)]
    while chain[-1] in following:
      chain.append(following[chain[-1]])
    chains.append(chain)
  return chains


class _Scripted(Director):
  """Changes between given templates (W, D) as an AutoDirector does."""

  def __init__(self, templates: np.ndarray):
    rows = iter(templates)
    self._director = AutoDirector(lambda *_: next(rows), templates.shape[1], 0)

  def next(self, heard: np.ndarray | None, coming: np.ndarray | None) -> np.ndarray:
    return self._director.next(heard, coming)


def direct(
  data: Data, found: Stretches, chosen: dict[str, Policy], num_samples: int, seed: int
) -> dict[str, list[np.ndarray]]:
  """Templates (T, D) of all renderings: of the first, for each stretch, and so on.

  The row "true templates" has those of the clips themselves.
  """
  size, count = data.method.size, len(found.sounds)
  directed = {}
  for name, policy in chosen.items():
    directed[name] = [
      AutoDirector(policy.choose, size, seed * 10**6 + number * count + i).direct(sound)
      for number in range(num_samples)
      for i, sound in enumerate(found.sounds)
    ]
  truth = [
    _Scripted(data.bank["mean"][rows]).direct(sound)
    for rows, sound in zip(found.rows, found.sounds, strict=True)
  ]
  return {"true templates": truth * num_samples, **directed}


def score_sequences(
  data: Data, directed: dict[str, list[np.ndarray]], seed: int
) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
  """How the templates change from block to block.

  Returns:
    Name -> "step", the mean distance of successive templates, of random rows 1; "step
    W1", the distance of the distribution of steps from the true one; "dwell", the mean
    time in seconds that a template stays; "spread", the mean distance of any two
    templates of a stretch. And name -> steps.
  """
  rng = np.random.default_rng(seed)
  pairs = rng.choice(data.candidates, (2, 4096))
  random = np.linalg.norm(np.subtract(*data.templates[pairs]), axis=-1)
  unit, stays = random.mean(), np.quantile(random, _STAYS)
  scores, steps = {}, {}
  for name, codes in directed.items():
    blocks = [
      np.asarray(data.method.whiten(data.state, jnp.asarray(c[BLOCK - 1 :: BLOCK])))
      for c in codes
    ]
    distances = [np.linalg.norm(np.diff(b, axis=0), axis=-1) for b in blocks]
    steps[name] = np.concatenate(distances) / unit
    runs_of = [1 + int((d > stays).sum()) for d in distances]
    scores[name] = {
      "step": float(steps[name].mean()),
      "dwell": sum(map(len, blocks)) / sum(runs_of) * BLOCK / audio.FPS,
      "spread": float(np.mean([_spread(b) for b in blocks])) / float(unit),
    }
  for name in scores:
    scores[name]["step W1"] = _wasserstein(steps[name], steps["true templates"])
  return scores, steps


def _spread(points: np.ndarray) -> float:
  """Mean distance of any two different points (n, D)."""
  distances = np.linalg.norm(points[:, None] - points, axis=-1)
  return float(distances[np.triu_indices(len(points), 1)].mean())


def _wasserstein(a: np.ndarray, b: np.ndarray) -> float:
  """First Wasserstein distance of two samples of numbers."""
  at = (np.arange(200) + 0.5) / 200
  return float(np.abs(np.quantile(a, at) - np.quantile(b, at)).mean())


def score_motion(
  model: GestureModel,
  found: Stretches,
  codes: Sequence[np.ndarray],
  encode: Callable[[np.ndarray], np.ndarray],
  seed: int,
) -> dict[str, Estimate]:
  """Generates the motion of all renderings and compares it with the truth.

  Returns:
    "ftd" of the blocks; "ftd of pairs", of the features of two successive blocks, which
    also depends on their order; "diversity" within a stretch, in features, of the truth
    1. All with intervals over stretches.
  """
  copies, (count, blocks) = len(codes) // len(found.sounds), found.rows.shape
  poses_px = model.generate_many(found.sounds * copies, codes, seed)
  windows = np.concatenate([p[: blocks * BLOCK] for p in poses_px])
  features = encode(windows.reshape(-1, BLOCK, *windows.shape[1:]))
  features = features.reshape(copies, count, blocks, -1)
  truth = encode(found.truth_px).reshape(1, count, blocks, -1)
  spread = _mean_spread(truth[0])
  resamples = np.random.default_rng(seed).integers(count, size=(200, count))
  functions = {
    "ftd": lambda rows: _ftd(features[:, rows], truth[:, rows]),
    "ftd of pairs": lambda rows: _ftd(*(_pairs(f[:, rows]) for f in (features, truth))),
    "diversity": lambda rows: (
      np.mean([_mean_spread(f[rows]) for f in features]) / spread
    ),
  }
  return {
    name: metrics.estimate(
      float(function(np.arange(count))),
      np.array([function(rows) for rows in resamples]),
      count,
    )
    for name, function in functions.items()
  }


def _ftd(features: np.ndarray, truth: np.ndarray) -> float:
  size = truth.shape[-1]
  return frechet.distance_of_clips(features.reshape(-1, size), truth.reshape(-1, size))


def _pairs(features: np.ndarray) -> np.ndarray:
  """(..., W, D) -> (..., W - 1, 2 D)."""
  return np.concatenate([features[..., :-1, :], features[..., 1:, :]], axis=-1)


def _mean_spread(features: np.ndarray) -> float:
  """Mean over stretches (S, W, D) of `_spread`."""
  return float(np.mean([_spread(f) for f in features]))


# --- The program


def judge(
  path: pathlib.Path, pose_vae: str | None, seconds: float, num_samples: int, seed: int
) -> pathlib.Path:
  """Judges the run in `path`; returns the JSON file.

  Raises:
    UserError: a run or the data cannot be opened, or is of the wrong kind.
  """
  run = runs.load(path)
  if not isinstance(run.method, TemplateSequence):
    raise UserError(
      f"--workdir={path}: is a {run.method.title}; give the workdir of a run of "
      "configs/template_sequence.py"
    )
  data = Data.of(run.method, run.state)
  try:
    of = runs.load(run.config.template.of)
  except UserError as e:
    raise UserError(f"config.template.of of {path}: {e}") from e
  bank = of.method.bank(of.state)
  if bank is None or not np.array_equal(bank, run.state.bank["mean"]):
    raise UserError(f"{of.path}: has changed since {path} was trained; train it again")
  encode = _encoder(of, pose_vae)
  split = Split(setup.build_data(run.config).sources["train"], run.table)
  found = stretches(data, split, seconds)
  chosen = policies(data)
  likelihood, ranks = score_densities(data, chosen, seed)
  print(_title(data, found, num_samples))
  print(table(likelihood))
  directed = direct(data, found, chosen, num_samples, seed)
  sequences, steps = score_sequences(data, directed, seed)
  print(table(sequences))
  result = {"likelihood": likelihood, "sequences": sequences}
  if encode:
    model = GestureModel(of, of.speaker)
    result["motion"] = {
      name: score_motion(model, found, codes, encode, seed)
      for name, codes in directed.items()
    }
    print(table(result["motion"]))
  else:
    print("FTD is left out: it needs a pose VAE of the same data; give --pose_vae")
  text = json.dumps(result, indent=2, default=dataclasses.asdict)
  workdir.write_text(path / "sequences.json", text + "\n")
  _plot(path / "sequences.png", ranks, steps)
  return path / "sequences.json"


def _encoder(
  of: Run, pose_vae: str | None
) -> Callable[[np.ndarray], np.ndarray] | None:
  folder = pose_vae or workdir.pose_vae_for_ftd(of.path, of.config)
  if not folder:
    return None
  encode = scoring.encoder(
    runs.load_encoder(folder, "--pose_vae"), of.table.scale_factor
  )
  return lambda poses_px: encode(poses_px)[0]


def _title(data: Data, found: Stretches, num_samples: int) -> str:
  recordings = len(np.unique(data.bank["recording"][data.transitions]))
  count, blocks = found.rows.shape
  return (
    f"{len(data.transitions)} transitions of {recordings} held-out recordings; "
    f"intervals are over recordings. Motion: {count} stretches of "
    f"{blocks * BLOCK / audio.FPS:.1f} s, {num_samples} renderings each"
  )


def table(rows: dict[str, dict[str, Any]]) -> str:
  """One line for each policy, one column for each score."""
  names = list(next(iter(rows.values())))
  lines = ["  ".join([f"{'':<15}", *(f"{name:>22}" for name in names)])]
  for row, scores in rows.items():
    cells = [f"{_cell(scores[name]):>22}" for name in names]
    lines.append("  ".join([f"{row:<15}", *cells]))
  return "\n".join(lines)


def _cell(score: Estimate | float) -> str:
  if isinstance(score, Estimate):
    return f"{score.value:.3f} ({score.low:.3f}-{score.high:.3f})"
  return f"{score:.3f}"


def _plot(
  path: pathlib.Path, ranks: dict[str, np.ndarray], steps: dict[str, np.ndarray]
) -> None:
  """Cumulative distributions of the ranks and of the steps."""

  def curves(samples: dict[str, np.ndarray]) -> dict[str, plots.Curve]:
    return {
      name: plots.Curve(np.sort(v).tolist(), np.linspace(0, 1, len(v)).tolist())
      for name, v in samples.items()
    }

  plots.write_panels(
    path,
    [
      plots.Panel("rank of the true next template", "share of blocks", curves(ranks)),
      plots.Panel("distance to the next template", "share of blocks", curves(steps)),
    ],
  )


def main() -> None:
  given: Any = flags.FLAGS.flag_values_dict()
  options = (given[n] for n in ("pose_vae", "seconds", "num_samples", "seed"))
  print(f"written: {judge(pathlib.Path(given['workdir']), *options)}")


def run() -> None:
  """Parses the flags and runs the program."""
  flags.DEFINE_string(
    "workdir", None, "Folder of the model of template sequences.", required=True
  )
  flags.DEFINE_string(
    "pose_vae", None, "Workdir of a pose VAE for FTD; default: that of the templates."
  )
  flags.DEFINE_float("seconds", 60, "Length of the generated motion.")
  flags.DEFINE_integer("num_samples", 4, "Renderings of each sound.", lower_bound=1)
  flags.DEFINE_integer("seed", 0, "Seed for what is drawn.", lower_bound=0)
  cli.run(main)


if __name__ == "__main__":
  run()
