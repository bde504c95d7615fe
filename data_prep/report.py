"""The data report: one HTML file, with embedded pictures, on the quality of the data.

Writes `report.html` to the pack. The measurements are in `measures`; `warnings` names
problems and remedies.
"""

import base64
import collections
import csv
import html
import itertools
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np

from sdt_jax import audio, audio_file
from sdt_jax.files import replacing
from . import measures, media, overlay, workspace
from .detection import Origin
from .options import Options, command
from .workspace import Video

FILE_NAME = "report.html"

_PAGE = pathlib.Path(__file__).with_name("report_page.html")
_SECTION = _PAGE.with_name("report_section.html")
_REMEDIES = {  # reason for dropping windows -> what to do
  "left hand missing": "use parts of the video that show both hands",
  "right hand missing": "use parts of the video that show both hands",
  "body missing": "use parts of the video that show both arms",
  "face missing": "use parts of the video in which the person faces the camera",
  "another shot": "split the video into its shots",
  "no sound": "provide sound for the whole video",
}
_EXAMPLES = 3
_THUMBNAILS = 24
_THUMBNAIL_SIZE = (240, 135)
_EXAMPLE_SIZE = (640, 360)
_COLORS = {  # of the timelines
  Origin.MISSING: (40, 40, 48),
  Origin.FOUND: (88, 180, 110),
  Origin.SECOND_PASS: (245, 200, 80),
  Origin.INTERPOLATED: (225, 90, 80),
}


class Facts:
  """What the report says about one video; shares are 0 to 1, lengths in px.

  Raises:
    UserError: a result of a stage is missing or damaged.
  """

  def __init__(self, video: Video):
    folder = video.folder
    self.video = video
    self.source = workspace.read_source(video)
    self.seconds, self.pictures = self.source["times"][-1], len(self.source["times"])
    self.sound_seconds = self.source["sound_seconds"]
    # Counts and notes of the backend.
    self.detection = workspace.read_json(folder / "keypoints.json", "counts", "notes")
    self.rules: dict[str, int] = workspace.read_json(folder / "clean.json")
    self.factor = workspace.read_json(folder / "rescale.json", "factor")["factor"]
    clips = workspace.read_json(folder / "clips.json", "kept", "dropped")
    self.kept, self.dropped = len(clips["kept"]), clips["dropped"]
    self.windows = self.kept + sum(self.dropped.values())
    found, _ = workspace.read_keypoints(folder / "keypoints.npz")
    keypoints, origin = workspace.read_keypoints(folder / "clean.npz")
    rescaled, _ = workspace.read_keypoints(folder / "rescaled.npz")
    self.frames = len(keypoints)
    self.coverage_found = measures.coverage(found)
    self.coverage = measures.coverage(keypoints)
    self.origins = measures.origins(origin)
    self.jitter = measures.jitter(rescaled)
    self.profile = measures.profile_share(keypoints)
    samples = audio_file.load_audio(folder / "audio.wav")
    loud = measures.loudness(samples, self.frames)
    self.lag_curve = measures.lag_curve(measures.mouth_opening(keypoints), loud)
    self.lag = measures.best_lag(self.lag_curve, self.frames)


def warnings(facts: Facts) -> list[str]:
  """Problems that the user should check or can fix, one sentence each."""
  found = list(facts.detection["notes"])
  if facts.seconds - facts.sound_seconds > 1 / audio.FPS:
    found.append(
      f"the sound ends {facts.seconds - facts.sound_seconds:.1f} s before the picture; "
      "the rest of the video is not used"
    )
  rate = (facts.pictures - 1) / max(facts.seconds, 1e-3)
  if rate < 0.95 * audio.FPS:
    found.append(
      f"only {rate:.1f} pictures/s, so motion between them is interpolated; use a "
      f"recording with at least {audio.FPS}"
    )
  found += _lag_warning(facts) + _window_warnings(facts)
  if facts.profile > 0.05:
    found.append(
      f"the face is in profile in {facts.profile:.0%} of the frames; its hidden half "
      "is a guess"
    )
  if facts.factor > 2.5:
    found.append(
      f"the person is small (shoulders {331 / facts.factor:.0f} of 1280 px); crop the "
      "video around the person to improve hand detection"
    )
  return found


