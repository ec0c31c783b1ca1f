"""The SAM app's library. Imports run one way: main -> server, infers -> transforms, imaging -> sam."""
