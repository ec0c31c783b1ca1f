"""The models: how each is built, where its checkpoint is, how that gets there."""
