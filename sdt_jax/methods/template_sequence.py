"""The sequence of templates of a speaker: the next one, given those before and speech.

Conventions: a block is as long as a training clip, and the blocks of a recording follow
one another without overlap. `TrainState.bank` has one row per training clip: "mean"
(D,), the template; "sound" (T, F), features of the sound; "previous" (K,), the rows of
the blocks before, the last one first, or -1; "recording" (), a number, or -1 for clips
that are not used; and "held_out" (), whether the recording is kept for evaluation.
`TrainState.params` has "sequence", the network, and "whitening", the map from templates
to the space of the network, which is not trained.
"""

import dataclasses
import pathlib
from typing import ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sdt_jax import audio, workdir
from sdt_jax import config as config_lib
from sdt_jax.config import Config
from sdt_jax.errors import UserError
from sdt_jax.methods import base, train_state
from sdt_jax.methods.base import AXIS, Batch, Clips, Condition, Metrics
from sdt_jax.methods.train_state import TrainState
from sdt_jax.models import template_sequence as models
from sdt_jax.models.template_sequence import Context, Mixture

NUM_PREVIOUS = 3
"""K, number of templates before that the next one depends on."""

# Clips of a pack start every 5 frames, which does not divide 64.
_LARGEST_GAP = 8  # frames from the end of a block to the start of the next
_SOUND_SHAPE = (16, 16)  # time steps and bands of the features of a sound
_SILENCE = 1e-4  # inaudible mel power
_HELD_OUT = 5  # one recording in so many
_MAX_CANDIDATES = 4096
_LEAST_VARIANCE = 1e-4  # of the largest; smaller ones are noise
# Shares of the training contexts in which something is not known.
_NO_COMING_SOUND, _NO_HEARD_SOUND, _NO_PREVIOUS = 0.5, 0.2, 0.1
_NOISE = 0.1  # standard deviation, on the previous templates in training


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemplateSequence(base.Method):
  """Templates of the blocks before, and speech -> density of the next template.

  Attributes:
    size: D, the dimension of the templates.
    seed: decides which recordings are held out.
    network: gives the density.
  """

  networks: ClassVar[tuple[str, ...]] = ("sequence",)
  title: ClassVar[str] = "model of template sequences"
  models_templates: ClassVar[bool] = True

  size: int
  seed: int = 0
  network: models.TemplateSequence = dataclasses.field(
    default_factory=models.TemplateSequence
  )

  @classmethod
  def check(cls, config: Config) -> None:
    for name in ("evaluation.every_epochs", "log.video_every_epochs", "teacher"):
      if value := config_lib.get(config, name):
        raise UserError(
          f"config.{name} is {value!r}, but a {cls.title} generates no poses; give "
          f"{type(value)()!r}"
        )
    if config.template.kind != "none":
      raise UserError(
        f"config.template.kind is {config.template.kind!r}, but the templates are "
        "those of config.template.of; give 'none'"
      )

  @classmethod
  def completed(cls, config: Config) -> Config:
    """The data set of the run `template.of`, where `config` has the defaults."""
    try:
      of = workdir.read_config(pathlib.Path(config.template.of))
    except UserError as e:
      raise UserError(f"config.template.of={config.template.of}: {e}") from e
    for name, default in config_lib.default().dataset.items():
      if config.dataset[name] == default:
        config.dataset[name] = of.dataset[name]
    config.pose.hierarchical = of.pose.hierarchical
    config.template.size = of.template.size
    return config

  @classmethod
  def from_config(cls, config: Config, steps_per_epoch: int) -> "TemplateSequence":
    adam = base.adam(
      config, steps_per_epoch, weight_decay=config.optimizer.weight_decay
    )
    return cls(
      size=config.template.size, seed=config.seed, optimizers={"sequence": adam}
    )

  @property
  def inputs(self) -> frozenset[str]:
    return frozenset()

  @property
  def template_shape(self) -> None:
    return None

  def init(self, key: jax.Array, num_clips: int) -> TrainState:
    """The bank is empty: see `with_templates`."""
    size = self.size
    context = Context(
      jnp.zeros((NUM_PREVIOUS, size)),
      jnp.zeros(NUM_PREVIOUS, bool),
      jnp.zeros((2, *_SOUND_SHAPE)),
      jnp.zeros(2, bool),
    )
    variables = self.network.init(
      key, context, jnp.zeros((1, size)), jnp.ones(1, bool), train=False
    )
    whitening = {"mean": jnp.zeros(size), "matrix": jnp.eye(size)}
    bank = {
      "mean": jnp.zeros((num_clips, size)),
      "sound": jnp.zeros((num_clips, *_SOUND_SHAPE)),
      "previous": jnp.full((num_clips, NUM_PREVIOUS), -1),
      "recording": jnp.full(num_clips, -1),
      "held_out": jnp.zeros(num_clips, bool),
    }
    params = {"sequence": variables["params"], "whitening": whitening}
    return train_state.create(params, {"sequence": {}}, bank, self.optimizers)

  def with_templates(
    self, state: TrainState, templates: np.ndarray, clips: Clips
  ) -> TrainState:
    recording = recordings(clips)
    held_out = _held_out(recording, self.seed)
    used = (recording >= 0) & ~held_out
    previous = predecessors(recording, clips.starts, NUM_PREVIOUS)
    follows = previous[:, 0] >= 0
    if len(np.unique(recording[used])) < 2 or not (
      follows[held_out].any() and follows[used].any()
    ):
      raise UserError(
        f"the {len(recording)} training clips are too few for a {self.title}, which "
        "needs clips that follow one another, some of them held out; give more or "
        "longer recordings"
      )
    summarize = jax.jit(sound_features)
    bank = {
      "mean": jnp.asarray(templates),
      "sound": jnp.concatenate([summarize(sounds) for sounds in clips.sounds]),
      "previous": jnp.asarray(previous, jnp.int32),
      "recording": jnp.asarray(recording, jnp.int32),
      "held_out": jnp.asarray(held_out),
    }
    params = state.params | {"whitening": _whitening(templates[used])}
    return state.replace(params=params, bank=bank)

  def train_step(
    self, state: TrainState, batch: Batch, key: jax.Array
  ) -> tuple[TrainState, Metrics, None]:
    return self.update(state, batch, jax.random.split(key, len(batch["index"])))

  def update(
    self, state: TrainState, batch: Batch, keys: jax.Array
  ) -> tuple[TrainState, Metrics, None]:
    """`train_step` with given random keys (b,), one for each clip."""
    index, bank = batch["index"], state.bank
    held_out = bank["held_out"]
    used = (bank["recording"] >= 0) & ~held_out
    # A step has a different number of these clips each time, an epoch always the same.
    share = {"train": jnp.mean(used), "held_out": jnp.mean(held_out)}

    def mean(values: jax.Array, rows: str) -> jax.Array:
      mask = {"train": used, "held_out": held_out}[rows][index]
      return jnp.mean(jnp.where(mask, values, 0)) / share[rows]

    def loss_fn(network):
      params = state.params | {"sequence": network}
      return mean(self.nll(state.replace(params=params), index, keys=keys), "train")

    loss, grads = jax.value_and_grad(loss_fn)(state.params["sequence"])
    grads = jax.lax.pmean(grads, AXIS)
    known, live = (self.nll(state, index, live=live) for live in (False, True))
    metrics = {
      "loss": loss,
      "nll": mean(known, "train"),
      "nll_held_out": mean(known, "held_out"),
      "nll_held_out_live": mean(live, "held_out"),
      "grad_norm": optax.tree.norm(grads),
    }
    state = train_state.apply_gradients(state, {"sequence": grads}, self.optimizers)
    return state.replace(step=state.step + 1), jax.lax.pmean(metrics, AXIS), None

  def nll(
    self,
    state: TrainState,
    rows: jax.Array,
    live: bool = False,
    keys: jax.Array | None = None,
  ) -> jax.Array:
    """Negative log-likelihood (b,) of the templates of clips, in nats per dimension.

    Of whitened templates: a Gaussian fitted to the bank has 1.42.

    Args:
      state: the state.
      rows: (b,) of the clips.
      live: whether the sound of the clip itself is unknown.
      keys: (b,) for dropout, noise and what is not known; None for none of these.
    """
    targets = self.whiten(state, state.bank["mean"][rows])
    mixtures = self.mixtures(state, rows, live, keys)
    density = jax.vmap(Mixture.log_density, (0, 0, None))
    return -density(mixtures, targets, self.centres(state)) / self.size

  def mixtures(
    self,
    state: TrainState,
    rows: jax.Array,
    live: bool = False,
    keys: jax.Array | None = None,
  ) -> Mixture:
    """The density (b, ...) of the templates of clips; see `nll`."""
    candidates = self.candidates(len(state.bank["mean"]))
    recording = state.bank["recording"]
    allowed = self.is_candidate(state)[candidates]
    # A clip is never explained by its own recording.
    allowed = allowed & (recording[candidates] != recording[rows][:, None])
    centres = self.centres(state)
    context = self._contexts(state, rows, live)
    variables = state.network("sequence")

    def mixture(context: Context, allowed, key):
      if key is None:
        return self.network.apply(variables, context, centres, allowed, train=False)
      key, dropout = jax.random.split(key)
      context, rngs = _with_gaps(context, key), {"dropout": dropout}
      return self.network.apply(
        variables, context, centres, allowed, train=True, rngs=rngs
      )

    axes = (0, 0, None if keys is None else 0)
    return cast(Mixture, jax.vmap(mixture, axes)(context, allowed, keys))

  def _contexts(self, state: TrainState, rows: jax.Array, live: bool) -> Context:
    bank = state.bank
    previous = bank["previous"][rows]
    heard = previous[:, 0]
    return Context(
      self.whiten(state, bank["mean"][previous]),
      previous >= 0,
      jnp.stack([bank["sound"][heard], bank["sound"][rows]], axis=1),
      jnp.stack([heard >= 0, jnp.full(rows.shape, not live)], axis=1),
    )

  def choose(self, state: TrainState, context: Context, key: jax.Array) -> jax.Array:
    """Draws the next template (D,).

    Of the Gaussian of a candidate, its centre is taken, which is a template of the
    bank.

    Args:
      state: the trained state.
      context: of templates that are not whitened.
      key: random key.
    """
    context = context._replace(previous=self.whiten(state, context.previous))
    candidates = self.candidates(len(state.bank["mean"]))
    centres = self.centres(state)
    allowed = self.is_candidate(state)[candidates]
    applied = self.network.apply(
      state.network("sequence"), context, centres, allowed, train=False
    )
    mixture = cast(Mixture, applied)
    component = jax.random.categorical(key, mixture.log_weights)
    noise = jax.random.normal(jax.random.fold_in(key, 1), (self.size,))
    free = mixture.mean + jnp.exp(mixture.log_sd) * noise
    distance = jnp.sum(jnp.square(centres - free), axis=-1)
    nearest = jnp.argmin(jnp.where(allowed, distance, jnp.inf))
    chosen = jnp.where(component == 0, nearest, component - 1)
    return state.bank["mean"][candidates][chosen]

  def candidates(self, num_clips: int) -> np.ndarray:
    """(C,) rows of the bank, evenly spaced."""
    count = min(num_clips, _MAX_CANDIDATES)
    return np.arange(count) * num_clips // count

  def centres(self, state: TrainState) -> jax.Array:
    """(C, D), the whitened templates of the candidates."""
    rows = self.candidates(len(state.bank["mean"]))
    return self.whiten(state, state.bank["mean"][rows])

  def is_candidate(self, state: TrainState) -> jax.Array:
    """(N,) bool, whether a row of the bank may be a candidate."""
    return (state.bank["recording"] >= 0) & ~state.bank["held_out"]

  def whiten(self, state: TrainState, templates: jax.Array) -> jax.Array:
    """(..., D) templates in the space of the network."""
    whitening = state.params["whitening"]
    return (templates - whitening["mean"]) @ whitening["matrix"]

  def sample(
    self, state: TrainState, condition: Condition, num_frames: int, keys: jax.Array
  ) -> jax.Array:
    raise NotImplementedError(f"a {self.title} generates no poses")


