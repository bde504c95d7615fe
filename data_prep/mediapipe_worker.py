"""Runs MediaPipe over a video; this program runs in the MediaPipe environment.

    python -I mediapipe_worker.py JOB.json

A job gives a task ("faces", "holistic" or "hands"), the video, the box of the picture
to process (x, y, width, height) and the output file or folder. Raw landmarks are
written, in pixels of the whole picture, NaN where nothing was found; the caller
(`mediapipe_backend`) interprets them. Every ten frames, the frame count is printed.

This file must not import this project: only `mediapipe_requirements.txt` is installed
in the MediaPipe environment.
"""

import json
import os
import sys

import cv2
import numpy as np
from mediapipe.python.solutions import face_detection, hands, holistic  # pyright: ignore

_PARTS = {"pose": (33, 3), "face": (478, 2), "left": (21, 2), "right": (21, 2)}


def _read(job):
  """Yields, for each picture, a function that decodes it."""
  video = cv2.VideoCapture(job["video"])
  count = 0
  while video.grab():
    count += 1
    if count % 10 == 0:
      print(count, flush=True)
    yield lambda: video.retrieve()[1][..., ::-1]


def _crop(picture, box):
  """The box (x, y, width, height) of a picture, black outside of the picture."""
  x, y, w, h = box
  inside = picture[max(0, y) : max(0, y + h), max(0, x) : max(0, x + w)]
  crop = np.zeros((h, w, 3), np.uint8)
  top, left = max(0, -y), max(0, -x)
  crop[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
  return crop


def _points(landmarks, box, shape):
  """Landmarks as (points, 2 or 3) = `shape`: x, y in picture pixels and visibility."""
  if landmarks is None:
    return np.full(shape, np.nan, np.float32)
  rows = [(p.x, p.y, p.visibility)[: shape[1]] for p in landmarks.landmark]
  points = np.array(rows, np.float32)
  points[:, :2] = points[:, :2] * box[2:] + box[:2]
  return points


def _write(path, **arrays):
  temporary = f"{path}.{os.getpid()}.tmp"
  with open(temporary, "wb") as file:
    np.savez(file, **arrays)
  os.replace(temporary, path)


def run_faces(job):
  """Faces in every `every`-th picture: boxes (n, 4) and their picture numbers."""
  boxes, numbers = [], []
  finder = face_detection.FaceDetection(model_selection=1)
  x, y, w, h = job["box"]
  for number, retrieve in enumerate(_read(job)):
    if number % job["every"]:
      continue
    for face in finder.process(_crop(retrieve(), job["box"])).detections or []:
      b = face.location_data.relative_bounding_box
      boxes.append((b.xmin * w + x, b.ymin * h + y, b.width * w, b.height * h))
      numbers.append(number)
  _write(job["output"], boxes=np.reshape(boxes, (-1, 4)), numbers=np.array(numbers))


def _in_chunks(job, make_detector):
  """Processes every picture and writes the results in files of `chunk` pictures each.

  Existing files are kept, so an interrupted run continues after the last one.
  `make_detector()` returns a function `detect(number, retrieve)`, which returns a list
  of dictionaries of arrays. Each file gets a new detector, since MediaPipe keeps state
  between pictures even in static mode and a file must depend on its own pictures only.
  """
  results, path, detect = [], None, None
  for number, retrieve in enumerate(_read(job)):
    if number % job["chunk"] == 0:
      _write_chunk(path, results)
      results = []
      path = os.path.join(job["output"], f"{number // job['chunk']:06d}.npz")
      detect = None if os.path.exists(path) else make_detector()
    if detect:
      results += detect(number, retrieve)
  _write_chunk(path, results)
  with open(os.path.join(job["output"], "done"), "w"):
    pass


def _write_chunk(path, results):
  if results:
    _write(path, **{n: np.stack([r[n] for r in results]) for n in results[0]})


def run_holistic(job):
  """Body, face and hands of the person in each picture."""

  def make_detector():
    finder = holistic.Holistic(
      static_image_mode=True, model_complexity=1, refine_face_landmarks=True
    )

    def detect(_, retrieve):
      found = finder.process(_crop(retrieve(), job["box"]))
      both = found.left_hand_landmarks, found.right_hand_landmarks
      landmarks = found.pose_landmarks, found.face_landmarks, *both
      parts = zip(_PARTS.items(), landmarks, strict=True)
      return [{name: _points(part, job["box"], shape) for (name, shape), part in parts}]

    return detect

  _in_chunks(job, make_detector)


def run_hands(job):
  """Up to two hands in each of the requested boxes.

  `requests` is an npz of frames (n,) and boxes (n, 4). Each result has points
  (2, 21, 2) and is_left (2,).
  """
  with np.load(job["requests"]) as npz:
    frames, boxes = npz["frames"], npz["boxes"]

  def make_detector():
    finder = hands.Hands(
      static_image_mode=True, max_num_hands=2, min_detection_confidence=0.3
    )

    def detect(number, retrieve):
      wanted = [tuple(box) for box in boxes[frames == number]]
      picture = retrieve() if wanted else None
      found = {
        box: _hands_in(finder.process(_crop(picture, box)), box)
        for box in dict.fromkeys(wanted)
      }
      return [found[box] for box in wanted]

    return detect

  _in_chunks(job, make_detector)


def _hands_in(found, box):
  points = np.full((2, 21, 2), np.nan, np.float32)
  is_left = np.zeros(2, bool)
  for i, hand in enumerate((found.multi_hand_landmarks or [])[:2]):
    points[i] = _points(hand, box, (21, 2))
    # MediaPipe assumes a mirrored picture.
    is_left[i] = found.multi_handedness[i].classification[0].label == "Right"
  return {"points": points, "is_left": is_left}


if __name__ == "__main__":
  with open(sys.argv[1]) as job_file:
    the_job = json.load(job_file)
  tasks = {"faces": run_faces, "holistic": run_holistic, "hands": run_hands}
  tasks[the_job["task"]](the_job)
