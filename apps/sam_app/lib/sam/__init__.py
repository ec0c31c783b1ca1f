"""The engine: SAM models, prompts, embeddings and prediction.

Knows nothing of MONAI Label, HTTP or DICOM, and of no files but checkpoints. This module imports nothing,
so that one part (the architecture of ``sam_tiny``, say) can be used without the others' dependencies.
"""
