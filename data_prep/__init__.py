"""Turns a folder of videos of one person talking into a data pack for training.

    python -m data_prep.prepare --videos=DIR --speaker=NAME --root=DATA

runs the stages below. Each stage is a file and a command of its own with the same
flags. Stages whose inputs and parameters are unchanged are skipped.

    transcode   any video -> 1280x720 canvas, frame times, 16 kHz sound
    frames      (with --save_frames) pictures at 15 frames/s
    keypoints   pictures -> OpenPose keypoints at exactly 15 frames/s, and their origin
    clean       rejects outliers by named rules (`rules`) and closes short gaps
    rescale     scales the shoulder width to that of the reference speaker
    clips       cuts windows of 64 frames with their sound
    split       train, dev and the gap between them -> processed_137.csv
    statistics  mean and std of the train clips -> speaker.json
    report      summary of the results -> report.html

`python -m data_prep.inspect` draws the skeleton over the source video, or shows clips
of any data pack. In an installed package the commands are `sdt-prepare` and
`python -m sdt_jax.data_prep.<stage>`.
"""
