"""What the streams of all models have in common: sound and templates over time."""

import abc

import numpy as np

from sdt_jax import audio
from sdt_jax import keypoints as kp
from sdt_jax.errors import UserError
from sdt_jax.templates.director import BLOCK, Director, minimum_jerk

NO_POSES = np.zeros((0, *kp.UPPER_BODY.shape), np.float32)


class Stream(abc.ABC):
  """Generates the motion of a sound that comes in pieces of any size.

  What is returned is final, and does not depend on the sizes of the pieces.

  Args:
    template: (D,), one for all frames; (T, D), one for each frame of the sound (the
      last one continues); a director, which chooses them block by block; or None for a
      model without templates.
  """

  def __init__(self, template: np.ndarray | Director | None):
    self._director = template if isinstance(template, Director) else None
    self._block = np.zeros(0, np.float32)  # sound of the director's current block
    self._next_block = BLOCK  # its first frame
    if isinstance(template, Director):
      template = template.next(None, None)
    self._templates = None if template is None else np.atleast_2d(template)
    self._first_template = 0  # frame of the first row of `_templates`
    self._sound = np.zeros(0, np.float32)  # from sample `_first_sample` on
    self._first_sample = 0

  @property
  @abc.abstractmethod
  def latency(self) -> float:
    """Longest time in frames from the end of a frame's sound to its pose.

    Without the time to compute it, and except at the start of the sound.
    """

  @abc.abstractmethod
  def feed(self, samples: np.ndarray) -> np.ndarray:
    """Takes samples (n,) at 16 kHz; returns the poses (k, dims, joints) that are final.

    The first pose continues where those of the previous call ended.

    Raises:
      UserError: the samples are not finite floats.
    """

  @abc.abstractmethod
  def finish(self) -> np.ndarray:
    """Ends the sound; returns the remaining poses (k, dims, joints)."""

  def set_template(self, template: np.ndarray, num_frames: int = 15) -> None:
    """Changes to a template (D,), over some frames from the end of the sound so far.

    From a template that stays, the change has no jump in speed. A director chooses no
    more templates.

    Raises:
      UserError: the model has no templates, this is not one, or there are no frames.
    """
    if self._templates is None:
      raise UserError("this model has no templates; leave them out")
    expected, shape = self._templates.shape[1:], np.shape(template)
    if shape != expected or not np.isfinite(template).all() or num_frames < 1:
      raise UserError(
        f"a template of shape {shape} over {num_frames} frames: expected finite "
        f"numbers of shape {expected}, such as a row of model.bank, over at least 1"
      )
    heard = audio.num_frames(self._num_samples())
    before = self._templates_of(self._first_template, heard)
    [now] = self._templates_of(heard, heard + 1)
    weights = minimum_jerk(np.arange(1, num_frames + 1) / num_frames)[:, None]
    change = (1 - weights) * now + weights * template
    self._templates = np.concatenate([before, change]).astype(np.float32)
    self._director = None

  def _hear(self, samples: np.ndarray) -> None:
    is_sound = samples.ndim == 1 and np.issubdtype(samples.dtype, np.floating)
    if not is_sound or not np.isfinite(samples).all():
      raise UserError(
        f"sound of shape {samples.shape} and type {samples.dtype}: expected finite "
        "numbers of shape (n,) from -1 to 1; audio_file.to_model_rate converts others"
      )
    self._sound = np.concatenate([self._sound, samples.astype(np.float32)])
    if self._director:
      self._block = np.concatenate([self._block, samples.astype(np.float32)])
      self._direct(self._director)

  def _direct(self, director: Director) -> None:
    """Chooses the templates of the blocks that have begun."""
    while self._num_samples() >= audio.num_samples(self._next_block):
      size = len(self._block) - self._num_samples()
      size += audio.num_samples(self._next_block)
      rows = director.next(self._block[:size], None)
      self._block = self._block[size:]
      self._templates = np.concatenate([self._templates, rows])
      self._next_block += BLOCK

  def _num_samples(self) -> int:
    return self._first_sample + len(self._sound)

  def _templates_of(self, first: int, last: int) -> np.ndarray:
    """Templates (last - first, D) of these frames; the first and the last continue."""
    assert self._templates is not None
    rows = np.arange(first, last) - self._first_template
    return self._templates[np.clip(rows, 0, len(self._templates) - 1)]

  def _forget(self, first_sample: int, first_frame: int) -> None:
    """Drops sound before this sample, and templates before this frame."""
    self._sound = self._sound[max(0, first_sample - self._first_sample) :]
    self._first_sample = max(first_sample, self._first_sample)
    if self._templates is not None:  # the last one continues
      unused = min(first_frame - self._first_template, len(self._templates) - 1)
      self._templates = self._templates[max(0, unused) :]
      self._first_template = max(first_frame, self._first_template)
