"""Cache of image embeddings, in memory and on disk."""