def _lag_warning(facts: Facts) -> list[str]:
  lag, curve = facts.lag, facts.lag_curve
  if lag is None or abs(lag) < 3 or curve.max() < curve[measures.MAX_LAG_FRAMES] + 0.1:
    return []
  seconds = lag / audio.FPS
  what = "late" if lag > 0 else "early"
  return [
    f"mouth and sound suggest that the picture is {abs(seconds):.2f} s {what}; if so, "
    f"ffmpeg -i FILE -itsoffset {seconds:.2f} -i FILE -map 0:v -map 1:a -c copy NEW "
    "shifts the sound"
  ]


def _window_warnings(facts: Facts) -> list[str]:
  if not facts.windows:
    need = audio.CLIP_FRAMES / audio.FPS
    return [f"too short for a clip of {need:.2f} s, so none was cut"]
  lost = 1 - facts.kept / facts.windows
  if lost <= 0.3:
    return []
  reason, count = max(facts.dropped.items(), key=lambda item: item[1])
  return [
    f"{lost:.0%} of the windows were dropped, most ({count}) for '{reason}': "
    + _REMEDIES[reason]
  ]


def _embedded(picture: np.ndarray, lossless: bool = False) -> str:
  """(H, W, 3) RGB -> data URL."""
  kind = "png" if lossless else "jpeg"
  _, data = cv2.imencode(f".{kind}", np.ascontiguousarray(picture[..., ::-1]))
  return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"


def _evenly(count: int, frames: int) -> list[int]:
  return sorted({int((i + 0.5) * frames / count) for i in range(count)})


def _drawn(facts: Facts, frames: Sequence[int], size: tuple[int, int]):
  """Yields frame number, time and picture with the skeleton of each frame."""
  keypoints, origin = workspace.read_keypoints(facts.video.folder / "clean.npz")
  seconds = [i / audio.FPS for i in frames]
  shown = media.pictures_at(facts.video.folder / "video.mp4", seconds)
  for i, (second, picture) in zip(frames, shown, strict=False):
    drawn = overlay.draw(picture, keypoints[i], origin[i])
    small = cv2.resize(drawn, size, interpolation=cv2.INTER_AREA)
    yield i, f"{second:.1f} s", small


def _contact_sheet(facts: Facts) -> np.ndarray:
  """Thumbnails of the whole video; a red border marks frames with missing parts."""
  width, height = _THUMBNAIL_SIZE
  tiles = []
  frames = _evenly(_THUMBNAILS, facts.frames)
  for i, label, picture in _drawn(facts, frames, _THUMBNAIL_SIZE):
    missing = any(strip[i] == Origin.MISSING for strip in facts.origins.values())
    border = (230, 60, 60) if missing else (20, 20, 24)
    cv2.rectangle(picture, (0, 0), (width - 1, height - 1), border, 3)
    at = (8, height - 8)
    cv2.putText(picture, label, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255,) * 3, 1)
    tiles.append(picture)
  columns = 6
  tiles += [np.zeros((height, width, 3), np.uint8)] * (-len(tiles) % columns)
  rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
  return np.vstack(rows)


def _strips(facts: Facts, width: int = 960, height: int = 14) -> np.ndarray:
  """A timeline for each part; each column has the colour of its worst frame."""
  table = np.array([_COLORS[o] for o in Origin], np.uint8)
  severity = [Origin.FOUND, Origin.SECOND_PASS, Origin.INTERPOLATED, Origin.MISSING]
  rank = np.argsort([int(o) for o in severity])
  edges = np.linspace(0, facts.frames, width + 1).astype(int)
  rows = []
  for strip in facts.origins.values():
    ranks = rank[strip]
    worst = [ranks[a : max(b, a + 1)].max() for a, b in itertools.pairwise(edges)]
    row = table[np.array(severity)[np.array(worst)]]
    rows += [np.repeat(row[None], height, 0), np.full((4, width, 3), 255, np.uint8)]
  return np.vstack(rows)


def _lag_plot(facts: Facts) -> np.ndarray:
  """Bar chart of the correlation of mouth and sound by lag."""
  width, height, middle = 420, 120, 70
  plot = np.full((height, width, 3), 255, np.uint8)
  step = width // len(facts.lag_curve)
  best = int(facts.lag_curve.argmax())
  for i, value in enumerate(facts.lag_curve):
    top = middle - round(float(value) * 60)
    color = (225, 120, 60) if i == best else (120, 150, 200)
    cv2.rectangle(plot, (i * step + 3, top), ((i + 1) * step - 3, middle), color, -1)
    if (i - measures.MAX_LAG_FRAMES) % 5 == 0:
      text, at = str(i - measures.MAX_LAG_FRAMES), (i * step + 2, height - 6)
      cv2.putText(plot, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (90,) * 3, 1)
  return plot


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
  def line(cells, tag):
    return "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in cells)

  body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
  return f"<table><tr>{line(head, 'th')}</tr>{body}</table>"


