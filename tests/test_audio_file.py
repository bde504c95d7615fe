"""Audio files: PCM is read exactly, codecs approximately; errors have one line."""

import contextlib
import fractions
import io
import os
import subprocess
import sys
import wave

import av
import numpy as np
import pytest
import soundfile

from sdt_jax import audio_file
from sdt_jax.audio_file import find_audio_files, load_audio, read_audio, to_model_rate
from sdt_jax.errors import UserError

RATE = 44_100


def tone(seconds=1.0, rate=RATE, frequency=330.0):
  return 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)


def encode(path, channels, rate, codec, container=None, picture=False):
  """Writes (channels, samples) floats; with `picture`, beside a video track."""
  if codec == "vorbis":  # FFmpeg's own Vorbis encoder is experimental
    soundfile.write(path, channels.T, rate)
    return
  with av.open(str(path), "w", format=container) as out:
    stream = out.add_stream(codec, rate=rate)
    layout = {1: "mono", 2: "stereo", 8: "7.1"}[len(channels)]
    stream.layout = layout
    video = out.add_stream("mpeg4", rate=25) if picture else None
    packed = np.ascontiguousarray(channels.T, np.float32).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(packed, "flt", layout)
    frame.sample_rate = rate
    resampler = av.AudioResampler(stream.format, stream.layout, rate)
    if video is not None:
      video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
      picture_frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
      out.mux(video.encode(picture_frame))
      out.mux(video.encode())
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
      out.mux(stream.encode(part))
    out.mux(stream.encode())


def line(call, *args):
  """Message of the UserError that `call` must raise; asserts that it is one line."""
  with pytest.raises(UserError) as e:
    call(*args)
  assert "\n" not in str(e.value)
  return str(e.value)


@pytest.mark.parametrize(
  ("subtype", "bits"), [("PCM_U8", 8), ("PCM_16", 16), ("PCM_24", 24), ("PCM_32", 32)]
)
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_pcm_wav_is_exact(tmp_path, subtype, bits, rate):
  pcm = np.random.default_rng(bits).integers(-(2**31), 2**31, 5000)
  pcm = (pcm >> (32 - bits)) << (32 - bits)  # representable with this many bits
  path = tmp_path / "a.wav"
  soundfile.write(path, pcm.astype(np.int32), rate, subtype=subtype)
  samples, read_rate = read_audio(path)
  assert (samples.dtype, read_rate) == (np.float32, rate)
  np.testing.assert_array_equal(samples, (pcm / 2**31).astype(np.float32))


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_float_wav_is_exact(tmp_path, subtype):
  samples = np.random.default_rng(0).uniform(-1, 1, 3000).astype(np.float32)
  soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype=subtype)
  np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0], samples)
  np.testing.assert_array_equal(load_audio(tmp_path / "a.wav"), samples)


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_channels_are_averaged(tmp_path, channels, suffix):
  pcm = np.random.default_rng(channels).integers(-(2**15), 2**15, (2000, channels))
  soundfile.write(tmp_path / f"a.{suffix}", pcm.astype(np.int16), 16_000)
  samples, _ = read_audio(tmp_path / f"a.{suffix}")
  np.testing.assert_allclose(samples, pcm.mean(1) / 2**15, atol=1e-7)


FORMATS = [
  ("mp3", "libmp3lame", None, False),
  ("ogg", "vorbis", None, False),
  ("opus", "libopus", "ogg", False),
  ("m4a", "aac", "ipod", False),
  ("aac", "aac", "adts", False),
  ("webm", "libopus", None, False),
  ("mp4", "aac", None, True),
  ("mkv", "libmp3lame", None, True),
]
RARER_FORMATS = [
  ("avi", "pcm_s16le", None, True),
  ("ts", "aac", "mpegts", True),
  ("mpg", "mp2", "mpeg", True),
  ("caf", "pcm_s16be", None, False),
  ("au", "pcm_s16be", None, False),
  ("flv", "aac", "flv", False),
  ("ac3", "ac3", None, False),
  ("3gp", "aac", None, True),
  ("wv", "wavpack", None, False),
]


