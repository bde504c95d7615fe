"""Clips of speech and poses: data sets, clip storage, the input pipeline.

The modules named in `DATASETS` build a data set on disk, with `builder` as their base.
`recordings` joins overlapping clips; `clip_store` maps the data set into memory;
`pipeline` reads it in batches.
"""

DATASETS: dict[str, tuple[str, ...]] = {
  "speech2gesture": ("root", "speaker", "data_dir", "skip_bad_clips"),
  "synthetic": ("speaker", "data_dir", "num_train_clips", "num_dev_clips"),
}
"""Name of a data set, and of its module in this package -> the arguments of
`pipeline.build` that the module's function `prepare` takes. The module's function
`choose_speaker(root, speaker)` checks these fields and fills in an empty speaker."""