def _summary(all_facts: Sequence[Facts]) -> str:
  rows = [
    (
      f.video.name,
      f"{f.seconds:.1f}",
      f"{f.kept} of {f.windows}",
      ", ".join(f"{reason} {n}" for reason, n in f.dropped.items() if n) or "-",
      *(f"{share:.0%}" for share in f.coverage.values()),
      "unclear" if f.lag is None else f"{f.lag:+d}",
    )
    for f in all_facts
  ]
  parts = [part.replace("_", " ") for part in all_facts[0].coverage] if rows else []
  head = ("video", "seconds", "windows kept", "dropped for", *parts, "lag")
  return _table(head, rows)


def _part_table(facts: Facts) -> str:
  rows = [
    (
      part.replace("_", " "),
      f"{facts.coverage_found[part]:.1%}",
      f"{facts.coverage[part]:.1%}",
      *(f"{float((strip == origin).mean()):.1%}" for origin in list(Origin)[1:]),
      f"{facts.jitter[part]:.1f}",
    )
    for part, strip in facts.origins.items()
  ]
  origins = ("found", "second pass", "interpolated")
  head = ("part", "complete, detected", "complete, cleaned", *origins)
  return _table((*head, "jitter px/frame²"), rows)


def _rules_table(facts: Facts) -> str:
  by_rule = collections.defaultdict(lambda: [0, 0])
  for stage, counts in enumerate((facts.detection["counts"], facts.rules)):
    for rule, count in counts.items():
      by_rule[rule][stage] += count
  rows = [(rule, *counts) for rule, counts in by_rule.items() if any(counts)]
  return _table(("rule", "pictures, detection", "frames, cleaning"), rows)


def _video_section(facts: Facts) -> str:
  shown = _drawn(facts, _evenly(_EXAMPLES, facts.frames), _EXAMPLE_SIZE)
  examples = "".join(
    f'<figure><img src="{_embedded(picture)}"><figcaption>{label}</figcaption></figure>'
    for _, label, picture in shown
  )
  return _SECTION.read_text(encoding="utf-8").format(
    f=facts,
    probe=facts.source["probe"],
    canvas=facts.source["canvas"],
    name=html.escape(facts.video.name),
    file=html.escape(facts.source["file"]),
    problems="".join(f"<li>{html.escape(w)}</li>" for w in warnings(facts)),
    examples=examples,
    parts=", ".join(part.replace("_", " ") for part in facts.origins),
    strips=_embedded(_strips(facts), True),
    tables=_part_table(facts) + _rules_table(facts),
    lag="unclear" if facts.lag is None else f"{facts.lag:+d} frames",
    lag_plot=_embedded(_lag_plot(facts), True),
    contact_sheet=_embedded(_contact_sheet(facts)),
  )


def _split_line(pack: pathlib.Path) -> str:
  path = pack / "processed_137.csv"
  if not path.is_file():
    return "The clips could not be split"
  with path.open(newline="") as file:
    counts = collections.Counter(row["dataset"] for row in csv.DictReader(file))
  return ", ".join(f"{counts[k]} {k}" for k in ("train", "dev", "idle")) + " clips"


def run(options: Options) -> None:
  """Writes the report.

  Raises:
    UserError: there are no videos.
  """
  pack = workspace.pack_folder(options)
  all_facts = [Facts(video) for video in workspace.usable_videos(options)]
  refusals = map(workspace.refusal, workspace.find_videos(options))
  refused = "".join(f"<li>{html.escape(r['reason'])}</li>" for r in refusals if r)
  parts = {
    "SPEAKER": html.escape(options.speaker),
    "SPLIT": _split_line(pack),
    "LEFT_OUT": refused and f"<p>Skipped:</p><ul class='warn'>{refused}</ul>",
    "SUMMARY": _summary(all_facts),
    "LEGEND": overlay.LEGEND,
    "VIDEOS": "".join(map(_video_section, all_facts)),
  }
  page = _PAGE.read_text(encoding="utf-8")
  for key, text in parts.items():
    page = page.replace(f"{{{{{key}}}}}", text)
  with replacing(pack / FILE_NAME) as temporary:
    temporary.write_text(page, encoding="utf-8")


if __name__ == "__main__":
  command(run)