@pytest.mark.parametrize(
  ("suffix", "codec", "container", "picture"), FORMATS + RARER_FORMATS
)
def test_codecs_give_the_mean_of_the_channels(
  tmp_path, suffix, codec, container, picture
):
  path, rate = tmp_path / f"a.{suffix}", 48_000
  left, right = tone(rate=rate), 0.5 * tone(rate=rate, frequency=500)
  encode(path, np.stack([left, right]), rate, codec, container, picture)
  samples, read_rate = read_audio(path)
  assert read_rate == rate
  assert abs(len(samples) - rate) < 3 * 2048  # encoders pad to their packets
  middle = samples[rate // 4 : rate // 4 + 8192]
  spectrum = np.abs(np.fft.rfft(middle * np.hanning(8192))) / 2048
  for frequency, amplitude in [(330, 0.25), (500, 0.125)]:
    k = round(frequency * 8192 / rate)
    assert spectrum[k - 2 : k + 3].max() == pytest.approx(amplitude, rel=0.15)


def test_many_planar_channels_are_read(tmp_path):  # PyAV alone would crash
  encode(tmp_path / "a.m4a", np.stack([tone()] * 8), RATE, "aac", "ipod")
  samples, _ = read_audio(tmp_path / "a.m4a")
  # The encoder removes the tone from the eighth channel, reserved for low frequencies.
  assert samples.std() == pytest.approx(7 / 8 * tone().std(), rel=0.05)


def test_tags_need_not_be_unicode(tmp_path):
  tag = b"INFOINAM\4\0\0\0\xe9t\xe9\0"
  data = wav_bytes(tone(rate=16_000)) + b"LIST" + len(tag).to_bytes(4, "little") + tag
  data = data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:]
  (tmp_path / "a.wav").write_bytes(data)
  assert len(load_audio(tmp_path / "a.wav")) == 16_000


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
  ("suffix", "codec", "container", "picture"), FORMATS + RARER_FORMATS
)
def test_damaged_files_raise_only_user_errors(
  tmp_path, suffix, codec, container, picture, capfd
):
  path = tmp_path / f"a.{suffix}"
  encode(path, tone(0.3)[None], 48_000, codec, container, picture)
  whole = path.read_bytes()
  rng = np.random.default_rng(0)
  for end in (200, len(whole)) * 20:
    data = np.frombuffer(whole, np.uint8).copy()
    data[rng.integers(end, size=10)] = rng.integers(256, size=10)
    path.write_bytes(data.tobytes())
    with contextlib.suppress(UserError):
      load_audio(path)
  assert capfd.readouterr() == ("", "")


def test_resampling_keeps_a_tone():
  samples = to_model_rate(tone(2.0), RATE)
  assert samples.dtype == np.float32
  assert len(samples) == 32_000
  expected = tone(2.0, 16_000)
  np.testing.assert_allclose(samples[1000:-1000], expected[1000:-1000], atol=1e-3)


def test_model_rate_passes_through_unchanged():
  assert len(to_model_rate(np.zeros(534), 16_000)) == 534  # half a frame is enough
  samples = np.random.default_rng(0).uniform(-1, 1, 4000).astype(np.float32)
  np.testing.assert_array_equal(to_model_rate(samples, 16_000), samples)


@pytest.mark.parametrize(
  ("pcm", "expected", "atol"),
  [
    (np.array([2**15 - 1, 1 - 2**15, 2**14 - 1, 0], np.int16), [1, -1, 0.5, 0], 1e-4),
    (np.array([2**31 - 1, 1 - 2**31, 2**30 - 1, 0], np.int32), [1, -1, 0.5, 0], 1e-4),
    (np.array([0, 128, 192], np.uint8), [-1, 0, 0.5], 0),
  ],
)
def test_integers_are_scaled(pcm, expected, atol):
  found = to_model_rate(np.resize(pcm, 4000), 16_000)
  np.testing.assert_allclose(found, np.resize(expected, 4000), atol=atol)


SECOND = np.zeros(16_000)


@pytest.mark.parametrize(
  ("samples", "rate", "words"),
  [
    (np.zeros((2, 16_000)), 16_000, "shape (2, 16000)"),
    (np.float32(0), 16_000, "shape ()"),
    (np.zeros(0), 16_000, "no samples"),
    (np.r_[np.zeros(2000), np.nan], 16_000, "1 of 2001 samples are NaN or infinite"),
    (np.r_[np.inf, np.zeros(2000)], 16_000, "first at index 0"),
    *(
      (np.zeros(n), rate, "half a frame") for n, rate in ((533, 16_000), (1460, 44_100))
    ),
    *((SECOND, rate, f"rate is {rate} Hz") for rate in (0, -16_000, float("nan"))),
    (SECOND + 2e4, 16_000, "divide 16-bit samples"),
    (SECOND + 1e300, 16_000, "reaches 1e+300"),
    (SECOND.astype(np.int64), 16_000, "type int64"),
    (SECOND.astype(complex), 16_000, "type complex128"),
  ],
)
def test_bad_arrays_raise_an_error_with_the_reason(samples, rate, words):
  message = line(to_model_rate, samples, rate)
  assert message.startswith("audio: ")
  assert words in message


