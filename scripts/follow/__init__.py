"""Training of the network that follows an object through a volume, ``lib.sam.volume.follow_net``."""
