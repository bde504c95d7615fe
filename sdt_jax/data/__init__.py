"""Clips of speech and pose: TFDS builders, the synthetic speaker, the input pipeline.

`speech2gesture` and `synthetic` turn a data pack or the embedded speaker into a data
set on disk (`builder` is what they share, `recordings` joins clips that overlap);
`cut` maps it into memory; `pipeline` reads it in batches.
"""