def sound_features(sounds: jax.Array) -> jax.Array:
  """(b, samples) at 16 kHz -> (b, T, F): pooled log mel, roughly from -1 to 3."""
  log_mel = jnp.log(audio.mel_spectrogram(sounds) + _SILENCE)
  log_mel = (jnp.swapaxes(log_mel, 1, 2) + 6) / 3
  return jax.image.resize(log_mel, (len(sounds), *_SOUND_SHAPE), "linear")


def recordings(clips: Clips) -> np.ndarray:
  """(N,) number of the recording of each clip.

  Of fewer than five recordings, each is divided into five parts that count as
  recordings; clips across a border get -1.
  """
  _, recording = np.unique(clips.videos, return_inverse=True)
  if recording.max() + 1 >= _HELD_OUT:
    return recording
  parts = np.empty_like(recording)
  for number in np.unique(recording):
    rows = recording == number
    starts = clips.starts[rows]
    first, length = starts.min(), np.ptp(starts) + audio.CLIP_FRAMES
    ends = starts + audio.CLIP_FRAMES - 1
    begins_in, ends_in = ((at - first) * _HELD_OUT // length for at in (starts, ends))
    parts[rows] = np.where(begins_in == ends_in, number * _HELD_OUT + begins_in, -1)
  return parts


def predecessors(recording: np.ndarray, starts: np.ndarray, count: int) -> np.ndarray:
  """(N, count) rows of the clips before each one in its recording, without overlap.

  The last one first; -1 where there is none that ends at most `_LARGEST_GAP` frames
  before the next one starts.
  """
  latest = np.full(len(starts), -1)
  for number in np.unique(recording[recording >= 0]):
    [rows] = np.nonzero(recording == number)
    rows = rows[np.argsort(starts[rows], kind="stable")]
    ends = starts[rows] + audio.CLIP_FRAMES
    at = np.searchsorted(ends, starts[rows], side="right") - 1
    is_near = (at >= 0) & (starts[rows] - ends[at] <= _LARGEST_GAP)
    latest[rows] = np.where(is_near, rows[at], -1)
  chain = [latest]
  while len(chain) < count:
    chain.append(np.where(chain[-1] >= 0, latest[chain[-1]], -1))
  return np.stack(chain, axis=1)


def _held_out(recording: np.ndarray, seed: int) -> np.ndarray:
  """(N,) bool: a fifth of the recordings, at least one."""
  numbers = np.unique(recording[recording >= 0])
  chosen = np.random.default_rng(seed).permutation(numbers)
  return np.isin(recording, chosen[: max(1, len(numbers) // _HELD_OUT)])


def _whitening(templates: np.ndarray) -> dict[str, jax.Array]:
  """The map that gives templates (N, D) mean 0 and covariance 1."""
  mean = templates.mean(0)
  values, vectors = np.linalg.eigh(np.cov(templates.T, ddof=0).reshape(2 * mean.shape))
  values = np.maximum(values, max(_LEAST_VARIANCE * values.max(), 1e-12))
  return {"mean": jnp.asarray(mean), "matrix": jnp.asarray(vectors / np.sqrt(values))}


def _with_gaps(context: Context, key: jax.Array) -> Context:
  """A context with noise, in which some things are not known."""
  keys = jax.random.split(key)
  noise = _NOISE * jax.random.normal(keys[0], context.previous.shape)
  missing = jnp.array([_NO_HEARD_SOUND, _NO_COMING_SOUND, _NO_PREVIOUS])
  has = jax.random.uniform(keys[1], (3,)) >= missing
  return context._replace(
    previous=context.previous + noise,
    has_previous=context.has_previous & has[2],
    has_sound=context.has_sound & has[:2],
  )
