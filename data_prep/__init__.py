"""From a folder of videos of one person talking to a data pack to train on.

    python -m data_prep.prepare --videos=DIR --speaker=NAME --root=DATA

runs the stages below, each a file and a command of its own with the same flags; what
is done and unchanged is not done again.

    transcode   any video -> 1280x720 canvas, frame times, 16 kHz sound
    keypoints   pictures -> the 137 keypoints at exactly 15 frames/s, and their origin
    clean       outliers out, short gaps closed, by named rules (`rules`)
    rescale     shoulder width -> that of the reference speaker
    clips       windows of 64 frames with their sound
    split       train, dev and the gap between them -> processed_137.csv
    statistics  mean and std of the train clips -> speaker.json
    report      what came of it -> report.html

`python -m data_prep.inspect` draws the skeleton over the source of any stretch.
"""
