"""Every field there is, with its default; the experiment files set what differs."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """The fields of a run. The defaults are the hyper-parameters of SDT-BP."""
  c = ml_collections.ConfigDict()
  c.experiment = "voice2pose"  # or "pose2pose", the pose VAE
  c.seed = 0
  c.batch_size = 32  # over all devices; the last partial batch of an epoch is dropped
  c.num_epochs = 100
  # --pretrained: True leaves out the networks that only one of the two runs has
  c.pretrained_partial = False
  c.parallel = "jit"  # or "pmap": how the step is mapped over the devices
  # or "bf16": activations in bfloat16, for GPUs and TPUs; parameters, statistics,
  # losses and optimisers stay float32
  c.precision = "float32"  # products in JAX's default precision: on GPUs often TF32
  # steps that a device does without the host, where the data is on it; 0: one on CPUs,
  # log.every_steps elsewhere
  c.steps_at_once = 0

  c.dataset = ml_collections.ConfigDict()
  c.dataset.name = "synthetic"  # or "speech2gesture", a folder of data packs
  c.dataset.root = ""  # speech2gesture: the folder that holds <speaker>/*.csv
  c.dataset.speaker = "ada"
  # synthetic: how many clips to make for each split
  c.dataset.num_train_clips = 2048
  c.dataset.num_dev_clips = 256
  c.dataset.data_dir = "data"  # where the built data sets are kept
  # "published" tables, the "pack"'s own, or "auto": published where they fit the pack
  c.dataset.statistics = "auto"
  c.dataset.skip_bad_clips = False  # True: leave them out and count them
  c.dataset.cache_gb = 8.0  # train data that is smaller is held on every device
  c.dataset.num_threads = 1  # that read ahead of the training step

  c.pose = ml_collections.ConfigDict()
  c.pose.hierarchical = True  # hands relative to wrists, face to the nose tip

  c.generator = ml_collections.ConfigDict()
  # "bn", "in" or "in_star" (IN*: over the channels at each time step in 1-D)
  c.generator.norm = "in_star"
  c.generator.channels = 256  # of the 1-D U-Net and decoder
  c.generator.audio_channels = (64, 128, 256, 256)  # of the audio encoder's 4 stages

  c.template = ml_collections.ConfigDict()
  # "bp" (learnt with the generator), "vae" (from a trained pose VAE) or "none"
  c.template.kind = "bp"
  c.template.pose_vae = ""  # "vae": workdir of the pose2pose run on the same clips
  c.template.size = 32
  c.template.frame_wise = False  # True: one template for each frame of a clip
  c.template.kl_weight = 0.1  # the paper states 1, its code uses 0.1
  c.template.learning_rate = 1e-4

  c.discriminator = ml_collections.ConfigDict()
  c.discriminator.weight = 0.0  # of the GAN on motion; 0: no discriminator
  c.discriminator.learning_rate = 1e-4

  c.optimizer = ml_collections.ConfigDict()
  c.optimizer.learning_rate = 1e-4
  c.optimizer.b1 = 0.9
  c.optimizer.b2 = 0.999
  c.optimizer.milestones = (90, 98)  # epochs after which the rate is multiplied ...
  c.optimizer.decay = 0.1  # ... by this

  c.log = ml_collections.ConfigDict()
  c.log.every_steps = 20
  c.log.train_videos = 2  # sample videos per video epoch, with sound, beside the truth
  c.log.dev_videos = 8
  c.log.video_every_epochs = 1  # 0: none
  c.log.tensorboard_videos = False

  c.checkpoint = ml_collections.ConfigDict()
  c.checkpoint.every_epochs = 1
  c.checkpoint.every_steps = 0  # besides; 0: at the end of epochs alone
  c.checkpoint.every_minutes = 0.0  # besides, since the last one; 0: never by time
  c.checkpoint.keep_latest = 2
  c.checkpoint.keep_best = 1
  c.checkpoint.best_metric = "lip_sync"  # of the dev split, lowest is best

  c.debug = ml_collections.ConfigDict()
  c.debug.nans = False  # True: slow, but names the operation that makes a NaN
  return c