def wav_bytes(samples):
  buffer = io.BytesIO()
  with wave.open(buffer, "wb") as file:
    file.setparams((1, 2, 16_000, 0, "NONE", ""))
    file.writeframes((samples * 2**15).astype("<i2").tobytes())
  return buffer.getvalue()


def png_bytes():
  codec = av.CodecContext.create("png", "w")
  codec.width, codec.height, codec.pix_fmt = 8, 8, "rgb24"
  codec.framerate = fractions.Fraction(1)
  frame = av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8))
  return b"".join(map(bytes, [*codec.encode(frame), *codec.encode(None)]))


NOT_SOUND = {
  "empty": (b"", "is empty"),
  "text": (b"To be, or not to be\n" * 100, "not a sound file"),
  "playlist": (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "not a sound file"),
  "noise": (np.random.default_rng(0).bytes(9999), "not a sound file"),
  "picture": (png_bytes(), "has no sound track"),
  "generator script": (b"## x\na: 300+10/50\nNOW a\n", "not a sound file"),
  "header_only": (wav_bytes(tone(rate=16_000))[:30], "not a sound file"),
  "no_samples": (wav_bytes(np.zeros(0)), "contains no decodable sound"),
  "one_sample": (wav_bytes(np.zeros(1)), "shorter than half a frame"),
}


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".m4a", ""])
@pytest.mark.parametrize("case", NOT_SOUND)
def test_files_without_sound_raise_an_error_with_the_path(
  tmp_path, case, suffix, capfd
):
  content, words = NOT_SOUND[case]
  path = tmp_path / f"{case}{suffix}"
  path.write_bytes(content)
  message = line(load_audio, path)
  assert message.startswith(f"{path}: ")
  # Because of the suffix, FFmpeg may take noise for a damaged mp3 without any sound.
  assert words in message or (suffix == ".mp3" and "no decodable sound" in message)
  assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["list.ffconcat", "list.m3u8", "list.wav"])
@pytest.mark.parametrize(
  "text",
  [
    "ffconcat version 1.0\nfile '{}'\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n",
  ],
  ids=["ffconcat", "m3u8"],
)
def test_a_playlist_opens_no_other_file(tmp_path, monkeypatch, name, text):
  monkeypatch.chdir(tmp_path)
  encode(tmp_path / "secret.ts", tone()[None], RATE, "aac", "mpegts")
  for other in ("secret.ts", str(tmp_path / "secret.ts")):
    (tmp_path / name).write_text(text.format(other))
    assert "not a sound file" in line(load_audio, tmp_path / name)


def test_a_video_without_sound_raises_an_error(tmp_path):
  path = tmp_path / "mute.mp4"
  with av.open(str(path), "w") as out:
    video = out.add_stream("mpeg4", rate=25)
    video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
    out.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
    out.mux(video.encode())
  assert line(load_audio, path) == f"{path}: has no sound track; give a file with sound"


def test_a_missing_file_or_a_folder_raises_an_error(tmp_path):
  for path in (tmp_path / "no.wav", tmp_path, tmp_path / ("long" * 100)):
    assert line(load_audio, path).startswith(f"{path}: cannot be read (")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_an_unreadable_file_raises_an_error(tmp_path):
  path = tmp_path / "a.wav"
  path.write_bytes(wav_bytes(tone(rate=16_000)))
  path.chmod(0)
  assert "ermission denied" in line(load_audio, path)


@pytest.mark.parametrize(
  ("suffix", "codec", "container"),
  [("wav", "pcm_s16le", "wav"), ("mp3", "libmp3lame", "mp3"), ("flac", "flac", "flac")],
)
def test_the_rest_of_a_truncated_file_is_read(
  tmp_path, suffix, codec, container, capfd
):
  path = tmp_path / f"a.{suffix}"
  noise = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * RATE)
  encode(path, noise[None], RATE, codec, container)
  whole = read_audio(path)[0]
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])
  half = read_audio(path)[0]
  assert 0.3 * len(whole) < len(half) < 0.6 * len(whole)
  np.testing.assert_allclose(half[:20_000], whole[:20_000], atol=1e-6)
  assert capfd.readouterr() == ("", "")


def test_a_truncated_m4a_raises_an_error(tmp_path):  # its index is at the end
  path = tmp_path / "a.m4a"
  encode(path, tone(2.0)[None], RATE, "aac", "ipod")
  path.write_bytes(path.read_bytes()[:-2000])
  assert line(load_audio, path).startswith(f"{path}: ")


def touch(folder, *names):
  for name in names:
    (folder / name).write_bytes(b"x")


def test_a_file_is_found_as_itself_and_a_folder_gives_its_sound_files(tmp_path):
  touch(tmp_path, "talk.strange", "b.wav", "a.MP3", "c.txt", "._d.wav", "notes.md")
  (tmp_path / "deeper").mkdir()
  touch(tmp_path / "deeper", "e.wav")
  (tmp_path / "folder.wav").mkdir()
  assert find_audio_files(tmp_path / "talk.strange") == [tmp_path / "talk.strange"]
  assert [f.name for f in find_audio_files(tmp_path)] == ["a.MP3", "b.wav"]


def test_a_folder_is_searched_by_content_and_says_what_it_skips(tmp_path, caplog):
  for suffix, *options in RARER_FORMATS[:5]:
    encode(tmp_path / f"{suffix}.{suffix}", tone()[None], RATE, *options)
  (tmp_path / "untitled").write_bytes(wav_bytes(tone(rate=16_000)))
  (tmp_path / "damaged.wav").write_bytes(b"x")  # an error when it is read
  (tmp_path / "notes.txt").write_text("not a sound\n" * 99)
  (tmp_path / "strip.png").write_bytes(png_bytes())
  np.savez(tmp_path / "poses.npz", a=np.arange(999))
  with caplog.at_level("INFO", "sdt_jax.audio_file"):
    found = {f.name for f in find_audio_files(tmp_path)}
  sounds = {f"{f[0]}.{f[0]}" for f in RARER_FORMATS[:5]}
  assert found == sounds | {"untitled", "damaged.wav"}
  [message] = caplog.messages
  assert message.endswith("skipped, no sound: notes.txt, poses.npz, strip.png")


def test_a_list_gives_the_files_of_its_lines(tmp_path):
  (tmp_path / "in").mkdir()
  touch(tmp_path / "in", "ä b.wav", "c.flac")
  absolute = tmp_path / "in" / "c.flac"
  text = f"\ufeff# sounds\n\n  in/ä b.wav  \r\n{absolute}\n"
  (tmp_path / "list.txt").write_text(text, encoding="utf-8")
  files = find_audio_files(tmp_path / "list.txt")
  assert files == [tmp_path / "in" / "ä b.wav", absolute]


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("", "lists no sound files"),
    ("# nothing\n\n", "lists no sound files"),
    ("a.wav\n\nno.wav\n", "line 3: no.wav: no such file"),
    ("a.wav\n.\n", "line 2: .: no such file"),
    ("x" * 5000, "no such file"),
    ("a.wav\na.flac\n", "same stem"),
    ("a.wav\na.wav\n", "same stem"),
    (b"\xff\xfe\x00\x01", "cannot be read as a text file"),
  ],
)
def test_bad_lists_raise_an_error_with_the_reason(tmp_path, text, words):
  touch(tmp_path, "a.wav", "a.flac")
  path = tmp_path / "list.txt"
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  message = line(find_audio_files, path)
  assert message.startswith(f"{path}: ")
  assert words in message


def test_paths_that_give_no_sounds_raise_an_error(tmp_path):
  assert "no such file or folder" in line(find_audio_files, tmp_path / "no")
  assert "contains no sound files" in line(find_audio_files, tmp_path)
  touch(tmp_path, "a.wav", "a.mp4", "b.wav")  # equal stems
  message = line(find_audio_files, tmp_path)
  assert "a.mp4" in message
  assert "a.wav" in message


def test_importing_audio_file_does_not_import_numba():
  code = "import sys, sdt_jax.audio_file; print('numba' in sys.modules)"
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert out.stdout.strip() == "False", out.stderr


def test_known_suffixes_are_read():
  assert {f".{f[0]}" for f in FORMATS} | {".wav", ".flac"} <= set(audio_file.SUFFIXES)
